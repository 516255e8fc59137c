//! The folder `testdata/` and the unpacked copies of its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::codec;
use crate::index::{self, Entry, Index};

/// The packed files and where their unpacked copies go.
pub(crate) struct Store {
    packed: PathBuf,
    /// Named by the hash of the index, so a copy never outlives a change of the data. The copies keep their
    /// relative paths: a reader that looks for a neighbouring file finds it.
    unpacked: PathBuf,
    index: Index,
}

impl Store {
    /// The store of this repository.
    pub(crate) fn open() -> &'static Store {
        static STORE: OnceLock<Store> = OnceLock::new();
        STORE.get_or_init(|| {
            let repository = repository();
            // A read-only checkout still has a temporary folder.
            let below_target = repository.join("target/testdata");
            let copies = match fs::create_dir_all(&below_target) {
                Ok(()) => below_target,
                Err(_) => std::env::temp_dir().join("ds4-testdata"),
            };
            Store::at(&repository.join("testdata"), &copies)
        })
    }

    fn at(packed: &Path, copies: &Path) -> Store {
        let file = packed.join(index::FILE_NAME);
        let text = read(&file);
        let index = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{} is damaged: {e}", file.display()));
        let unpacked = copies.join(&codec::sha256_hex(&text)[..16]);
        Store { packed: packed.to_owned(), unpacked, index }
    }

    pub(crate) fn list(&self, prefix: &str) -> Vec<String> {
        let below = |path: &str| {
            prefix.is_empty() || path.strip_prefix(prefix.trim_end_matches('/')).is_some_and(|p| p.starts_with('/'))
        };
        self.index.files.iter().map(|e| e.path.clone()).filter(|path| below(path)).collect()
    }

    /// The unpacked copy of `rel`, made now if this is its first use.
    pub(crate) fn unpacked(&self, rel: &str) -> PathBuf {
        let entry = self.index.find(rel).unwrap_or_else(|| {
            panic!(
                "testdata/ has no file {rel}. If the fixtures have it, add it to \
                 crates/ds4-testdata/src/bin/refresh-testdata.rs and run scripts/refresh-testdata"
            )
        });
        let copy = self.unpacked.join(rel);
        let there = fs::metadata(&copy).is_ok_and(|m| m.len() == entry.bytes as u64);
        if !there {
            write_whole(&copy, &self.unpack(entry));
        }
        copy
    }

    fn unpack(&self, entry: &Entry) -> Vec<u8> {
        let base = entry.base.as_deref().map(|rel| read(&self.unpacked(rel)));
        let file = self.packed.join(format!("{}.zst", entry.path));
        let data = codec::unpack(&read(&file), entry.bytes, entry.planes, base.as_deref())
            .unwrap_or_else(|e| panic!("{} is damaged: {e}", file.display()));
        let hash = codec::sha256_hex(&data);
        assert_eq!(hash, entry.sha256, "{} has another SHA-256 than its index", file.display());
        data
    }
}

/// The root of the repository: where this crate was compiled, or, for a test program carried to another machine,
/// the nearest folder above the current one that holds the test data.
pub(crate) fn repository() -> PathBuf {
    let is_root = |dir: &&Path| dir.join("testdata").join(index::FILE_NAME).is_file();
    let compiled = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    if is_root(&compiled) {
        return compiled.to_owned();
    }
    let current = std::env::current_dir().unwrap_or_default();
    let found = current.ancestors().find(is_root).map(Path::to_owned);
    found.unwrap_or_else(|| panic!("found no testdata/{}; run the tests inside the repository", index::FILE_NAME))
}

/// Writes to a name of its own and renames: a test running beside this one sees the whole file or none.
fn write_whole(to: &Path, data: &[u8]) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".{}.{}.tmp", unique.0, unique.1));
    let temporary = PathBuf::from(name);
    let written = to
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&temporary, data))
        .and_then(|()| fs::rename(&temporary, to));
    if let Err(e) = written {
        // Whatever stopped the write, half a file is of no use to anyone; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        panic!("cannot write {}: {e}", to.display());
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}
