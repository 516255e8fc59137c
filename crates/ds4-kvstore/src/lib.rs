//! Computed prefixes on disk.
//!
//! What continuing a prompt needs is stored in two kinds of files: *pages*, which hold the compressed rows of a fixed number
//! of tokens and are shared by everything that begins with the same tokens, and *snapshots*, which hold
//! the rest of a state at one place. Pages form a chain: the key of each is the hash of its parent's key and its own tokens, from
//! a root that stands for model, precision and arithmetic ([`key`]). Saving a conversation that has grown therefore
//! writes what is new and nothing else.
//!
//! [`KvStore`] opens a folder; [`Prefixes`] are those of one model in it. Reading happens on the caller's thread, writing on a thread of
//! the store's. Whatever is damaged, missing or foreign is a miss with a warning, never an error and never a wrong answer. The
//! crate knows nothing of models: payloads are bytes.
//!
//! The format is written down in `docs/kv-format.md`.

#[cfg(unix)]
mod buffer;
mod bundle;
mod core;
mod error;
mod frozen;
mod index;
pub mod key;
mod lock;
mod maintenance;
mod prefixes;
pub mod record;
mod recover;
mod save;
mod stats;
pub mod storage;
mod store;
mod writer;

pub use error::StoreError;
pub use key::{Chain, ChainKey, Identity};
pub use lock::Access;
pub use maintenance::{Entry, Fault, Prune, Totals};
pub use prefixes::{Found, Loaded, Prefixes};
pub use save::Save;
pub use stats::StoreStats;
pub use store::{KvStore, StoreOptions, StoreWatch, TITLES, Warn};
