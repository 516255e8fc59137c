//! Reference data for the tests of this workspace.
//!
//! The folder `testdata/` at the repository root holds golden vectors and small models, compressed.
//! A test names a file by its path relative to that folder, without the compression suffix:
//!
//! ```
//! let logits = ds4_testdata::npy_f32("tiny/golden/s-f16/plain/logits_5.npy");
//! assert_eq!(logits.shape, [5, 512]);
//! ```
//!
//! The first use of a file unpacks it below `target/testdata/`, checks its SHA-256 and leaves it there for
//! the next test process. What is stored, and how, is listed in `testdata/index.json`; the program
//! `refresh-testdata` of this crate writes that folder.
//!
//! This crate serves tests only, so every function panics, with a sentence, where there is nothing to
//! return.

pub mod codec;
pub mod index;
pub mod npy;
mod store;

use std::path::PathBuf;

pub use npy::Npy;

/// The bytes of test file `rel`.
///
/// # Panics
/// If `testdata/` has no such file, or it is damaged.
pub fn bytes(rel: &str) -> Vec<u8> {
    let path = path(rel);
    std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// Where an unpacked copy of test file `rel` lies. The copy is shared by all tests: open it for reading only.
///
/// # Panics
/// If `testdata/` has no such file, or it is damaged, or the copy cannot be written.
pub fn path(rel: &str) -> PathBuf {
    store::Store::open().unpacked(rel)
}

/// The names of all test files below folder `prefix` (such as `"tiny/golden"`; `""` for all), sorted.
pub fn list(prefix: &str) -> Vec<String> {
    store::Store::open().list(prefix)
}

/// Test file `rel`, parsed as JSON.
///
/// # Panics
/// As [`bytes`], and if the file is not JSON.
pub fn json(rel: &str) -> serde_json::Value {
    serde_json::from_slice(&bytes(rel)).unwrap_or_else(|e| panic!("{rel} is not JSON: {e}"))
}

/// Test file `rel`, a NumPy array of float32.
///
/// # Panics
/// As [`bytes`], and if the file is anything but a little-endian float32 array in C order.
pub fn npy_f32(rel: &str) -> Npy<f32> {
    npy::parse_f32(&bytes(rel)).unwrap_or_else(|e| panic!("{rel}: {e}"))
}

/// Test file `rel`, a NumPy array of integers of any width, widened to i64.
///
/// # Panics
/// As [`bytes`], and if the file is anything but an integer array in C order.
pub fn npy_i64(rel: &str) -> Npy<i64> {
    npy::parse_i64(&bytes(rel)).unwrap_or_else(|e| panic!("{rel}: {e}"))
}

/// The trained demonstration model `nano/nano.gguf` of this repository.
///
/// # Panics
/// If the file is not there.
pub fn nano() -> PathBuf {
    let path = store::repository().join("nano/nano.gguf");
    assert!(path.is_file(), "{} is missing; it belongs to the repository", path.display());
    path
}
