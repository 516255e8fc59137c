//! The operations on files that the store is made of, so that tests can stop a machine between any two of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use bytes::Bytes;

#[cfg(unix)]
pub use crate::buffer::ReadMemory;

/// Where files that are read together are put: here the allocator's memory.
#[cfg(not(unix))]
#[derive(Default)]
pub struct ReadMemory;

#[cfg(not(unix))]
impl ReadMemory {
    /// For `files` files.
    pub fn for_files(_files: usize) -> Self {
        Self
    }
}

/// A file system.
///
/// What [`write`](Self::write) wrote is durable after [`sync`](Self::sync), and a name that was given or taken after
/// [`sync_folder`](Self::sync_folder); before that, a power failure may undo it in any order.
pub trait Storage: Send + Sync {
    /// Makes a folder that only its owner can enter, and those above it. It may exist.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Writes a new file that only its owner can read, replacing an old one.
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()>;

    /// Makes a file's contents durable.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Reads a whole file, into `memory` if that is of use.
    ///
    /// # Errors
    /// The system's, and `InvalidData` for a file of more than `most` bytes.
    fn read(&self, path: &Path, most: u64, memory: &mut ReadMemory) -> io::Result<Bytes>;

    /// The names in a folder with their sizes; none if there is no such folder.
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>>;
}

/// The computer's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Storage for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = private().create(true).truncate(true).open(path)?;
        parts.iter().try_for_each(|part| file.write_all(part))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        // Windows has no such call.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn read(&self, path: &Path, most: u64, memory: &mut ReadMemory) -> io::Result<Bytes> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        if len > most {
            return Err(ErrorKind::InvalidData.into());
        }
        read_whole(file, usize::try_from(len).map_err(|_| ErrorKind::OutOfMemory)?, memory)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A file that vanishes meanwhile, or whose name is no text, is not ours.
            if let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) {
                found.push((name, metadata.len()));
            }
        }
        Ok(found)
    }
}

/// Options for a file that only its owner can read.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Files of this size and more are read past the system's cache: the memory that they are read into is their cache.
#[cfg(any(target_os = "linux", target_os = "android"))]
const DIRECT_FROM: usize = 128 << 10;

/// Reads a file of `len` bytes. In one piece and directly into the memory where it stays, which many files are read several times as
/// quickly with as through the system's cache.
#[cfg(unix)]
fn read_whole(file: File, len: usize, memory: &mut ReadMemory) -> io::Result<Bytes> {
    let mut buffer = memory.take(len)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if len >= DIRECT_FROM {
        // A file system that cannot do it refuses here or below.
        let _ = rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::DIRECT);
    }
    while buffer.len() < len {
        match buffer.fill(|room| rustix::io::read(&file, room).map(|(written, _)| written)) {
            // Shorter than it was.
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Not directly, then; or no further directly, behind a part that ended between two sectors.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Err(rustix::io::Errno::INVAL) if is_direct(&file) => {
                rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Bytes::from_owner(buffer))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_direct(file: &File) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::DIRECT))
}

#[cfg(not(unix))]
fn read_whole(mut file: File, len: usize, _: &mut ReadMemory) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| ErrorKind::OutOfMemory)?;
    io::Read::read_to_end(&mut io::Read::take(&mut file, len as u64), &mut bytes)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_lengths_are_read_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let mut memory = ReadMemory::for_files(3);
        let mut read = |path: &Path, most| Disk.read(path, most, &mut memory);
        for len in [0, 1, 4096, (128 << 10) - 1, 128 << 10, (1 << 20) + 1, 3 * 4096 * 100 + 511] {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
            Disk.write(&path, &[&bytes]).expect("room");
            assert!(read(&path, len as u64).expect("a file") == bytes, "{len}");
            if len > 0 {
                let error = read(&path, len as u64 - 1).expect_err("too long");
                assert_eq!(error.kind(), ErrorKind::InvalidData);
            }
        }
        assert_eq!(read(&folder.path().join("none"), 9).expect_err("not there").kind(), ErrorKind::NotFound);
    }
}
