//! What writes: files first, then the index; and what makes way for them.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::OptionalExtension;

use crate::index::{Id, Index, NewSnapshot, Removed};
use crate::key::ChainKey;
use crate::record::{Header, Kind};
use crate::save::Keyed;
use crate::stats::StoreStats;
use crate::store::{Files, disk_bytes, file_name, now};
use crate::writer::{Command, lock};

/// Pages that are made durable together: enough to let the disk work, few enough to lose little.
const BATCH: usize = 64;
/// The newest snapshots of a conversation, which are all kept.
const NEWEST: usize = 4;
/// Most bytes of facts in a space.
const FACT_BYTES: i64 = 256 << 20;
/// Shortest time between two warnings of failed writes.
const WARN_AGAIN: Duration = Duration::from_secs(60);
/// What writes: on the thread, or in maintenance.
pub(crate) struct Core {
    pub files: Files,
    index: Index,
    budget: u64,
    pub known: Arc<Mutex<HashSet<ChainKey>>>,
    pub stats: Arc<Mutex<StoreStats>>,
    fact_bytes: i64,
    last_warning: Option<Instant>,
}

/// Why something was not written.
enum Failure {
    /// The page that it continues is gone.
    NoParent,
    /// It is larger than the store may be.
    TooLarge,
    Io(io::Error),
    Index(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Index(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Core {
    pub(crate) fn new(
        files: Files,
        index: Index,
        budget: u64,
        known: HashSet<ChainKey>,
        stats: Arc<Mutex<StoreStats>>,
    ) -> rusqlite::Result<Self> {
        let sql = "SELECT coalesce(sum(length(value)), 0) FROM facts";
        let fact_bytes = index.connection.query_row(sql, [], |row| row.get(0))?;
        let known = Arc::new(Mutex::new(known));
        let mut core = Self { files, index, budget, known, stats, fact_bytes, last_warning: None };
        core.recount()?;
        core.make_room(0, None)?;
        Ok(core)
    }

    pub(crate) fn index(&mut self) -> &mut Index {
        &mut self.index
    }

    fn recount(&mut self) -> rusqlite::Result<()> {
        let bytes = self.index.total_bytes()?;
        let (pages, snapshots) = self.index.counts()?;
        let mut stats = lock(&self.stats);
        (stats.bytes, stats.pages, stats.snapshots) = (bytes, pages, snapshots);
        Ok(())
    }

    pub(crate) fn execute(&mut self, command: Command) {
        // Facts are nowhere else. What the index says of pages and snapshots their files say again, which are on the disk before.
        let is_elsewhere = matches!(command, Command::Save(_) | Command::Touch(_) | Command::Forget(..));
        let outcome = self.index.make_durable(!is_elsewhere);
        self.note(outcome);
        match command {
            Command::Save(keyed) => {
                if let Err(failure) = self.save(&keyed) {
                    self.give_up(&keyed, failure);
                }
            }
            Command::Fact { space, key, value } => {
                let outcome = match value {
                    Some(value) => self.put_fact(&space, &key, &value),
                    None => self.forget_fact(&space, &key),
                };
                self.note(outcome);
            }
            Command::Touch(key) => {
                let now = now();
                let outcome = self.index.transaction(|index| match index.snapshot(&key)? {
                    Some(snapshot) => index.touch(&snapshot, now),
                    None => Ok(()),
                });
                self.note(outcome);
            }
            Command::Forget(key, kind) => {
                let outcome = self.forget(&key, kind);
                self.note(outcome);
            }
            Command::Run(task) => task(self),
        }
    }

    fn save(&mut self, keyed: &Keyed) -> Result<(), Failure> {
        let parent = match keyed.save.first_page {
            0 if keyed.save.parent == keyed.root => None,
            0 => return Err(Failure::NoParent),
            _ => Some(self.index.page(&keyed.save.parent)?.ok_or(Failure::NoParent)?.id),
        };
        let bytes: u64 = (0..keyed.pages.len())
            .map(|page| disk_bytes(keyed.header(page).file_len(keyed.save.pages[page].len())))
            .chain(keyed.save.snapshot.iter().map(|tail| disk_bytes(keyed.snapshot_header().file_len(tail.len()))))
            .sum();
        if bytes > self.budget {
            return Err(Failure::TooLarge);
        }
        self.make_room(bytes, parent)?;
        let mut last = parent;
        let mut from = 0;
        loop {
            let to = (from + BATCH).min(keyed.pages.len());
            let is_end = to == keyed.pages.len();
            last = self.save_batch(keyed, from, to, last, is_end)?;
            if is_end {
                break;
            }
            from = to;
        }
        if let (Some(page), Some(snapshot)) = (last, keyed.snapshot) {
            let tokens = keyed.snapshot_header().end();
            self.thin(page, tokens, &snapshot)?;
        }
        self.recount()?;
        Ok(())
    }

    /// Writes pages `from..to`, with the snapshot behind the last if this `is_end`. Returns the last page.
    fn save_batch(
        &mut self,
        keyed: &Keyed,
        from: usize,
        to: usize,
        mut last: Option<Id>,
        is_end: bool,
    ) -> Result<Option<Id>, Failure> {
        // Known pages may have come to the index by another save since.
        let mut new_files = Vec::new();
        for page in from..to {
            if self.index.page(&keyed.pages[page])?.is_none() {
                new_files.push((keyed.header(page), &keyed.save.pages[page][..]));
            }
        }
        let snapshot = match (&keyed.save.snapshot, &keyed.snapshot, is_end) {
            (Some(tail), Some(key), true) if self.index.snapshot(key)?.is_none() => {
                new_files.push((keyed.snapshot_header(), &tail[..]));
                true
            }
            _ => false,
        };
        self.write_files(&new_files)?;
        let saved: u64 = new_files.iter().map(|(header, payload)| header.file_len(payload.len())).sum();

        let now = now();
        last = self.index.transaction(|index| {
            let model = index.model(&keyed.root, "", keyed.page_tokens)?;
            for page in from..to {
                let key = &keyed.pages[page];
                last = Some(match index.page(key)? {
                    Some(page) => page.id,
                    None => {
                        let number = (keyed.save.first_page + page) as u64;
                        let bytes = disk_bytes(keyed.header(page).file_len(keyed.save.pages[page].len()));
                        index.add_page(key, model, last, number, bytes)?
                    }
                });
            }
            if let (true, Some(key), Some(tail), Some(page)) = (snapshot, keyed.snapshot, &keyed.save.snapshot, last) {
                let header = keyed.snapshot_header();
                index.add_snapshot(&NewSnapshot {
                    key,
                    page,
                    tail: &header.tokens,
                    tokens: header.end(),
                    bytes: disk_bytes(header.file_len(tail.len())),
                    now,
                    session: keyed.save.session.as_deref(),
                })?;
                if let Some(snapshot) = index.snapshot(&key)? {
                    index.touch_way(&snapshot, now)?;
                }
            }
            Ok(last)
        })?;
        lock(&self.stats).saved_bytes += saved;
        Ok(last)
    }

    /// Makes files durable under their names: contents first, then the names.
    fn write_files(&self, new: &[(Header, &[u8])]) -> io::Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let storage = &self.files.storage;
        let target = |header: &Header| self.files.path(&header.key(), header.kind);
        let temporary = |header: &Header| {
            let mut name = target(header).into_os_string();
            name.push(".tmp");
            std::path::PathBuf::from(name)
        };
        let written = new.iter().try_for_each(|(header, payload)| {
            let (head, checksum) = header.frame(payload);
            storage.write(&temporary(header), &[&head, payload, &checksum])
        });
        let durable = written.and_then(|()| new.iter().try_for_each(|(header, _)| storage.sync(&temporary(header))));
        if let Err(error) = durable {
            for (header, _) in new {
                // Those that were not begun are not there; the rest goes when the store is opened again, if not now.
                let _ = storage.remove(&temporary(header));
            }
            return Err(error);
        }
        new.iter().try_for_each(|(header, _)| storage.rename(&temporary(header), &target(header)))?;
        storage.sync_folder(&self.files.pages)
    }

    /// Of the snapshots before a new one keeps the newest, those where the conversation branched, and of the others fewer
    /// and fewer the older they are.
    fn thin(&mut self, page: Id, tokens: u64, new: &ChainKey) -> rusqlite::Result<()> {
        let before = self.index.snapshots_before(page, tokens)?;
        let mut last_kept = tokens;
        for (number, (snapshot, branches)) in before.iter().enumerate() {
            let keep = number < NEWEST
                || *branches
                || number + 1 == before.len()
                || snapshot.tokens <= last_kept - last_kept / 4
                || snapshot.key == *new;
            if keep {
                last_kept = snapshot.tokens;
            } else {
                let removed = self.index.transaction(|index| index.remove_snapshot(snapshot, None))?;
                self.remove_files(&removed);
            }
        }
        Ok(())
    }

    /// Removes what was not used for longest until `bytes` more fit. `last`: the page that is about to be continued.
    pub(crate) fn make_room(&mut self, bytes: u64, last: Option<Id>) -> rusqlite::Result<()> {
        let target = self.budget.saturating_sub(bytes);
        self.shrink_to(target, last)
    }

    /// Removes what was not used for longest until at most `target` bytes are left.
    pub(crate) fn shrink_to(&mut self, target: u64, last: Option<Id>) -> rusqlite::Result<()> {
        let mut bytes = self.index.total_bytes()?;
        while bytes > target {
            let removed = self.index.transaction(|index| {
                if let Some(page) = index.barren_page(last)? {
                    return index.remove_barren(page, last);
                }
                match index.oldest_snapshot()? {
                    Some((snapshot, _)) => index.remove_snapshot(&snapshot, last),
                    None => Ok(Vec::new()),
                }
            })?;
            if removed.is_empty() {
                break;
            }
            bytes = bytes.saturating_sub(removed.iter().map(|removed| removed.bytes).sum());
            self.remove_files(&removed);
            lock(&self.stats).evicted += removed.iter().filter(|removed| !removed.is_page).count() as u64;
        }
        self.recount()
    }

    /// Takes something damaged out, with everything that needs it.
    pub(crate) fn forget(&mut self, key: &ChainKey, kind: Kind) -> rusqlite::Result<()> {
        let removed = self.index.transaction(|index| match kind {
            Kind::Page => index.page(key)?.map_or(Ok(Vec::new()), |page| index.remove_subtree(&page)),
            Kind::Snapshot => {
                index.snapshot(key)?.map_or(Ok(Vec::new()), |snapshot| index.remove_snapshot(&snapshot, None))
            }
        })?;
        self.remove_files(&removed);
        self.recount()
    }

    /// Removes the files of what is out of the index.
    pub(crate) fn remove_files(&mut self, removed: &[Removed]) {
        let mut known = lock(&self.known);
        for removed in removed {
            known.remove(&removed.key);
            // What cannot be removed now is found when the store is opened again.
            let _ = self.files.storage.remove(&self.files.pages.join(file_name(&removed.key, removed.is_page)));
        }
    }

    fn put_fact(&mut self, space: &str, key: &[u8], value: &[u8]) -> rusqlite::Result<()> {
        let now = now();
        let change = self.index.transaction(|index| {
            let old: Option<i64> = index
                .connection
                .prepare_cached("SELECT sum(length(value)) FROM facts WHERE space = ?1 AND key = ?2")?
                .query_row((space, key), |row| row.get(0))?;
            index
                .connection
                .prepare_cached(
                    "INSERT INTO facts (space, key, value, used) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (space, key) DO UPDATE SET value = ?3, used = ?4",
                )?
                .execute((space, key, value, now))?;
            Ok(value.len() as i64 - old.unwrap_or(0))
        })?;
        self.fact_bytes += change;
        while self.fact_bytes > FACT_BYTES {
            let freed: Option<i64> = self.index.connection.query_row(
                "SELECT sum(length(value)) FROM facts WHERE (space, key) IN
                     (SELECT space, key FROM facts WHERE space = ?1 ORDER BY used LIMIT 100)",
                [space],
                |row| row.get(0),
            )?;
            let Some(freed) = freed else { break };
            self.index.connection.execute(
                "DELETE FROM facts WHERE (space, key) IN
                     (SELECT space, key FROM facts WHERE space = ?1 ORDER BY used LIMIT 100)",
                [space],
            )?;
            self.fact_bytes -= freed;
        }
        Ok(())
    }

    fn forget_fact(&mut self, space: &str, key: &[u8]) -> rusqlite::Result<()> {
        let sql = "DELETE FROM facts WHERE space = ?1 AND key = ?2 RETURNING length(value)";
        let freed: Option<i64> =
            self.index.connection.prepare_cached(sql)?.query_row((space, key), |row| row.get(0)).optional()?;
        self.fact_bytes -= freed.unwrap_or(0);
        Ok(())
    }

    /// Removes all facts, and their bytes from the index's file: they hold what was said.
    pub(crate) fn remove_facts(&mut self) -> rusqlite::Result<()> {
        self.index.connection.execute("DELETE FROM facts", [])?;
        self.fact_bytes = 0;
        self.index.connection.execute_batch("VACUUM")?;
        // A reader of another process may be in the middle of it; the next checkpoint does it then.
        self.index.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// A save came to nothing, or stopped half-way: what is not in the index is not known.
    fn give_up(&mut self, keyed: &Keyed, failure: Failure) {
        let index = &self.index;
        let mut known = lock(&self.known);
        for (key, is_page) in
            keyed.pages.iter().map(|key| (key, true)).chain(keyed.snapshot.iter().map(|key| (key, false)))
        {
            let is_there = if is_page {
                index.page(key).is_ok_and(|found| found.is_some())
            } else {
                index.snapshot(key).is_ok_and(|found| found.is_some())
            };
            if !is_there {
                known.remove(key);
            }
        }
        drop(known);
        lock(&self.stats).dropped += 1;
        let folder = self.files.folder.display();
        let why = match &failure {
            // Evicted between being known and being continued: nothing is wrong.
            Failure::NoParent => return,
            Failure::TooLarge => {
                format!("a state is larger than the whole KV cache in {folder} may be; raise --kv-disk")
            }
            Failure::Io(error) if is_full(error) => {
                format!(
                    "the disk of the KV cache in {folder} is full; old states make way, lower --kv-disk to leave room"
                )
            }
            Failure::Io(error) => format!("the KV cache in {folder} cannot be written: {error}"),
            Failure::Index(error) => format!("the index of the KV cache in {folder} cannot be written: {error}"),
        };
        self.warn_sometimes(why);
        if let Failure::Io(error) = &failure
            && is_full(error)
        {
            let needed = keyed.save.bytes() as u64;
            let target = lock(&self.stats).bytes.saturating_sub(needed);
            let outcome = self.shrink_to(target, None);
            self.note(outcome);
        }
    }

    fn note(&mut self, outcome: rusqlite::Result<()>) {
        if let Err(error) = outcome {
            let folder = self.files.folder.display().to_string();
            self.warn_sometimes(format!("the index of the KV cache in {folder} cannot be written: {error}"));
        }
    }

    fn warn_sometimes(&mut self, sentence: String) {
        if self.last_warning.is_none_or(|last| last.elapsed() >= WARN_AGAIN) {
            self.last_warning = Some(Instant::now());
            (self.files.warn)(sentence);
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
