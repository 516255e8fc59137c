//! Reading a GGUF file.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Quoted};
use crate::metadata::Metadata;
use crate::parse::{At, Parsed, parse};
use crate::source::{Mapping, Source};
use crate::tensor::TensorInfo;

/// An open GGUF file: its metadata, its tensor table, and its bytes.
///
/// Opening maps the file and reads the header only; tensor data is read from disk when it is
/// touched. The header is validated completely, so that every later access is in bounds. Clones
/// share one mapping.
///
/// ```
/// use ds4_gguf::Gguf;
///
/// // A file without metadata and tensors: magic, version 3, two counts.
/// let mut bytes = b"GGUF\x03\0\0\0".to_vec();
/// bytes.extend([0; 16]);
/// let gguf = Gguf::from_vec("empty.gguf", bytes)?;
/// assert_eq!(gguf.tensors().len(), 0);
///
/// let error = Gguf::from_vec("cut.gguf", b"GGUF\x03\0".to_vec()).unwrap_err();
/// assert!(error.to_string().starts_with("cut.gguf: at byte 4: the file ends inside the version"));
/// # Ok::<(), ds4_gguf::Error>(())
/// ```
#[derive(Clone)]
pub struct Gguf {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    source: Source,
    alignment: u32,
    data_start: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// Maps and validates the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::NotAFile`] if it cannot be read, [`Error::Malformed`] if it is
    /// not a valid GGUF version 3 file of the supported types.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        let path = path.as_ref();
        let mapping = Mapping::open(path)?;
        Gguf::new(path.display().to_string(), Source::Mapped(mapping))
    }

    /// Reads a file that is part of the program, without a copy; `name` stands for it in messages.
    /// The bytes need no particular alignment.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Gguf, Error> {
        Gguf::new(name.to_owned(), Source::Static(bytes))
    }

    /// Reads a file from memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_vec(name: &str, bytes: Vec<u8>) -> Result<Gguf, Error> {
        Gguf::new(name.to_owned(), Source::Owned(bytes))
    }

    fn new(name: String, source: Source) -> Result<Gguf, Error> {
        let parsed: At<Parsed> = parse(source.bytes(), &name);
        match parsed {
            Err((offset, problem)) => Err(Error::Malformed { file: name, offset, problem }),
            Ok(Parsed { alignment, data_start, metadata, tensors, by_name }) => {
                Ok(Gguf { inner: Arc::new(Inner { name, source, alignment, data_start, metadata, tensors, by_name }) })
            }
        }
    }

    /// What messages call this file: its path, or the name given for bytes in memory.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Length of the file in bytes, as it was when it was opened.
    pub fn file_len(&self) -> u64 {
        self.inner.source.bytes().len() as u64
    }

    /// Alignment of tensor data within the file, in bytes.
    pub fn alignment(&self) -> u32 {
        self.inner.alignment
    }

    /// First byte of the data section.
    pub fn data_start(&self) -> u64 {
        self.inner.data_start
    }

    /// Keys and values in file order.
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.inner.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.by_name.get(name).map(|&i| &self.inner.tensors[i])
    }

    /// The tensor of this name, or an error that names the file.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn require_tensor(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.tensor(name).ok_or_else(|| Error::MissingTensor { file: self.inner.name.clone(), name: Quoted::new(name) })
    }

    /// The bytes of a tensor, aligned to nothing in particular.
    ///
    /// # Panics
    /// May panic (or return other bytes) if `info` comes from another file.
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        &self.inner.source.bytes()[range(info)]
    }

    /// Checks that the file still has the length that it had when it was opened. Bytes in memory
    /// always do.
    ///
    /// # Errors
    /// [`Error::Shrunk`], or [`Error::Io`] if the file's state cannot be read.
    pub fn verify_len(&self) -> Result<(), Error> {
        let Source::Mapped(mapping) = &self.inner.source else {
            return Ok(());
        };
        let (was, now) = mapping.lengths().map_err(|source| Error::Io {
            file: self.inner.name.clone(),
            action: "read the length",
            source,
        })?;
        if now < was {
            let file = self.inner.name.clone();
            return Err(Error::Shrunk { file, was, now });
        }
        Ok(())
    }

    /// The whole file, if it is mapped from disk: for devices that can work in the mapping's pages.
    pub fn mapping(&self) -> Option<&[u8]> {
        match &self.inner.source {
            Source::Mapped(mapping) => Some(mapping.map()),
            Source::Static(_) | Source::Owned(_) => None,
        }
    }

    /// Tells the operating system how a tensor's bytes will be used. Only a hint: it does nothing
    /// for bytes in memory, on platforms without such advice, or where the kernel declines.
    pub fn advise(&self, info: &TensorInfo, access: Access) {
        self.advise_range(range(info), access);
    }

    /// As [`Gguf::advise`], for the whole file.
    pub fn advise_all(&self, access: Access) {
        self.advise_range(0..self.inner.source.bytes().len(), access);
    }

    fn advise_range(&self, range: Range<usize>, access: Access) {
        #[cfg(unix)]
        if let Source::Mapped(mapping) = &self.inner.source {
            let advice = match access {
                Access::Normal => memmap2::Advice::Normal,
                Access::Sequential => memmap2::Advice::Sequential,
                Access::Random => memmap2::Advice::Random,
                Access::WillNeed => memmap2::Advice::WillNeed,
                #[cfg(target_os = "linux")]
                Access::HugePages => memmap2::Advice::HugePage,
                #[cfg(not(target_os = "linux"))]
                Access::HugePages => return,
            };
            // A refused hint costs speed, never correctness.
            let _ = mapping.map().advise_range(advice, range.start, range.len());
        }
        #[cfg(not(unix))]
        let _ = (range, access);
    }
}

/// How mapped bytes will be used; see [`Gguf::advise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No particular pattern: the system's default read-ahead.
    Normal,
    /// From front to back, once: read far ahead, drop early.
    Sequential,
    /// Here and there: no read-ahead.
    Random,
    /// Soon, all of it: begin to read now.
    WillNeed,
    /// Often: back it with huge pages where the file system can.
    HugePages,
}

/// The validated byte range of a tensor; it fits `usize` because it lies inside a slice.
fn range(info: &TensorInfo) -> Range<usize> {
    info.offset as usize..(info.offset + info.size) as usize
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("name", &self.inner.name)
            .field("file_len", &self.file_len())
            .field("keys", &self.inner.metadata.len())
            .field("tensors", &self.inner.tensors.len())
            .finish()
    }
}
