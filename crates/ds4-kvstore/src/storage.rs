//! The operations on files that the store is made of, so that tests can stop a machine between any two of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

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

    /// Opens a file, with its length.
    fn open(&self, path: &Path) -> io::Result<(u64, Box<dyn Read + Send>)>;

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

    fn open(&self, path: &Path) -> io::Result<(u64, Box<dyn Read + Send>)> {
        let file = File::open(path)?;
        Ok((file.metadata()?.len(), Box::new(file)))
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
