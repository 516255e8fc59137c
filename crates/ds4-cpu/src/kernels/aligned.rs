//! Buffers that begin at a cache line, as vector loads like it.

use bytemuck::{Pod, Zeroable};
use std::marker::PhantomData;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: a `Line` is 64 bytes without padding (its size equals its alignment), valid in any state.
unsafe impl Zeroable for Line {}
// SAFETY: as above; it is `Copy`, has no interior mutability and no references.
unsafe impl Pod for Line {}

/// A growable array of numbers that begins at a 64-byte boundary.
pub(crate) struct AlignedVec<T> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Default for AlignedVec<T> {
    fn default() -> AlignedVec<T> {
        AlignedVec::new()
    }
}

impl<T: Pod> AlignedVec<T> {
    pub fn new() -> AlignedVec<T> {
        AlignedVec { lines: Vec::new(), len: 0, of: PhantomData }
    }

    /// Changes the length; contents are unspecified (old values or zeros) afterwards.
    pub fn resize(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(64);
        if lines > self.lines.len() {
            // Refused here, it is refused below as well, with the usual message.
            let _ = ds4_gguf::reserve_huge(&mut self.lines, lines);
            self.lines.resize(lines, Line([0; 64]));
        }
        self.len = len;
    }

    pub fn as_slice(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}
