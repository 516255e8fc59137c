//! What can go wrong with the store as a whole. A damaged or missing page is no error: it is a miss.

use std::io;
use std::path::PathBuf;

/// Why the store could not be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("the KV cache cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// There is nothing to read.
    #[error("there is no KV cache in {}; `ds4 serve` makes one, --kv-dir names another folder", .0.display())]
    Empty(PathBuf),

    /// The index refused.
    #[error("the index of the KV cache in {}: {source}; if this stays, delete index.sqlite, it is built again from the pages", .folder.display())]
    Index {
        /// The store's folder.
        folder: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },

    /// A program of another version wrote the index.
    #[error(
        "the KV cache in {} has format version {found}, this program knows {known}; use the newer program, another --kv-dir, or delete the folder",
        .folder.display()
    )]
    Version {
        /// The store's folder.
        folder: PathBuf,
        /// The version found.
        found: i64,
        /// The version that this program writes.
        known: i64,
    },

    /// Something that only the writing process may do.
    #[error("the KV cache in {} is being written by another process{}; stop that one first", .folder.display(), by(.pid))]
    NotWriter {
        /// The store's folder.
        folder: PathBuf,
        /// The other process, if it said so.
        pid: Option<u32>,
    },

    /// Nothing of that name.
    #[error("the KV cache has nothing named {0}; `ds4 kv ls` lists what it has")]
    Unknown(String),

    /// A name that is the beginning of several.
    #[error("{0} is the beginning of several ids; give more of its digits")]
    Ambiguous(String),

    /// An exported file that cannot be used.
    #[error("{} is not a usable export of a KV cache: {why}", .path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },

    /// More than the store may hold.
    #[error("{bytes} bytes do not fit the KV cache's limit of {budget}; raise --kv-disk")]
    TooLarge {
        /// What was to be stored.
        bytes: u64,
        /// The limit.
        budget: u64,
    },
}

fn by(pid: &Option<u32>) -> String {
    pid.map_or(String::new(), |pid| format!(" (process {pid})"))
}
