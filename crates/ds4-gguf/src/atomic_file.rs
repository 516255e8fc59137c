//! A file that appears under its name complete, or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Output under a temporary name in the target's folder. [`AtomicFile::commit`] makes it durable
/// and gives it its name, replacing what was there; dropped before that, it vanishes.
///
/// ```
/// use std::io::Write;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.gguf");
/// let mut file = ds4_gguf::AtomicFile::create(&path)?;
/// file.write_all(b"...")?;
/// assert!(!path.exists());
/// file.commit()?;
/// assert!(path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AtomicFile {
    out: BufWriter<tempfile::NamedTempFile>,
    path: PathBuf,
}

impl AtomicFile {
    /// Opens a temporary file next to `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder does not exist or cannot be written.
    pub fn create(path: impl Into<PathBuf>) -> Result<AtomicFile, Error> {
        let path = path.into();
        let mut builder = tempfile::Builder::new();
        builder.prefix(".ds4-").suffix(".part");
        // Unlike other temporary files, this one becomes an ordinary file of the user's.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder(&path));
        match file {
            Ok(file) => Ok(AtomicFile {
                // Large, because tensors are: fewer system calls for files of tens of gigabytes.
                out: BufWriter::with_capacity(1 << 20, file),
                path,
            }),
            Err(source) => Err(io_error(&path, "create", source)),
        }
    }

    /// Where the file will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes to the disk, renames, and makes the renaming durable.
    ///
    /// # Errors
    /// [`Error::Io`]; the target is then as it was before, unless only the last step failed.
    pub fn commit(self) -> Result<(), Error> {
        let AtomicFile { out, path } = self;
        let file = out.into_inner().map_err(|e| io_error(&path, "write", e.into_error()))?;
        file.as_file().sync_all().map_err(|e| io_error(&path, "write", e))?;
        file.persist(&path).map_err(|e| io_error(&path, "create", e.error))?;
        sync_folder(folder(&path)).map_err(|e| io_error(&path, "make durable", e))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The folder that holds `path`.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A rename survives a power failure only when the folder is written too. Windows has no such call.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> Error {
    Error::Io { file: path.display().to_string(), action, source }
}
