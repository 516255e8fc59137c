//! How fast this machine reads memory: the roof over every decode figure.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::pool::Pool;

/// Bytes that one task reads.
const PIECE: usize = 1 << 20;
/// Passes over the memory; the fastest counts, since only interruptions make a pass slower.
const PASSES: usize = 7;

/// Read bandwidth of `memory` with all of the pool's threads, in bytes per second. The memory should be several times
/// the last-level cache.
pub fn read_bandwidth(pool: &Pool, memory: &[u8]) -> f64 {
    let total = AtomicU64::new(0);
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let started = Instant::now();
        pool.run(memory.len().div_ceil(PIECE), |task| {
            let piece = &memory[task * PIECE..memory.len().min((task + 1) * PIECE)];
            total.fetch_add(sum(piece), Ordering::Relaxed);
        });
        best = best.min(started.elapsed().as_secs_f64());
    }
    black_box(total.into_inner());
    memory.len() as f64 / best
}

/// A sum that reads every byte and that the compiler turns into wide loads.
fn sum(piece: &[u8]) -> u64 {
    let (words, _) = piece.as_chunks::<8>();
    let mut lanes = [0u64; 16];
    for chunk in words.chunks_exact(16) {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    lanes.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        let mut memory = vec![0u8; 4096];
        memory[0] = 1;
        memory[4088] = 2;
        assert_eq!(sum(&memory), 3);
        let pool = Pool::new(2).expect("two threads");
        let speed = read_bandwidth(&pool, &memory);
        assert!(speed.is_finite() && speed > 0.0);
    }
}
