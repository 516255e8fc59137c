//! One writer at a time.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use crate::storage::private;

/// Whether this process may write a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may, and no other does.
    Writer,
    /// It may not; that process does, if it said so.
    Reader {
        /// The writing process.
        writer: Option<u32>,
    },
    /// It may not, because the folder cannot be written.
    ReadOnlyFolder,
}

/// The lock of a store's folder. The system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Open for as long as the lock is held.
    _file: Option<File>,
    pub(crate) access: Access,
}

impl Lock {
    /// Does not try.
    pub(crate) fn none() -> Self {
        Self { _file: None, access: Access::Reader { writer: None } }
    }

    /// Takes the lock if it is free.
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        let opened = private().read(true).create(true).truncate(false).open(path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if is_read_only(&error) => {
                return Ok(Self { _file: None, access: Access::ReadOnlyFolder });
            }
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {
                // For the message of the next process; the lock itself does not need it.
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(std::process::id().to_string().as_bytes())?;
                Ok(Self { _file: Some(file), access: Access::Writer })
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let writer = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                Ok(Self { _file: None, access: Access::Reader { writer } })
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
