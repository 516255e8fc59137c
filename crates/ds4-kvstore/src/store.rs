//! The store's handle: opening, and everything that reads.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::OptionalExtension;
use tempfile::TempDir;

use crate::core::Core;
use crate::error::StoreError;
use crate::frozen;
use crate::index::{Index, OpenError};
use crate::key::{ChainKey, Identity};
use crate::lock::{Access, Lock};
use crate::prefixes::Prefixes;
use crate::record::{FORMAT_VERSION, Header, Kind, RecordError, longest_file, read};
use crate::recover::recover;
use crate::stats::StoreStats;
use crate::storage::{Disk, ReadMemory, Storage, private};
use crate::writer::WriteBehind;

/// Where warnings go: one sentence each. Nothing that is only warned of can make an answer wrong.
pub type Warn = Arc<dyn Fn(String) + Send + Sync>;

/// The space of facts that names sessions: the key is a session, the value its title.
pub const TITLES: &str = "titles";

/// How a store is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// Its folder; made if it does not exist.
    pub folder: PathBuf,
    /// Most bytes of all its files but the index.
    pub budget: u64,
    /// Most bytes that may wait to be written.
    pub queue_bytes: usize,
    /// Never writes, and leaves the writer's place to others.
    pub read_only: bool,
    /// How often one that may only read, because another process writes, looks whether that has ended. 2 s.
    pub succession: Duration,
    /// Where warnings go.
    pub warn: Warn,
    /// The file system.
    pub storage: Arc<dyn Storage>,
}

impl StoreOptions {
    /// A store in `folder` of at most `budget` bytes, without warnings.
    pub fn new(folder: impl Into<PathBuf>, budget: u64) -> Self {
        Self {
            folder: folder.into(),
            budget,
            queue_bytes: 256 << 20,
            read_only: false,
            succession: Duration::from_secs(2),
            warn: Arc::new(|_| ()),
            storage: Arc::new(Disk),
        }
    }
}

/// A store of computed prefixes on disk. Clones are handles of the same one; when the last is dropped, what waits to be
/// written is written first.
#[derive(Clone)]
pub struct KvStore(Arc<Inner>);

/// Tells the counters of a store as long as somebody has it open, and does not keep it open.
#[derive(Clone)]
pub struct StoreWatch(Weak<Inner>);

impl StoreWatch {
    /// Counters, and what there is now; `None` once the store is closed.
    pub fn stats(&self) -> Option<StoreStats> {
        self.0.upgrade().map(|inner| KvStore(inner).stats())
    }
}

struct Inner {
    files: Files,
    access: Access,
    reader: Mutex<Index>,
    /// Where the reader's index lies, if not where it belongs. Removed behind it.
    _index_copy: Option<TempDir>,
    /// Set from the beginning, or when the process that wrote has ended.
    writer: OnceLock<WriteBehind>,
    /// The models that prefixes were asked for: root, name, tokens of a page.
    models: Mutex<Vec<(ChainKey, String, usize)>>,
    stats: Arc<Mutex<StoreStats>>,
    /// Given back last, when the writer has ended.
    lock: OnceLock<Lock>,
}

/// Where the files are.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) folder: PathBuf,
    pub(crate) pages: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) warn: Warn,
}

impl KvStore {
    /// Opens the store, for writing if no other process does.
    ///
    /// # Errors
    /// A folder that can be neither made nor read; an index of another version.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let StoreOptions { folder, budget, queue_bytes, read_only, succession, warn, storage } = options;
        let files = Files { pages: folder.join("pages"), folder, storage, warn };
        if read_only && !files.folder.join("index.sqlite").is_file() {
            return Err(StoreError::Empty(files.folder));
        }
        let held = if read_only { Lock::none() } else { files.prepare_and_lock()? };
        let access = held.access;
        let stats = Arc::new(Mutex::new(StoreStats { budget, ..StoreStats::default() }));
        let (writer, lock) = (OnceLock::new(), OnceLock::new());
        if access == Access::Writer {
            let started = files.start_writer(budget, queue_bytes, &stats)?;
            writer.get_or_init(|| started);
            lock.get_or_init(|| held);
        }
        let is_frozen = access == Access::ReadOnlyFolder || (read_only && frozen::is_frozen(&files.folder));
        let (reader, index_copy) = match is_frozen {
            true => frozen::open(&files)?,
            false => (Index::open_reader(&files.index_path(), false).map_err(|error| files.open_error(error))?, None),
        };
        let (reader, models) = (Mutex::new(reader), Mutex::default());
        let store =
            Self(Arc::new(Inner { files, access, reader, _index_copy: index_copy, writer, models, stats, lock }));
        if matches!(access, Access::Reader { .. }) && !read_only {
            store.wait_to_succeed(budget, queue_bytes, succession)?;
        }
        Ok(store)
    }

    /// Starts a thread that takes the writer's place once it is free, and ends with the last handle.
    fn wait_to_succeed(&self, budget: u64, queue_bytes: usize, every: Duration) -> Result<(), StoreError> {
        let waiting = Arc::downgrade(&self.0);
        let succeed = move || {
            loop {
                thread::sleep(every);
                // Nobody has the store any more.
                let Some(inner) = waiting.upgrade() else { return };
                let folder = inner.files.folder.display();
                let outcome = match inner.try_to_succeed(budget, queue_bytes) {
                    Ok(false) => continue,
                    Ok(true) => {
                        format!("the process that wrote the KV cache in {folder} has ended; this one writes it now")
                    }
                    Err(error) => format!("this process goes on without writing the KV cache: {error}"),
                };
                (inner.files.warn)(outcome);
                return;
            }
        };
        let started = thread::Builder::new().name("ds4-kv-wait".to_owned()).spawn(succeed);
        started.map(|_| ()).map_err(|error| self.0.files.io("wait to write", &self.0.files.folder, error))
    }

    /// Whether this handle may write.
    pub fn access(&self) -> Access {
        if self.writer().is_some() { Access::Writer } else { self.0.access }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.0.files.folder
    }

    /// The prefixes of one model, and what it takes to use them.
    ///
    /// # Errors
    /// The index cannot be written.
    pub fn prefixes(&self, identity: &Identity) -> Result<Prefixes, StoreError> {
        self.prefixes_of(identity.root(), &identity.label, identity.page_tokens)
    }

    pub(crate) fn prefixes_of(&self, root: ChainKey, label: &str, page_tokens: usize) -> Result<Prefixes, StoreError> {
        // Noted first: whoever starts to write meanwhile enters it.
        let model = (root, label.to_owned(), page_tokens);
        self.0.models.lock().unwrap_or_else(PoisonError::into_inner).push(model);
        if self.writer().is_some() {
            let label = label.to_owned();
            self.on_writer(move |core| core.index().model(&root, &label, page_tokens))?;
        }
        Ok(Prefixes::new(self.clone(), root, page_tokens))
    }

    /// Counters, and what there is now.
    pub fn stats(&self) -> StoreStats {
        let mut stats = *self.lock_stats();
        if let Some(writer) = self.writer() {
            stats.queued_bytes = writer.queued_bytes();
        }
        stats
    }

    /// Tells the counters without keeping the store open.
    pub fn watch(&self) -> StoreWatch {
        StoreWatch(Arc::downgrade(&self.0))
    }

    /// Waits until everything that was to be written until now is on the disk, or has failed.
    pub fn flush(&self) {
        if let Some(writer) = self.writer() {
            writer.flush();
        }
    }

    /// Keeps a small fact under a name in a space of names. Written behind; replaces the value before.
    pub fn put_fact(&self, space: &str, key: &[u8], value: &[u8]) {
        if let Some(writer) = self.writer() {
            writer.set_fact(space.to_owned(), key.to_vec(), Some(value.to_vec()));
        }
    }

    /// Forgets the fact under a name. Written behind.
    pub fn forget_fact(&self, space: &str, key: &[u8]) {
        if let Some(writer) = self.writer() {
            writer.set_fact(space.to_owned(), key.to_vec(), None);
        }
    }

    /// All facts of a space that have reached the disk, by name.
    pub fn facts(&self, space: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let reader = self.reader();
        let found = reader
            .connection
            .prepare_cached("SELECT key, value FROM facts WHERE space = ?1 ORDER BY key")
            .and_then(|mut statement| statement.query_map([space], |row| Ok((row.get(0)?, row.get(1)?)))?.collect());
        found.unwrap_or_else(|error| {
            self.warn(format!("the KV cache's index cannot be read: {error}"));
            Vec::new()
        })
    }

    /// The fact under a name, if it is there and has reached the disk.
    pub fn fact(&self, space: &str, key: &[u8]) -> Option<Vec<u8>> {
        let reader = self.reader();
        let found = reader
            .connection
            .prepare_cached("SELECT value FROM facts WHERE space = ?1 AND key = ?2")
            .and_then(|mut statement| statement.query_row((space, key), |row| row.get(0)).optional());
        found.unwrap_or_else(|error| {
            self.warn(format!("the KV cache's index cannot be read: {error}"));
            None
        })
    }

    pub(crate) fn reader(&self) -> MutexGuard<'_, Index> {
        self.0.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn writer(&self) -> Option<&WriteBehind> {
        self.0.writer.get()
    }

    pub(crate) fn files(&self) -> &Files {
        &self.0.files
    }

    /// Says something where the store's own warnings go.
    pub fn warn(&self, sentence: String) {
        (self.0.files.warn)(sentence);
    }

    pub(crate) fn lock_stats(&self) -> MutexGuard<'_, StoreStats> {
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs something where the index may be written, after everything that was to be written before.
    pub(crate) fn on_writer<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Core) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let not_writer = || {
            let pid = if let Access::Reader { writer } = self.0.access { writer } else { None };
            StoreError::NotWriter { folder: self.0.files.folder.clone(), pid }
        };
        let writer = self.writer().ok_or_else(not_writer)?;
        writer.run(f).ok_or_else(not_writer)?.map_err(|error| self.0.files.index(error))
    }
}

impl Inner {
    /// Becomes the writer if there is none. Whether it did.
    fn try_to_succeed(&self, budget: u64, queue_bytes: usize) -> Result<bool, StoreError> {
        let held = self.files.prepare_and_lock()?;
        if held.access != Access::Writer {
            return Ok(false);
        }
        let started = self.files.start_writer(budget, queue_bytes, &self.stats)?;
        self.lock.get_or_init(|| held);
        let writer = self.writer.get_or_init(|| started);
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let enter = move |core: &mut Core| {
            models.iter().try_for_each(|(root, label, tokens)| core.index().model(root, label, *tokens).map(|_| ()))
        };
        match writer.run(enter) {
            Some(Err(error)) => Err(self.files.index(error)),
            Some(Ok(())) | None => Ok(true),
        }
    }
}

impl std::fmt::Debug for KvStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvStore").field("folder", &self.0.files.folder).field("access", &self.access()).finish()
    }
}

impl Files {
    pub(crate) fn index_path(&self) -> PathBuf {
        self.folder.join("index.sqlite")
    }

    /// Brings the folder in order and starts the thread that writes. The lock is held.
    fn start_writer(
        &self,
        budget: u64,
        queue_bytes: usize,
        stats: &Arc<Mutex<StoreStats>>,
    ) -> Result<WriteBehind, StoreError> {
        let mut index = self.open_index(&self.index_path())?;
        let known = recover(self.storage.as_ref(), &self.pages, &mut index, now(), &self.warn);
        let known = known.map_err(|error| self.index(error))?;
        let core = Core::new(self.clone(), index, budget, known, Arc::clone(stats));
        let core = core.map_err(|error| self.index(error))?;
        WriteBehind::start(core, queue_bytes).map_err(|error| self.io("write", &self.folder, error))
    }

    /// Makes the folders and takes the lock if it is free.
    fn prepare_and_lock(&self) -> Result<Lock, StoreError> {
        // The index lies on the real file system whatever `storage` is.
        let made = Disk.create_folder(&self.folder).and_then(|()| self.storage.create_folder(&self.pages));
        if let Err(error) = made
            && !self.folder.is_dir()
        {
            return Err(self.io("make the folder", &self.folder, error));
        }
        let path = self.folder.join("lock");
        Lock::take(&path).map_err(|error| self.io("open", &path, error))
    }

    pub(crate) fn path(&self, key: &ChainKey, kind: Kind) -> PathBuf {
        self.pages.join(file_name(key, kind == Kind::Page))
    }

    /// Reads a file into `memory`, and checks that it is what its name says.
    pub(crate) fn read(
        &self,
        key: &ChainKey,
        kind: Kind,
        memory: &mut ReadMemory,
    ) -> Result<(Header, Bytes), RecordError> {
        let bytes = match self.storage.read(&self.path(key, kind), longest_file(), memory) {
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(RecordError::Shape),
            bytes => bytes?,
        };
        let (header, payload) = read(&bytes)?;
        if header.kind != kind || header.key() != *key {
            return Err(RecordError::Foreign);
        }
        Ok((header, payload))
    }

    /// The index, made anew if it is damaged: the pages say almost everything again.
    pub(crate) fn open_index(&self, path: &Path) -> Result<Index, StoreError> {
        // SQLite would make it readable for everybody; its other files follow its example.
        let made = private().create(true).truncate(false).open(path);
        made.map_err(|error| self.io("write", path, error))?;
        match Index::open(path) {
            Err(OpenError::Sqlite(error)) if is_damage(&error) => {
                let aside = path.with_extension("sqlite.damaged");
                (self.warn)(format!(
                    "the index of the KV cache is damaged ({error}); it is built again from the pages"
                ));
                std::fs::rename(path, &aside).map_err(|error| self.io("rename", path, error))?;
                for extension in ["sqlite-wal", "sqlite-shm"] {
                    // They belong to the old index; usually there are none.
                    let _ = std::fs::remove_file(path.with_extension(extension));
                }
                private().create(true).truncate(false).open(path).map_err(|error| self.io("write", path, error))?;
                Index::open(path).map_err(|error| self.open_error(error))
            }
            other => other.map_err(|error| self.open_error(error)),
        }
    }

    pub(crate) fn open_error(&self, error: OpenError) -> StoreError {
        match error {
            OpenError::Version(found) => {
                StoreError::Version { folder: self.folder.clone(), found, known: FORMAT_VERSION.into() }
            }
            OpenError::Sqlite(error) => self.index(error),
        }
    }

    pub(crate) fn index(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Index { folder: self.folder.clone(), source }
    }

    pub(crate) fn io(&self, action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
        StoreError::Io { action, path: path.to_owned(), source }
    }
}

pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// The name of a page's or snapshot's file.
pub(crate) fn file_name(key: &ChainKey, is_page: bool) -> String {
    let kind = if is_page { Kind::Page } else { Kind::Snapshot };
    format!("{key}.{}", kind.extension())
}

/// What a file of `len` bytes takes on a disk.
pub(crate) fn disk_bytes(len: u64) -> u64 {
    len.div_ceil(4096) * 4096
}

/// Now, in milliseconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as i64)
}
