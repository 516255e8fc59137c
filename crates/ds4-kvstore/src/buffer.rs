//! Memory that a disk can write into directly.

use std::io;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// What direct reading asks of addresses and lengths, at most.
const ALIGNMENT: usize = 4096;

/// What the system's large pages are aligned to, nearly everywhere. Where they are larger, they are not used.
const LARGE: usize = 2 << 20;

/// Memory of the system's own, not of the allocator's, whose heaps grow piece by piece while other threads wait. It is not touched
/// before something is read into it, and in large pages where it is long enough for some: the system then clears two megabytes at
/// once, and a disk is given one address instead of five hundred.
struct Mapping {
    memory: NonNull<u8>,
    size: usize,
    /// Bytes before the first that is used.
    begin: usize,
}

// SAFETY: it owns its memory, as a vector does.
unsafe impl Send for Mapping {}
// SAFETY: it gives out nothing by itself; buffers share it in parts that do not overlap.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Room for `bytes` bytes, a multiple of [`ALIGNMENT`] and not 0.
    fn new(bytes: usize) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let is_large = bytes >= LARGE;
        let size = if is_large { bytes.checked_add(LARGE).ok_or_else(too_large)? } else { bytes };
        // SAFETY: the system chooses the place, so nothing is mapped over.
        let memory =
            unsafe { mmap_anonymous(null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        let memory = NonNull::new(memory.cast::<u8>()).ok_or_else(too_large)?;
        let begin = if is_large { memory.as_ptr().align_offset(LARGE) } else { 0 };
        let mapping = Self { memory, size, begin };
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if is_large {
            // SAFETY: the range is mapped, and only how it is backed changes. Where this is not known, small pages do.
            let _ = unsafe { madvise(mapping.at(0).cast(), bytes, Advice::LinuxHugepage) };
        }
        Ok(mapping)
    }

    /// The address of a byte that is used.
    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(self.begin + offset <= self.size);
        // SAFETY: callers stay within what they asked for, which lies behind `begin`.
        unsafe { self.memory.as_ptr().add(self.begin + offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this size, and nobody refers to it any more. It cannot fail then.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), self.size) };
    }
}

/// Where files that are read together are put: side by side, so that they have large pages. Each goes back to the system by itself.
#[derive(Default)]
pub struct ReadMemory {
    /// Files that are still to come.
    files: usize,
    shared: Option<Arc<Mapping>>,
    /// Bytes that are taken of it, and that it has.
    used: usize,
    size: usize,
}

impl ReadMemory {
    /// For `files` files of about the same length. More or longer ones get memory of their own.
    pub fn for_files(files: usize) -> Self {
        Self { files, ..Self::default() }
    }

    /// Room for `bytes` bytes, rounded up.
    ///
    /// # Errors
    /// So much memory cannot be had.
    pub(crate) fn take(&mut self, bytes: usize) -> io::Result<Buffer> {
        let size = bytes.max(1).checked_next_multiple_of(ALIGNMENT).ok_or(io::ErrorKind::OutOfMemory)?;
        let files = std::mem::replace(&mut self.files, 0);
        if files > 1 {
            self.size = size.checked_mul(files).ok_or(io::ErrorKind::OutOfMemory)?;
            self.shared = Some(Arc::new(Mapping::new(self.size)?));
        }
        if let Some(mapping) = self.shared.as_ref().filter(|_| size <= self.size - self.used) {
            let begin = self.used;
            self.used += size;
            return Ok(Buffer { mapping: Arc::clone(mapping), begin, size, len: 0 });
        }
        Ok(Buffer { mapping: Arc::new(Mapping::new(size)?), begin: 0, size, len: 0 })
    }
}

/// Bytes at an address, and with room for a length, that direct reading accepts.
pub(crate) struct Buffer {
    mapping: Arc<Mapping>,
    /// Where its part of the mapping begins.
    begin: usize,
    /// Bytes of it.
    size: usize,
    /// Bytes from the beginning that are initialized.
    len: usize,
}

impl Buffer {
    /// Lets `read` write more behind what is there. It returns what it has written, from the beginning of what it was given.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn fill<E>(
        &mut self,
        read: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> Result<&'a mut [u8], E>,
    ) -> Result<usize, E> {
        // SAFETY: this part of the mapping has this size and no other buffer; of it `len` bytes are initialized; uninitialized bytes
        // may be seen as such.
        let rest = unsafe {
            std::slice::from_raw_parts_mut(self.mapping.at(self.begin + self.len).cast(), self.size - self.len)
        };
        let begin = rest.as_ptr();
        let written = read(rest)?;
        assert!(std::ptr::eq(written.as_ptr(), begin.cast()), "written from the beginning on");
        let more = written.len();
        // Initialized: `written` is the proof, and it cannot be longer than what it is a part of.
        self.len += more;
        Ok(more)
    }

    /// Bytes that are there.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: so many bytes are initialized.
        unsafe { std::slice::from_raw_parts(self.mapping.at(self.begin), self.len) }
    }
}

impl Drop for Buffer {
    /// Gives its memory back although others may still need theirs beside it.
    fn drop(&mut self) {
        if Arc::strong_count(&self.mapping) > 1 {
            // SAFETY: whole pages that are this buffer's alone, whose contents nobody needs any more. If it fails, they go with the
            // mapping.
            let _ = unsafe { madvise(self.mapping.at(self.begin).cast(), self.size, DISCARD) };
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const DISCARD: Advice = Advice::LinuxDontNeed;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const DISCARD: Advice = Advice::DontNeed;

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `bytes` and says so.
    fn put<'a>(room: &'a mut [MaybeUninit<u8>], bytes: &[u8]) -> &'a mut [u8] {
        let room = &mut room[..bytes.len()];
        room.iter_mut().zip(bytes).for_each(|(place, &byte)| {
            place.write(byte);
        });
        // SAFETY: all of it was written just now.
        unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len()) }
    }

    #[test]
    fn it_is_aligned_and_grows_by_what_is_written() {
        let mut buffer = ReadMemory::default().take(5000).expect("memory");
        assert!(buffer.as_ref().is_empty());
        assert_eq!(buffer.as_ref().as_ptr().addr() % ALIGNMENT, 0);
        for part in [&b"abc"[..], b"", b"defg"] {
            let written = buffer.fill(|room| Ok::<_, ()>(put(room, part)));
            assert_eq!(written, Ok(part.len()));
        }
        assert_eq!(buffer.as_ref(), b"abcdefg");
        assert_eq!(buffer.fill(|_| Err::<&mut [u8], _>(1)), Err(1));
        assert_eq!(buffer.len(), 7);
        let room = buffer.fill(|room| {
            assert_eq!(room.len(), 2 * ALIGNMENT - 7);
            Ok::<_, ()>(put(room, &[9; 2 * ALIGNMENT - 7]))
        });
        assert_eq!((room, buffer.len()), (Ok(2 * ALIGNMENT - 7), 2 * ALIGNMENT));
    }

    #[test]
    fn files_read_together_lie_side_by_side_and_go_one_by_one() {
        let mut memory = ReadMemory::for_files(3);
        let sizes = [3 << 20, (3 << 20) - 4095, 5000, 4 << 20, 1 << 20];
        let mut buffers: Vec<Buffer> = sizes.map(|size| memory.take(size).expect("memory")).into();
        for (number, buffer) in buffers.iter_mut().enumerate() {
            let filled = buffer.fill(|room| Ok::<_, ()>(put(room, &vec![number as u8 + 1; sizes[number]])));
            assert_eq!(filled, Ok(sizes[number]));
        }
        let at = |number: usize| buffers[number].as_ref().as_ptr().addr();
        assert_eq!(at(0) % LARGE, 0);
        assert_eq!((at(1) - at(0), at(2) - at(0)), (3 << 20, 6 << 20));
        let is_shared = |number: usize| Arc::ptr_eq(&buffers[number].mapping, &buffers[0].mapping);
        // The fourth is longer than what is left; what is left stays for the fifth.
        assert_eq!([1, 2, 3, 4].map(is_shared), [true, true, false, true]);
        while !buffers.is_empty() {
            // The others keep what they have.
            drop(buffers.remove(buffers.len() / 2));
            for buffer in &buffers {
                let bytes = buffer.as_ref();
                assert!(bytes.iter().all(|&byte| byte == bytes[0]) && bytes[0] > 0);
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        for files in [0, 1, 2, usize::MAX] {
            assert!(ReadMemory::for_files(files).take(usize::MAX).is_err());
            assert!(ReadMemory::for_files(files).take(usize::MAX / 2).is_err());
        }
        assert!(ReadMemory::default().take(0).is_ok());
    }
}
