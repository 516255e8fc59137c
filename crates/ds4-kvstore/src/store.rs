//! The store's handle: opening, and everything that reads.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::OptionalExtension;

use crate::error::StoreError;
use crate::index::{Index, OpenError};
use crate::key::{Chain, ChainKey, Identity};
use crate::lock::{Access, Lock};
use crate::record::{FORMAT_VERSION, Header, Kind, RecordError, read};
use crate::recover::recover;
use crate::stats::StoreStats;
use crate::storage::{Disk, Storage, private};
use crate::writer::{Core, Save, WriteBehind};

/// Where warnings go: one sentence each. Nothing that is only warned of can make an answer wrong.
pub type Warn = Arc<dyn Fn(String) + Send + Sync>;

/// Threads that read the pages of one prefix: enough to keep a solid-state disk busy.
const READERS: usize = 4;
/// How often [`Prefixes::restore`] tries a shorter prefix after it met a damaged one.
const TRIES: usize = 4;

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
            warn: Arc::new(|_| ()),
            storage: Arc::new(Disk),
        }
    }
}

/// A store of computed prefixes on disk. Clones are handles of the same one; when the last is dropped, what waits to be
/// written is written first.
#[derive(Clone)]
pub struct KvStore(Arc<Inner>);

struct Inner {
    files: Files,
    access: Access,
    reader: Mutex<Index>,
    writer: Option<WriteBehind>,
    stats: Arc<Mutex<StoreStats>>,
    /// Given back last, when the writer has ended.
    _lock: Lock,
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
        let StoreOptions { folder, budget, queue_bytes, read_only, warn, storage } = options;
        let files = Files { pages: folder.join("pages"), folder, storage, warn };
        if read_only && !files.folder.join("index.sqlite").is_file() {
            return Err(StoreError::Empty(files.folder));
        }
        let lock = if read_only { Lock::none() } else { files.prepare_and_lock()? };
        let stats = Arc::new(Mutex::new(StoreStats { budget, ..StoreStats::default() }));
        let path = files.folder.join("index.sqlite");
        let writer = match lock.access {
            Access::Writer => {
                let mut index = files.open_index(&path)?;
                let known = recover(files.storage.as_ref(), &files.pages, &mut index, now(), &files.warn);
                let known = known.map_err(|error| files.index(error))?;
                let core = Core::new(files.clone(), index, budget, known, Arc::clone(&stats))
                    .map_err(|error| files.index(error))?;
                Some(WriteBehind::start(core, queue_bytes).map_err(|error| files.io("write", &files.folder, error))?)
            }
            Access::Reader { .. } | Access::ReadOnlyFolder => None,
        };
        let frozen = lock.access == Access::ReadOnlyFolder;
        let reader = Index::open_reader(&path, frozen).map_err(|error| files.open_error(error))?;
        let access = lock.access;
        Ok(Self(Arc::new(Inner { files, access, reader: Mutex::new(reader), writer, stats, _lock: lock })))
    }

    /// Whether this handle may write.
    pub fn access(&self) -> Access {
        self.0.access
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
        if self.0.writer.is_some() {
            let label = label.to_owned();
            self.on_writer(move |core| core.index().model(&root, &label, page_tokens))?;
        }
        Ok(Prefixes { store: self.clone(), root, page_tokens: page_tokens.max(1) })
    }

    /// Counters, and what there is now.
    pub fn stats(&self) -> StoreStats {
        let mut stats = *self.lock_stats();
        if let Some(writer) = &self.0.writer {
            stats.queued_bytes = writer.queued_bytes();
        }
        stats
    }

    /// Waits until everything that was to be written until now is on the disk, or has failed.
    pub fn flush(&self) {
        if let Some(writer) = &self.0.writer {
            writer.flush();
        }
    }

    /// Keeps a small fact under a name in a space of names. Written behind; replaces the value before.
    pub fn put_fact(&self, space: &str, key: &[u8], value: &[u8]) {
        if let Some(writer) = &self.0.writer {
            writer.set_fact(space.to_owned(), key.to_vec(), Some(value.to_vec()));
        }
    }

    /// Forgets the fact under a name. Written behind.
    pub fn forget_fact(&self, space: &str, key: &[u8]) {
        if let Some(writer) = &self.0.writer {
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

    pub(crate) fn files(&self) -> &Files {
        &self.0.files
    }

    /// Says something where the store's own warnings go.
    pub fn warn(&self, sentence: String) {
        (self.0.files.warn)(sentence);
    }

    fn lock_stats(&self) -> MutexGuard<'_, StoreStats> {
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
        let writer = self.0.writer.as_ref().ok_or_else(not_writer)?;
        writer.run(f).ok_or_else(not_writer)?.map_err(|error| self.0.files.index(error))
    }
}

impl std::fmt::Debug for KvStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvStore").field("folder", &self.0.files.folder).field("access", &self.0.access).finish()
    }
}

/// The stored prefixes of one model.
#[derive(Clone, Debug)]
pub struct Prefixes {
    store: KvStore,
    root: ChainKey,
    page_tokens: usize,
}

/// Where a stored prefix of a prompt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its tokens.
    pub tokens: usize,
    /// Its full pages.
    pub pages: usize,
    /// Key of its snapshot.
    pub snapshot: ChainKey,
}

/// A prefix that was read and verified.
#[derive(Debug)]
pub struct Loaded {
    /// Its tokens.
    pub tokens: usize,
    /// Payloads of its full pages.
    pub pages: Vec<Vec<u8>>,
    /// Payload of its snapshot.
    pub tail: Vec<u8>,
}

impl Prefixes {
    /// The store.
    pub fn store(&self) -> &KvStore {
        &self.store
    }

    /// An empty chain.
    pub fn chain(&self) -> Chain {
        Chain::new(self.root, self.page_tokens)
    }

    /// The longest stored prefix of `tokens` that leaves at least one token over and is longer than `beyond`.
    /// `chain` has the keys of their pages.
    pub fn find(&self, chain: &Chain, tokens: &[u32], beyond: usize) -> Option<Found> {
        let found = self.find_in_index(chain.keys(), tokens);
        let found = found.unwrap_or_else(|error| {
            self.store.warn(format!("the KV cache's index cannot be read: {error}"));
            None
        });
        found.filter(|found| found.tokens > beyond)
    }

    fn find_in_index(&self, keys: &[ChainKey], tokens: &[u32]) -> rusqlite::Result<Option<Found>> {
        let reader = self.store.reader();
        // Pages are written after their parents and removed before them: where one is, all before it are.
        let (mut deepest, mut from, mut to) = (None, 0, keys.len());
        while from < to {
            let middle = from.midpoint(to);
            match reader.page(&keys[middle])? {
                Some(page) => (deepest, from) = (Some(page.id), middle + 1),
                None => to = middle,
            }
        }
        let Some(deepest) = deepest else { return Ok(None) };
        let found = reader.deepest_snapshot(deepest, self.page_tokens, tokens)?;
        Ok(found.and_then(|(snapshot, pages)| {
            let tokens = usize::try_from(snapshot.tokens).ok()?;
            Some(Found { tokens, pages, snapshot: snapshot.key })
        }))
    }

    /// Reads a prefix that was found. `None`, with a warning, if anything about it is not as it was written; it is then
    /// out of the index.
    pub fn load(&self, chain: &Chain, found: &Found) -> Option<Loaded> {
        let keys = chain.keys().get(..found.pages)?;
        let parent_of = |page: usize| chain.parent_of(page);
        let slots: Vec<Mutex<Option<Vec<u8>>>> = keys.iter().map(|_| Mutex::new(None)).collect();
        let is_whole = thread::scope(|scope| {
            let read_some = |first: usize| {
                (first..keys.len()).step_by(READERS).all(|page| {
                    let position = (page * self.page_tokens) as u64;
                    let payload = self.payload(&keys[page], Kind::Page, parent_of(page), position);
                    let is_there = payload.is_some();
                    *slots[page].lock().unwrap_or_else(PoisonError::into_inner) = payload;
                    is_there
                })
            };
            let readers: Vec<_> =
                (1..READERS.min(keys.len())).map(|first| scope.spawn(move || read_some(first))).collect();
            let first = read_some(0);
            readers.into_iter().fold(first, |whole, reader| reader.join().unwrap_or(false) && whole)
        });
        let position = (found.pages * self.page_tokens) as u64;
        let parent = chain.parent_of(found.pages);
        let tail = if is_whole { self.payload(&found.snapshot, Kind::Snapshot, parent, position) } else { None };
        let pages: Option<Vec<Vec<u8>>> =
            slots.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
        let (Some(pages), Some(tail)) = (pages, tail) else {
            self.store.lock_stats().damaged += 1;
            return None;
        };
        let bytes: usize = pages.iter().map(Vec::len).sum::<usize>() + tail.len();
        let mut stats = self.store.lock_stats();
        stats.loaded_bytes += bytes as u64;
        stats.loads += 1;
        drop(stats);
        if let Some(writer) = &self.store.0.writer {
            writer.touch(found.snapshot);
        }
        Some(Loaded { tokens: found.tokens, pages, tail })
    }

    /// Finds and reads; what turns out to be damaged makes way for something shorter.
    pub fn restore(&self, chain: &Chain, tokens: &[u32], beyond: usize) -> Option<Loaded> {
        for _ in 0..TRIES {
            let found = self.find(chain, tokens, beyond)?;
            if let Some(loaded) = self.load(chain, &found) {
                return Some(loaded);
            }
            // The writer takes out what is damaged; a reader would find the same again.
            self.store.0.writer.as_ref()?.flush();
        }
        None
    }

    /// Reads and checks one file.
    fn payload(&self, key: &ChainKey, kind: Kind, parent: ChainKey, position: u64) -> Option<Vec<u8>> {
        let files = &self.store.0.files;
        match files.read(key, kind) {
            Ok((header, payload))
                if header.root == self.root && header.parent == parent && header.position == position =>
            {
                Some(payload)
            }
            Ok(_) => self.give_up(key, kind, &RecordError::Foreign),
            // Evicted since it was found, by this process or another.
            Err(RecordError::Io(error)) if error.kind() == ErrorKind::NotFound => {
                self.forget(key, kind);
                None
            }
            Err(error) => self.give_up(key, kind, &error),
        }
    }

    fn give_up(&self, key: &ChainKey, kind: Kind, error: &RecordError) -> Option<Vec<u8>> {
        let path = self.store.0.files.path(key, kind);
        self.store
            .warn(format!("the KV cache ignores {}: {error}; what depends on it is computed again", path.display()));
        self.forget(key, kind);
        None
    }

    fn forget(&self, key: &ChainKey, kind: Kind) {
        if let Some(writer) = &self.store.0.writer {
            writer.forget(*key, kind);
        }
    }

    /// How many pages at the beginning of `chain` are stored or about to be; 0 for a reader.
    pub fn stored_pages(&self, chain: &Chain) -> usize {
        self.store.0.writer.as_ref().map_or(0, |writer| writer.known_pages(chain.keys()))
    }

    /// Whether the snapshot with this key is stored or about to be.
    pub fn has_snapshot(&self, key: &ChainKey) -> bool {
        self.store.0.writer.as_ref().is_some_and(|writer| writer.knows(key))
    }

    /// Whether anything can be saved at all.
    pub fn is_writable(&self) -> bool {
        self.store.0.writer.is_some()
    }

    /// Gives something to the writer. False if it has too much to do; nothing is written then.
    pub fn save(&self, save: Save) -> bool {
        self.store.0.writer.as_ref().is_some_and(|writer| writer.save(self.root, self.page_tokens, save))
    }
}

impl Files {
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

    pub(crate) fn read(&self, key: &ChainKey, kind: Kind) -> Result<(Header, Vec<u8>), RecordError> {
        let (len, mut file) = self.storage.open(&self.path(key, kind))?;
        let (header, payload) = read(file.as_mut(), len)?;
        if header.kind != kind || header.key() != *key {
            return Err(RecordError::Foreign);
        }
        Ok((header, payload))
    }

    /// The index, made anew if it is damaged: the pages say almost everything again.
    fn open_index(&self, path: &Path) -> Result<Index, StoreError> {
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

    fn open_error(&self, error: OpenError) -> StoreError {
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

fn is_damage(error: &rusqlite::Error) -> bool {
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
