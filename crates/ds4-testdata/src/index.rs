//! `testdata/index.json`: what the folder holds and how each file is packed.

use serde::{Deserialize, Serialize};

/// The name of the index inside `testdata/`.
pub const FILE_NAME: &str = "index.json";

/// All files of `testdata/`, sorted by path.
#[derive(Debug, Serialize, Deserialize)]
pub struct Index {
    /// One entry a file.
    pub files: Vec<Entry>,
}

/// One file: its packed form is `testdata/<path>.zst`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name used by tests, `/`-separated, relative to `testdata/`.
    pub path: String,
    /// Unpacked length in bytes.
    pub bytes: usize,
    /// SHA-256 of the unpacked bytes, lower-case hexadecimal.
    pub sha256: String,
    /// Byte planes split before compression (see [`crate::codec`]); 1 for none.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub planes: usize,
    /// The file whose unpacked bytes the compressor could refer back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

impl Index {
    /// The entry of `rel`, if the folder holds that file.
    pub fn find(&self, rel: &str) -> Option<&Entry> {
        self.files.iter().find(|e| e.path == rel)
    }
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}
