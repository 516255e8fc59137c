//! Memory that a disk can write into directly.

use std::io;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// What direct reading asks of addresses and lengths, at most.
const ALIGNMENT: usize = 4096;

/// Bytes at an address, and with room for a length, that direct reading accepts. The memory is the system's own, not the
/// allocator's, whose heaps grow piece by piece while other threads wait, and is not touched before something is read into it.
pub(crate) struct Buffer {
    memory: NonNull<u8>,
    /// Bytes of it.
    size: usize,
    /// Bytes from the beginning that are initialized.
    len: usize,
}

// SAFETY: it owns its memory, as a vector does.
unsafe impl Send for Buffer {}
// SAFETY: shared, it can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Room for `bytes` bytes, rounded up.
    ///
    /// # Errors
    /// So much memory cannot be had.
    pub(crate) fn with_room_for(bytes: usize) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let size = bytes.max(1).checked_next_multiple_of(ALIGNMENT).ok_or_else(too_large)?;
        // SAFETY: the system chooses the place, so nothing is mapped over.
        let memory =
            unsafe { mmap_anonymous(null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        let memory = NonNull::new(memory.cast()).ok_or_else(too_large)?;
        Ok(Self { memory, size, len: 0 })
    }

    /// Lets `read` write more behind what is there. It returns what it has written, from the beginning of what it was given.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn fill<E>(
        &mut self,
        read: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> Result<&'a mut [u8], E>,
    ) -> Result<usize, E> {
        // SAFETY: the memory has this size, of which `len` bytes are initialized; uninitialized bytes may be seen as such.
        let rest =
            unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().add(self.len).cast(), self.size - self.len) };
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
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: mapped with this size, and nobody refers to it any more. It cannot fail then.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), self.size) };
    }
}

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
        let mut buffer = Buffer::with_room_for(5000).expect("memory");
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
    fn what_cannot_be_had_is_an_error() {
        assert!(Buffer::with_room_for(usize::MAX).is_err());
        assert!(Buffer::with_room_for(0).is_ok());
    }
}
