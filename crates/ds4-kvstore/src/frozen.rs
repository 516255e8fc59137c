//! Reading a store whose folder cannot be written, on a disk mounted read-only for example.
//!
//! SQLite reads an index there as it lies, without its log. When the process that wrote it was killed, or its disk was full, the log has
//! what was committed last, and without it the rest may make no sense. Such an index is copied elsewhere with its log and read there.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::error::StoreError;
use crate::index::{Index, OpenError};
use crate::recover::recover;
use crate::store::{Files, is_damage, now};

/// Whether a folder cannot be written by this process.
pub(crate) fn is_frozen(folder: &Path) -> bool {
    #[cfg(unix)]
    return rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err();
    #[cfg(not(unix))]
    return std::fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().readonly());
}

/// The index, and the folder of its copy if there had to be one.
///
/// # Errors
/// An index of another version; nowhere to copy it to.
pub(crate) fn open(files: &Files) -> Result<(Index, Option<TempDir>), StoreError> {
    let path = files.index_path();
    let log = path.with_extension("sqlite-wal");
    if std::fs::metadata(&log).map_or(true, |log| log.len() == 0) {
        match Index::open_reader(&path, true) {
            Ok(index) => return Ok((index, None)),
            Err(OpenError::Sqlite(error)) if is_damage(&error) => {}
            Err(error) => return Err(files.open_error(error)),
        }
    }
    // Only its owner can enter it.
    let folder = tempfile::tempdir().map_err(|error| files.io("copy the index to", &std::env::temp_dir(), error))?;
    let copy = folder.path().join("index.sqlite");
    let copied =
        std::fs::copy(&path, &copy).and_then(|_| match std::fs::copy(&log, copy.with_extension("sqlite-wal")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        });
    copied.map_err(|error| files.io("read", &path, error))?;
    let mut index = files.open_index(&copy)?;
    let counts = index.counts().map_err(|error| files.index(error))?;
    if counts == (0, 0) {
        // It was made anew. Nothing is removed: the folder cannot be written.
        recover(files.storage.as_ref(), &files.pages, &mut index, now(), &files.warn)
            .map_err(|error| files.index(error))?;
    }
    Ok((index, Some(folder)))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;

    use super::*;
    use crate::{Identity, KvStore, Prune, Save, StoreOptions};

    /// A folder as a killed process leaves it: the log was not brought into the index.
    fn left_behind() -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let store = KvStore::open(StoreOptions::new(folder.path().join("store"), 1 << 30)).expect("a store");
        let identity = Identity { label: "m".to_owned(), detail: "d".to_owned(), page_tokens: 4 };
        let prefixes = store.prefixes(&identity).expect("an index");
        let save = Save {
            first_page: 0,
            parent: prefixes.chain().root(),
            tokens: vec![1, 2, 3, 4, 5],
            pages: vec![Bytes::from_static(b"page")],
            snapshot: Some(Bytes::from_static(b"rest")),
            session: None,
        };
        assert!(prefixes.save(save));
        store.flush();
        let (from, to) = (folder.path().join("store"), folder.path().join("left"));
        std::fs::create_dir_all(to.join("pages")).expect("room");
        for name in ["index.sqlite", "index.sqlite-wal"] {
            std::fs::copy(from.join(name), to.join(name)).expect("a file");
        }
        for entry in std::fs::read_dir(from.join("pages")).expect("a folder") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), to.join("pages").join(entry.file_name())).expect("a file");
        }
        assert!(std::fs::metadata(to.join("index.sqlite-wal")).expect("a log").len() > 0);
        assert!(store.prune(Prune::default()).is_ok(), "the writer goes on");
        folder
    }

    /// The index, its copy, and what was warned of.
    fn open_left(folder: &TempDir) -> (Index, Option<TempDir>, Vec<String>) {
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::clone(&warnings);
        let left = folder.path().join("left");
        let files = Files {
            pages: left.join("pages"),
            folder: left,
            storage: Arc::new(crate::storage::Disk),
            warn: Arc::new(move |sentence| said.lock().expect("no panic").push(sentence)),
        };
        let (index, copy) = open(&files).expect("readable");
        let warnings = warnings.lock().expect("no panic").clone();
        (index, copy, warnings)
    }

    #[test]
    fn what_is_only_in_the_log_is_found_and_nothing_is_written() {
        let folder = left_behind();
        let names = || {
            let entries = std::fs::read_dir(folder.path().join("left")).expect("a folder");
            let mut all: Vec<_> = entries
                .map(|entry| {
                    entry.and_then(|entry| Ok((entry.file_name(), entry.metadata()?.len()))).expect("an entry")
                })
                .collect();
            all.sort();
            all
        };
        let before = names();
        let (index, copy, warnings) = open_left(&folder);
        assert_eq!((index.counts().expect("tables"), warnings), ((1, 1), vec![]));
        let copy = copy.expect("a copy").path().to_owned();
        assert!(!copy.exists(), "it goes when it is no longer needed");
        assert_eq!(names(), before);
    }

    #[test]
    fn without_its_log_the_index_is_built_again_elsewhere() {
        let folder = left_behind();
        let left = folder.path().join("left");
        std::fs::remove_file(left.join("index.sqlite-wal")).expect("a log");
        std::fs::write(left.join("index.sqlite"), b"not an index at all, but long enough to be looked at")
            .expect("room");
        let (index, _copy, warnings) = open_left(&folder);
        assert_eq!(index.counts().expect("tables"), (1, 1));
        assert!(matches!(&warnings[..], [warning] if warning.contains("damaged")), "{warnings:?}");
        assert!(left.join("index.sqlite").exists() && !left.join("index.sqlite.damaged").exists());
    }

    #[test]
    fn an_index_without_a_log_is_read_where_it_lies() {
        let folder = left_behind();
        let left = folder.path().join("left");
        drop(Index::open(&left.join("index.sqlite")).map_err(|_| ()).expect("an index"));
        assert!(!left.join("index.sqlite-wal").exists(), "brought in when it was closed");
        let (index, copy, _) = open_left(&folder);
        assert!(copy.is_none());
        assert_eq!(index.counts().expect("tables"), (1, 1));
    }
}
