//! When the blocks of a recorded graph came where, by the card's clock: for measurements, with the feature `timeline`.

use super::Launch;

/// Readings of the clock per block, and blocks of a launch that take them, as `kernels/common.cuh` has it.
const MARKS: usize = 8;
const BLOCKS: usize = 256;
/// Launches of a graph that are noted.
const LAUNCHES: usize = 1024;
/// Bytes of device memory for all of them.
pub(super) const BYTES: usize = LAUNCHES * BLOCKS * MARKS * 8;

/// What the blocks of a launch noted.
#[derive(Clone, Debug)]
pub struct Noted {
    /// The kernel.
    pub kernel: &'static str,
    /// Per block nanoseconds: its start, the end of its waiting for the launches ahead, up to five places of the kernel's own, its end; 0 where it
    /// did not come.
    pub blocks: Vec<[u64; MARKS]>,
}

/// The launches of a graph.
#[derive(Default)]
pub(super) struct Recording {
    /// Device memory for the readings; 0: none yet.
    pub memory: u64,
    active: bool,
    launches: Vec<(&'static str, usize)>,
}

impl Recording {
    pub fn begin(&mut self) {
        self.active = true;
        self.launches.clear();
    }

    pub fn end(&mut self) {
        self.active = false;
    }

    /// Where the next launch notes its readings; 0: nowhere.
    pub fn next(&mut self, launch: &Launch) -> u64 {
        if !self.active || self.launches.len() == LAUNCHES {
            return 0;
        }
        let blocks = launch.grid.iter().map(|&n| n as usize).product::<usize>().min(BLOCKS);
        self.launches.push((launch.kernel, blocks));
        self.memory + ((self.launches.len() - 1) * BLOCKS * MARKS * 8) as u64
    }

    pub fn words(&self) -> usize {
        self.launches.len() * BLOCKS * MARKS
    }

    /// The readings by launch.
    pub fn noted(&self, words: &[u64]) -> Vec<Noted> {
        let (blocks, _) = words.as_chunks::<MARKS>();
        let each = self.launches.iter().zip(blocks.chunks(BLOCKS));
        each.map(|(&(kernel, count), blocks)| Noted { kernel, blocks: blocks[..count].to_vec() }).collect()
    }
}
