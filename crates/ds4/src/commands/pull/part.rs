//! The unfinished download: `FILE.part`, and beside it `FILE.part.json`, which says of what it is the beginning.
//!
//! Bytes are only ever appended, each after the note that names their origin, so that the process may be killed at any
//! moment: what lies there is always a true beginning of the file that the note describes.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ds4_gguf::AtomicFile;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::identity::Identity;
use crate::interrupt::Interrupt;
use crate::terminal::{Progress, Unit};

/// An open `FILE.part`. One process at a time.
pub struct PartFile {
    target: PathBuf,
    path: PathBuf,
    file: File,
    len: u64,
    /// SHA-256 of the first `len` bytes.
    hash: Sha256,
    origin: Option<Origin>,
}

/// What a partial file is the beginning of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Where it comes from.
    pub url: String,
    /// What the server said about it.
    pub identity: Identity,
}

impl PartFile {
    /// Opens or creates the partial file for `target` and reads what is there. `None` after Ctrl-C.
    ///
    /// # Errors
    /// The folder cannot be written, or another process has the file.
    pub fn open(target: &Path, interrupt: &Interrupt) -> anyhow::Result<Option<PartFile>> {
        let path = beside(target, ".part");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{} is in use: another ds4 pull is downloading this file", path.display())
            }
            // Some network file systems have no locks; two downloads at once are then the user's to avoid.
            Err(TryLockError::Error(_)) => {}
        }
        let origin = fs::read(note_path(target)).ok().and_then(|note| serde_json::from_slice(&note).ok());
        let mut part = PartFile { target: target.to_owned(), path, file, len: 0, hash: Sha256::new(), origin };
        Ok(part.read_what_is_there(interrupt)?.then_some(part))
    }

    /// Hashes the bytes that are there. `false` after Ctrl-C.
    fn read_what_is_there(&mut self, interrupt: &Interrupt) -> anyhow::Result<bool> {
        let present = self.file.metadata().with_context(|| self.unreadable())?.len();
        let progress = Progress::new("reading what is here", present, Unit::Bytes);
        let mut buffer = vec![0; 1 << 20];
        loop {
            if interrupt.is_pressed() {
                return Ok(false);
            }
            let n = self.file.read(&mut buffer).with_context(|| self.unreadable())?;
            if n == 0 {
                return Ok(true);
            }
            self.hash.update(&buffer[..n]);
            self.len += n as u64;
            progress.set(self.len);
        }
    }

    fn unreadable(&self) -> String {
        format!("cannot read {}", self.path.display())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What it is the beginning of, if that was noted.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// SHA-256 of what is there, in hexadecimal.
    pub fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// Notes the origin of what is there and of what will be appended.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn note(&mut self, origin: Origin) -> anyhow::Result<()> {
        let mut note = AtomicFile::create(note_path(&self.target))?;
        serde_json::to_writer_pretty(&mut note, &origin)
            .with_context(|| format!("cannot write {}", note.path().display()))?;
        note.commit()?;
        self.origin = Some(origin);
        Ok(())
    }

    /// Throws away what is there and begins a file of this origin. Emptied first: a note must never describe bytes of
    /// another origin.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn restart(&mut self, origin: Origin) -> anyhow::Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.with_context(|| format!("cannot empty {}", self.path.display()))?;
        self.len = 0;
        self.hash = Sha256::new();
        self.note(origin)
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).inspect_err(|_| {
            // A write that failed half-way may have left bytes that the hash has not seen.
            let _ = self.file.set_len(self.len);
        })?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Makes what is there durable.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync(&self) -> anyhow::Result<()> {
        self.file.sync_all().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Gives the file its name, or one that says that it is bad. Gives that name.
    ///
    /// # Errors
    /// The folder cannot be written, or a file of the name has appeared meanwhile.
    pub fn finish(self, good: bool) -> anyhow::Result<PathBuf> {
        self.sync()?;
        let name = if good { self.target.clone() } else { bad_path(&self.target) };
        if good && name.exists() {
            bail!(
                "{} has appeared while it was downloaded, and is not replaced; the download is in {}",
                name.display(),
                self.path.display()
            );
        }
        fs::rename(&self.path, &name)
            .with_context(|| format!("cannot rename {} to {}", self.path.display(), name.display()))?;
        forget_note(&self.target);
        // Durable also as a name; some file systems have no such call for folders.
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
            let _ = folder.sync_all();
        }
        Ok(name)
    }

    /// Removes the file if nothing is in it: a download that never began leaves nothing behind.
    pub fn discard_if_empty(self) {
        if self.len == 0 {
            let _ = fs::remove_file(&self.path);
            forget_note(&self.target);
        }
    }
}

/// Removes the note that a process killed after its last rename left behind.
pub fn forget_note(target: &Path) {
    let _ = fs::remove_file(note_path(target));
}

/// Where a download with a wrong checksum is kept.
pub fn bad_path(target: &Path) -> PathBuf {
    beside(target, ".bad")
}

fn note_path(target: &Path) -> PathBuf {
    beside(target, ".part.json")
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(target);
    name.push(suffix);
    PathBuf::from(name)
}

/// Lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a whole file, in hexadecimal. `None` after Ctrl-C.
///
/// # Errors
/// It cannot be read.
pub fn sha256_of_file(path: &Path, interrupt: &Interrupt) -> anyhow::Result<Option<String>> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(unreadable)?;
    let progress = Progress::new("checking", file.metadata().with_context(unreadable)?.len(), Unit::Bytes);
    let (mut hash, mut buffer, mut done) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        if interrupt.is_pressed() {
            return Ok(None);
        }
        let n = file.read(&mut buffer).with_context(unreadable)?;
        if n == 0 {
            return Ok(Some(hex(&hash.finalize())));
        }
        hash.update(&buffer[..n]);
        done += n as u64;
        progress.set(done);
    }
}
