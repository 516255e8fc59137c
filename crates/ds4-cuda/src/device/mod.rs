//! What the backend needs of a device: memory, copies, kernels by name, recorded launches.
//!
//! [`cuda::CudaDevice`] is the real one. Tests run the same backend on one that plays it on the CPU.

pub(crate) mod counting;
pub mod cuda;
mod image;
#[cfg(feature = "timeline")]
pub mod timeline;

use std::sync::Arc;

use ds4_model::ModelError;

/// Why the device refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeviceError {
    /// Memory that is not there.
    #[error(
        "the GPU has no room for {} more MiB ({} MiB are free); close other programs that use it, or ask for a shorter \
         context or fewer sequences", .asked >> 20, .free >> 20
    )]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes free.
        free: u64,
    },
    /// Anything else, in a sentence.
    #[error("{0}")]
    Failed(String),
}

impl DeviceError {
    /// A failure in words.
    pub fn new(words: impl Into<String>) -> Self {
        Self::Failed(words.into())
    }
}

impl From<DeviceError> for ModelError {
    fn from(error: DeviceError) -> Self {
        ModelError::Device(error.to_string())
    }
}

/// A kernel launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// Recorded launches.
#[derive(Debug)]
pub struct Graph(pub u64);

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Not in use.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// A device. Everything happens in the order of the calls; `write` has read its bytes when it returns, `read` waits.
pub trait Device: Send + Sync {
    /// What to call it.
    fn name(&self) -> String;

    /// Its memory.
    ///
    /// # Errors
    /// A failing device.
    fn memory(&self) -> Result<DeviceMemory, DeviceError>;

    /// Multiprocessors: blocks that certainly run at the same time.
    fn multiprocessors(&self) -> u32;

    /// Most bytes of shared memory that a block can have.
    fn shared_memory_limit(&self) -> usize;

    /// Whether it has matrix instructions of whole warpgroups (`wgmma.cuh`), which only compute capability 9.0 has.
    fn has_warpgroups(&self) -> bool;

    /// Takes memory, aligned to 256 bytes on a GPU. What it holds is undefined.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`]; a failing device.
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError>;

    /// Gives memory back that [`allocate`](Self::allocate) gave.
    fn free(&self, address: u64, bytes: usize);

    /// Copies to the device.
    ///
    /// # Errors
    /// A failing device.
    fn write(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from the device.
    ///
    /// # Errors
    /// A failing device, now or in anything before.
    fn read(&self, from: u64, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies on the device.
    ///
    /// # Errors
    /// A failing device.
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError>;

    /// Sets bytes.
    ///
    /// # Errors
    /// A failing device.
    fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<(), DeviceError>;

    /// Starts a kernel.
    ///
    /// # Safety
    /// `params` is the kernel's parameter struct, and the memory that its addresses name is allocated, large enough for
    /// the launch, and stays so until the kernel has run.
    ///
    /// # Errors
    /// An unknown kernel; a failing device.
    unsafe fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), DeviceError>;

    /// From here on launches are recorded instead of started.
    ///
    /// # Errors
    /// A failing device.
    fn begin_capture(&self) -> Result<(), DeviceError>;

    /// Ends the recording.
    ///
    /// # Errors
    /// A failing device.
    fn end_capture(&self) -> Result<Graph, DeviceError>;

    /// Starts everything recorded. The promises of [`launch`](Self::launch) still have to hold.
    ///
    /// # Errors
    /// A failing device.
    fn replay(&self, graph: &Graph) -> Result<(), DeviceError>;

    /// Forgets a recording.
    fn drop_graph(&self, graph: Graph);

    /// Waits for everything.
    ///
    /// # Errors
    /// A failing device, now or in anything before.
    fn synchronize(&self) -> Result<(), DeviceError>;
}

/// Device memory that is given back when dropped.
pub struct Memory {
    device: Arc<dyn Device>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// Takes memory; nothing is asked of the device for zero bytes.
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Self, DeviceError> {
        let address = if bytes == 0 { 0 } else { device.allocate(bytes)? };
        Ok(Self { device: Arc::clone(device), address, bytes })
    }

    /// Takes memory full of zeros.
    ///
    /// # Errors
    /// No memory.
    pub fn zeroed(device: &Arc<dyn Device>, bytes: usize) -> Result<Self, DeviceError> {
        let memory = Self::new(device, bytes)?;
        if bytes > 0 {
            device.fill(memory.address, 0, bytes)?;
        }
        Ok(memory)
    }

    /// Takes memory and copies `values` into it.
    ///
    /// # Errors
    /// No memory.
    pub fn of<T: bytemuck::Pod>(device: &Arc<dyn Device>, values: &[T]) -> Result<Self, DeviceError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let memory = Self::new(device, bytes.len())?;
        if !bytes.is_empty() {
            device.write(memory.address, bytes)?;
        }
        Ok(memory)
    }

    /// Its address; 0 for no bytes.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.address != 0 {
            self.device.free(self.address, self.bytes);
        }
    }
}
