//! How fast a card reads its memory.

use std::sync::Arc;
use std::time::Instant;

use crate::device::{Device, DeviceError, Launch, Memory};
use crate::params::ReadAll;

/// Many times any card's cache.
const MOST_BYTES: u64 = 4 << 30;
/// Less would measure the cache.
const FEWEST_BYTES: u64 = 512 << 20;
const BLOCKS: u32 = 1056;
const THREADS: u32 = 256;
const ROUNDS: usize = 5;
/// Words at the beginning, in the middle and near the end of what is read: whoever leaves something out misses one.
const MARKS: [u32; 3] = [0x8000_0001, 0x0240_0400, 0x1001_1000];

/// Bytes per second that the device reads: the best of five rounds over memory that is free now. `None` where too little is free to
/// tell it from the cache.
///
/// # Errors
/// A failing device.
pub fn read_bandwidth(device: &Arc<dyn Device>) -> Result<Option<f64>, DeviceError> {
    let bytes = (device.memory()?.free / 2).min(MOST_BYTES) & !0xFFFF;
    if bytes < FEWEST_BYTES {
        return Ok(None);
    }
    let memory = Memory::new(device, bytes as usize)?;
    device.fill(memory.address(), 0, memory.bytes())?;
    for (at, word) in MARKS.into_iter().enumerate() {
        device.write(memory.address() + at as u64 * (bytes / 2 - 4), &word.to_le_bytes())?;
    }
    let sums = Memory::new(device, (BLOCKS * THREADS * 4) as usize)?;
    let mut best = f64::INFINITY;
    // The first round brings the kernel to the card.
    for _ in 0..=ROUNDS {
        device.synchronize()?;
        let started = Instant::now();
        read_all(device, &memory, &sums)?;
        device.synchronize()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    let mut words = vec![0; sums.bytes()];
    device.read(sums.address(), &mut words)?;
    let found = words.chunks_exact(4).fold(0, |all, w| all ^ u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
    if found != MARKS.into_iter().fold(0, |all, word| all ^ word) {
        return Err(DeviceError::new("the GPU did not read all of its memory when its bandwidth was measured"));
    }
    Ok(Some(bytes as f64 / best))
}

/// Reads `memory` once; `sums` has a word for each thread.
fn read_all(device: &Arc<dyn Device>, memory: &Memory, sums: &Memory) -> Result<(), DeviceError> {
    let launch = Launch { kernel: "read_all", grid: [BLOCKS, 1, 1], threads: THREADS, shared: 0 };
    let params = ReadAll { from: memory.address(), sums: sums.address(), pieces: memory.bytes() as u64 / 16 };
    // SAFETY: the parameters are the kernel's, and both allocations outlive the launch: callers wait for it, and freeing memory
    // waits for work under way.
    #[allow(unsafe_code)]
    unsafe {
        device.launch(&launch, bytemuck::bytes_of(&params))
    }
}
