//! The bytes of a file: mapped from disk, built into the program, or owned.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::Error;
use crate::truncation_guard::Registration;

/// Holder of a whole file's bytes.
pub(crate) enum Source {
    /// A file mapped into memory; only the pages that are touched get read.
    Mapped(Mapping),
    /// Bytes that are part of the program.
    Static(&'static [u8]),
    /// Bytes on the heap.
    Owned(Vec<u8>),
}

impl Source {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Source::Mapped(mapping) => &mapping.map,
            Source::Static(bytes) => bytes,
            Source::Owned(bytes) => bytes,
        }
    }
}

/// A read-only mapping of a whole file, known to the truncation guard while it lives.
pub(crate) struct Mapping {
    // Fields drop in order: the guard must forget the addresses before they are unmapped.
    _registration: Registration,
    map: memmap2::Mmap,
    file: File,
}

impl Mapping {
    /// Maps the file at `path` without reading it.
    pub fn open(path: &Path) -> Result<Mapping, Error> {
        let name = path.display().to_string();
        let io_error = |action| {
            let file = name.clone();
            move |source: io::Error| Error::Io { file, action, source }
        };
        // Looked at before opening, because opening a pipe would wait for its writer.
        let kind = std::fs::metadata(path).map_err(io_error("open"))?;
        if !kind.is_file() {
            return Err(Error::NotAFile {
                file: name,
                kind: match kind.is_dir() {
                    true => "a directory",
                    false => "a device or pipe",
                },
            });
        }
        let file = File::open(path).map_err(io_error("open"))?;
        // SAFETY: the mapping is read-only and private to this process. Another process could
        // still write to the file while it is mapped; as with every program that maps its weights,
        // that is the user's promise not to do so. No code here relies on two reads of one byte
        // being equal for memory safety: what the parser learned is kept in owned values, and the
        // ranges that it checked concern the mapping's length, which cannot change. A file that is
        // cut short raises SIGBUS, which `truncation_guard` reports.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io_error("map"))?;
        Ok(Mapping { _registration: Registration::new(&map, &file, &name), map, file })
    }

    /// Length of the mapping and present length of the file, both in bytes.
    pub fn lengths(&self) -> io::Result<(u64, u64)> {
        Ok((self.map.len() as u64, self.file.metadata()?.len()))
    }

    pub fn map(&self) -> &memmap2::Mmap {
        &self.map
    }
}
