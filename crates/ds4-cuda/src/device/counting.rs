//! A device that only counts: what something takes is found by making it here.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Device, DeviceError, DeviceMemory, Graph, Launch};

/// Counts the bytes that are allocated and does nothing else.
#[derive(Default)]
pub(crate) struct CountingDevice {
    used: AtomicU64,
}

/// Drivers give memory in pieces of this size.
const GRANULE: u64 = 512;

impl CountingDevice {
    /// Bytes allocated and not given back.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl Device for CountingDevice {
    fn name(&self) -> String {
        "counting".to_owned()
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        Ok(DeviceMemory { free: u64::MAX, total: u64::MAX })
    }

    fn multiprocessors(&self) -> u32 {
        1
    }

    fn shared_memory_limit(&self) -> usize {
        0
    }

    fn has_warpgroups(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.used.fetch_add((bytes as u64).next_multiple_of(GRANULE), Ordering::Relaxed);
        // Any address that is not null: nobody looks at it.
        Ok(GRANULE)
    }

    fn free(&self, _address: u64, bytes: usize) {
        self.used.fetch_sub((bytes as u64).next_multiple_of(GRANULE), Ordering::Relaxed);
    }

    fn write(&self, _to: u64, _bytes: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn read(&self, _from: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        out.fill(0);
        Ok(())
    }

    fn copy(&self, _from: u64, _to: u64, _bytes: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn fill(&self, _at: u64, _byte: u8, _bytes: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    unsafe fn launch(&self, _launch: &Launch, _params: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, DeviceError> {
        Ok(Graph(0))
    }

    fn replay(&self, _graph: &Graph) -> Result<(), DeviceError> {
        Ok(())
    }

    fn drop_graph(&self, _graph: Graph) {}

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
