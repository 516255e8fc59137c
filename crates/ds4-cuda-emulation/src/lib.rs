//! A [`Device`] that runs the CUDA kernels on the CPU, for tests.
//!
//! The kernels are compiled as plain C++ against `shim/cuda_emulation.h`. Threads of a block are fibers that change over at
//! synchronization points in an order drawn from a seed: code that relies on an order which CUDA does not promise gives
//! other results from seed to seed. Device memory is host memory, filled with a pattern when it is allocated, so that reading
//! what nobody wrote shows.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ds4_cuda::device::{Device, DeviceError, DeviceMemory, Graph, Launch};

unsafe extern "C" {
    fn ds4_emulation_launch(
        name: *const std::ffi::c_char,
        grid: *const u32,
        block: *const u32,
        shared: usize,
        params: *const u8,
        params_bytes: usize,
        seed: u64,
    ) -> i32;
}

/// Kernels run as if they had the card for themselves: their shared memory is static.
static RUNNING: Mutex<()> = Mutex::new(());

/// The emulated device.
pub struct EmulatedDevice {
    seed: u64,
    memory: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    allocations: HashMap<u64, Allocation>,
    used: u64,
    recording: Option<Vec<Recorded>>,
    graphs: Vec<Vec<Recorded>>,
}

struct Allocation {
    words: Box<[UnsafeCell<u128>]>,
}

// SAFETY: the words are only touched through raw pointers under the state's lock or by a running kernel.
unsafe impl Send for Allocation {}

#[derive(Clone)]
struct Recorded {
    launch: Launch,
    params: Vec<u8>,
}

impl EmulatedDevice {
    /// A device with `memory` bytes. Seed 0 runs threads and blocks in their order; others give other orders. With an odd seed it
    /// has the shared memory and the instructions of compute capability 9.0, with an even one those of 8.0.
    pub fn new(memory: u64, seed: u64) -> Self {
        Self { seed, memory, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, recorded: &Recorded) -> Result<(), DeviceError> {
        let launch = &recorded.launch;
        let name = CString::new(launch.kernel).map_err(|_| DeviceError::new("a kernel name with a zero byte"))?;
        let _alone = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the launcher checks name and size of the parameters; that their addresses are good is the caller's promise
        // (`Device::launch`).
        let code = unsafe {
            ds4_emulation_launch(
                name.as_ptr(),
                launch.grid.as_ptr(),
                [launch.threads, 1, 1].as_ptr(),
                launch.shared as usize,
                recorded.params.as_ptr(),
                recorded.params.len(),
                self.seed,
            )
        };
        match code {
            0 => Ok(()),
            1 => Err(DeviceError::new(format!("there is no kernel {}", launch.kernel))),
            _ => Err(DeviceError::new(format!(
                "kernel {} takes other parameters than the {} bytes given",
                launch.kernel,
                recorded.params.len()
            ))),
        }
    }

    /// Checks that `bytes` bytes at `address` belong to one allocation.
    fn check(state: &State, address: u64, bytes: usize) -> Result<(), DeviceError> {
        let inside = state.allocations.iter().any(|(&base, allocation)| {
            address >= base && address + bytes as u64 <= base + allocation.words.len() as u64 * 16
        });
        if inside { Ok(()) } else { Err(DeviceError::new(format!("{bytes} bytes at {address:#x} are not allocated"))) }
    }
}

impl Device for EmulatedDevice {
    fn name(&self) -> String {
        "emulated CUDA device".to_owned()
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        let used = self.state().used;
        Ok(DeviceMemory { free: self.memory.saturating_sub(used), total: self.memory })
    }

    fn multiprocessors(&self) -> u32 {
        // Few enough that blocks of the tests' small models have several units each.
        3
    }

    fn shared_memory_limit(&self) -> usize {
        if self.seed.is_multiple_of(2) { 163 << 10 } else { 227 << 10 }
    }

    fn has_warpgroups(&self) -> bool {
        !self.seed.is_multiple_of(2)
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        let mut state = self.state();
        if state.used + bytes as u64 > self.memory {
            return Err(DeviceError::OutOfMemory { asked: bytes as u64, free: self.memory - state.used });
        }
        let words = (0..bytes.div_ceil(16).max(1)).map(|_| UnsafeCell::new(u128::from_ne_bytes([0xCB; 16]))).collect();
        let allocation = Allocation { words };
        let address = allocation.words.as_ptr() as u64;
        state.used += bytes as u64;
        state.allocations.insert(address, allocation);
        Ok(address)
    }

    fn free(&self, address: u64, bytes: usize) {
        let mut state = self.state();
        if state.allocations.remove(&address).is_some() {
            state.used -= bytes as u64;
        }
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let state = self.state();
        Self::check(&state, to, bytes.len())?;
        // SAFETY: checked to be inside an allocation, and no kernel runs while the state is locked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn read(&self, from: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let state = self.state();
        Self::check(&state, from, out.len())?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        let state = self.state();
        Self::check(&state, from, bytes)?;
        Self::check(&state, to, bytes)?;
        // SAFETY: both ranges are inside allocations, and no kernel runs while the state is locked.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<(), DeviceError> {
        let state = self.state();
        Self::check(&state, at, bytes)?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(at as *mut u8, byte, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), DeviceError> {
        let recorded = Recorded { launch: *launch, params: params.to_vec() };
        let mut state = self.state();
        if let Some(recording) = &mut state.recording {
            recording.push(recorded);
            return Ok(());
        }
        self.run(&recorded)
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        self.state().recording = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, DeviceError> {
        let mut state = self.state();
        let recorded = state.recording.take().ok_or_else(|| DeviceError::new("nothing is being recorded"))?;
        state.graphs.push(recorded);
        Ok(Graph(state.graphs.len() as u64))
    }

    fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        let state = self.state();
        let recorded = &state.graphs[graph.0 as usize - 1];
        recorded.iter().try_for_each(|launch| self.run(launch))
    }

    fn drop_graph(&self, _graph: Graph) {}

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
