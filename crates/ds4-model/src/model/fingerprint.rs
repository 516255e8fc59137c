//! What tells a model from all others: for caches, which must never give one model's states to another.
//!
//! Hashed are the hyperparameters, the tensor table, and the data: all of a small file; of a large one both ends of each tensor and
//! blocks of every part of it, at least one in each expert's matrix. Another training, another quantization or an exchanged expert
//! changes bytes everywhere in what it changes, so it changes blocks; what may go unnoticed is a few bytes edited by hand between them.
//! Reading all 81 GB before the first answer would take longer than what the cache saves.

use std::hash::Hasher;
use std::ops::Range;
use std::thread;

use ds4_gguf::{Gguf, TensorInfo};
use twox_hash::XxHash3_64;

use crate::Config;

/// Up to this size everything is hashed.
const WHOLE: u64 = 256 << 20;
/// A block that is hashed of a large tensor: what a disk reads at least.
const BLOCK: usize = 4096;
/// Fewest blocks between both ends of a large tensor.
const BLOCKS: usize = 16;
/// Threads: most of the time is waiting for the disk.
const THREADS: usize = 8;

/// The fingerprint of a model.
pub(super) fn fingerprint(gguf: &Gguf, config: &Config) -> u64 {
    let tensors = gguf.tensors();
    let is_small = tensors.iter().map(|info| info.size).sum::<u64>() <= WHOLE;
    let hash_some = |first: usize| -> Vec<u64> {
        tensors.iter().skip(first).step_by(THREADS).map(|info| hash_tensor(info, gguf.data(info), is_small)).collect()
    };
    let parts: Vec<Vec<u64>> = thread::scope(|scope| {
        let hash_some = &hash_some;
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || hash_some(first))).collect();
        // A thread that panicked has no hash; the panic goes on here.
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut hash = XxHash3_64::new();
    // Every field by name: a field more is another fingerprint, which costs a cache and nothing else.
    hash.write(format!("{config:?}").as_bytes());
    for number in 0..tensors.len() {
        hash.write(&parts[number % THREADS][number / THREADS].to_le_bytes());
    }
    hash.finish()
}

fn hash_tensor(info: &TensorInfo, data: &[u8], is_small: bool) -> u64 {
    let mut hash = XxHash3_64::new();
    hash.write(info.name.as_bytes());
    hash.write(&info.ty.id().to_le_bytes());
    for dim in info.dims() {
        hash.write(&dim.to_le_bytes());
    }
    if is_small {
        hash.write(data);
    } else {
        let parts = info.dims().get(2).map_or(1, |&slabs| usize::try_from(slabs).unwrap_or(1));
        blocks(data.len(), parts.max(BLOCKS)).for_each(|block| hash.write(&data[block]));
    }
    hash.finish()
}

/// The blocks of `len` bytes that are hashed: both ends, and one somewhere in each of `parts` equal parts. All of it if that is not
/// less.
fn blocks(len: usize, parts: usize) -> impl Iterator<Item = Range<usize>> {
    let sampled = if len > (parts + 2) * BLOCK { parts } else { 0 };
    let ends = if sampled == 0 { [0..len, len..len] } else { [0..BLOCK, len - BLOCK..len] };
    let middle = (0..sampled).map(move |part| {
        // No multiplication overflows: a part is a file's.
        let (from, to) = (len / sampled * part, len / sampled * (part + 1));
        // Not always at the same place: what repeats with the rows of a matrix would be seen once.
        let spread = (part as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let at = from + (spread as usize) % (to - from - BLOCK + 1);
        at..at + BLOCK
    });
    ends.into_iter().chain(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_large_tensor_is_looked_at() {
        let (len, parts) = (1 << 24, 16);
        let found: Vec<_> = blocks(len, parts).collect();
        assert_eq!((found[0].clone(), found[1].clone()), (0..BLOCK, len - BLOCK..len));
        for (part, block) in found[2..].iter().enumerate() {
            assert_eq!(block.len(), BLOCK);
            assert!(block.start >= len / parts * part && block.end <= len / parts * (part + 1), "{part}: {block:?}");
        }
        let covered = |len: usize| blocks(len, parts).map(|block| block.len()).sum::<usize>();
        for len in [0, 1, BLOCK, (parts + 2) * BLOCK] {
            assert_eq!(covered(len), len, "what is short is hashed whole");
        }
        assert_eq!(covered((parts + 2) * BLOCK + 1), (parts + 2) * BLOCK);
    }
}
