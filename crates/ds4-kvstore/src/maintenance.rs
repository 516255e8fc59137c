//! Looking at a store and tidying it: what `ds4 kv` does.

use rusqlite::params;

use crate::error::StoreError;
use crate::index::{Id, SnapshotRow, key};
use crate::key::ChainKey;
use crate::record::Kind;
use crate::storage::ReadMemory;
use crate::store::{KvStore, TITLES};

/// A stored snapshot, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: ChainKey,
    /// Root of its chain: the model's identity.
    pub root: ChainKey,
    /// Name of the model; empty if it is not known.
    pub model: String,
    /// Tokens up to it.
    pub tokens: u64,
    /// Full pages before it.
    pub pages: u64,
    /// Bytes of its own file.
    pub bytes: u64,
    /// When it was written, in milliseconds since 1970.
    pub created: i64,
    /// When it was used last, likewise.
    pub used: i64,
    /// How often it was continued from disk.
    pub hits: u64,
    /// Whose it is, if it was said.
    pub session: Option<String>,
    /// What that session is called, if it was said.
    pub title: Option<String>,
    /// Whether nothing stored continues it.
    pub is_end: bool,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pages.
    pub pages: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes of all files, in blocks.
    pub bytes: u64,
}

/// A file that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file's key.
    pub key: ChainKey,
    /// Whether it is a page, not a snapshot.
    pub is_page: bool,
    /// What is wrong.
    pub why: String,
}

/// What to remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// Keep at most so many bytes.
    pub to_bytes: Option<u64>,
    /// Remove what was not used since then, in milliseconds since 1970.
    pub unused_since: Option<i64>,
    /// Remove everything of other models than this root.
    pub only_root: Option<ChainKey>,
    /// Remove the facts as well: sampled turns, titles.
    pub facts: bool,
}

impl KvStore {
    /// All snapshots, those used last first.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        self.query_entries().map_err(|error| self.files().index(error))
    }

    fn query_entries(&self) -> rusqlite::Result<Vec<Entry>> {
        let reader = self.reader();
        let mut statement = reader.connection.prepare(
            "SELECT s.key, models.root, models.label, s.tokens, pages.number + 1, s.bytes, s.created, s.used, s.hits,
                    s.session,
                    (SELECT CAST(value AS TEXT) FROM facts WHERE space = ?1 AND key = CAST(s.session AS BLOB)),
                    NOT EXISTS (SELECT 1 FROM pages AS next WHERE next.parent = s.page) AND NOT EXISTS
                    (SELECT 1 FROM snapshots AS next WHERE next.page = s.page AND next.tokens > s.tokens
                     AND substr(next.tail, 1, length(s.tail)) = s.tail)
             FROM snapshots AS s JOIN pages ON pages.id = s.page JOIN models ON models.id = pages.model
             ORDER BY s.used DESC, s.tokens DESC",
        )?;
        let rows = statement.query_map([TITLES], |row| {
            Ok(Entry {
                key: key(row, 0)?,
                root: key(row, 1)?,
                model: row.get(2)?,
                tokens: row.get::<_, i64>(3)? as u64,
                pages: row.get::<_, i64>(4)? as u64,
                bytes: row.get::<_, i64>(5)? as u64,
                created: row.get(6)?,
                used: row.get(7)?,
                hits: row.get::<_, i64>(8)? as u64,
                session: row.get(9)?,
                title: row.get(10)?,
                is_end: row.get(11)?,
            })
        })?;
        rows.collect()
    }

    /// The snapshot whose key begins with these hexadecimal digits.
    ///
    /// # Errors
    /// None or several; an unreadable index.
    pub fn entry(&self, beginning: &str) -> Result<Entry, StoreError> {
        let mut fitting = self.entries()?.into_iter().filter(|entry| entry.key.to_string().starts_with(beginning));
        match (fitting.next(), fitting.next()) {
            (Some(entry), None) => Ok(entry),
            (None, _) => Err(StoreError::Unknown(beginning.to_owned())),
            (Some(_), Some(_)) => Err(StoreError::Ambiguous(beginning.to_owned())),
        }
    }

    /// Keys and bytes of the pages before a snapshot, the first first.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn pages_of(&self, entry: &Entry) -> Result<Vec<(ChainKey, u64)>, StoreError> {
        let query = || {
            let reader = self.reader();
            let mut statement = reader.connection.prepare(
                "WITH RECURSIVE up (id, parent, number, key, bytes) AS (
                     SELECT id, parent, number, key, bytes FROM pages
                     WHERE id = (SELECT page FROM snapshots WHERE key = ?1)
                     UNION ALL SELECT p.id, p.parent, p.number, p.key, p.bytes FROM up JOIN pages AS p ON p.id = up.parent
                 )
                 SELECT key, bytes FROM up ORDER BY number",
            )?;
            let rows =
                statement.query_map([entry.key.as_bytes()], |row| Ok((key(row, 0)?, row.get::<_, i64>(1)? as u64)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        query().map_err(|error| self.files().index(error))
    }

    /// The tokens up to a snapshot, from its files. `None` if one of them is damaged.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn tokens_of(&self, entry: &Entry) -> Result<Option<Vec<u32>>, StoreError> {
        let mut tokens = Vec::new();
        for (key, _) in self.pages_of(entry)? {
            match self.files().read(&key, Kind::Page, &mut ReadMemory::default()) {
                Ok((header, _)) => tokens.extend(header.tokens),
                Err(_) => return Ok(None),
            }
        }
        Ok(self.files().read(&entry.key, Kind::Snapshot, &mut ReadMemory::default()).ok().map(|(header, _)| {
            tokens.extend(header.tokens);
            tokens
        }))
    }

    /// What the index has now, whoever writes it.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn totals(&self) -> Result<Totals, StoreError> {
        let reader = self.reader();
        let both = reader.counts().and_then(|counts| Ok((counts, reader.total_bytes()?)));
        let ((pages, snapshots), bytes) = both.map_err(|error| self.files().index(error))?;
        Ok(Totals { pages, snapshots, bytes })
    }

    /// Reads every file and checks it. `progress` gets the number of files read and that of all.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn verify(&self, mut progress: impl FnMut(usize, usize)) -> Result<Vec<Fault>, StoreError> {
        let keys = self.reader().keys().map_err(|error| self.files().index(error))?;
        let mut faults = Vec::new();
        for (number, &(key, is_page)) in keys.iter().enumerate() {
            let kind = if is_page { Kind::Page } else { Kind::Snapshot };
            if let Err(error) = self.files().read(&key, kind, &mut ReadMemory::default()) {
                faults.push(Fault { key, is_page, why: error.to_string() });
            }
            progress(number + 1, keys.len());
        }
        Ok(faults)
    }

    /// Takes damaged files out, with everything that needs them.
    ///
    /// # Errors
    /// Another process is the writer; the index cannot be written.
    pub fn repair(&self, faults: Vec<Fault>) -> Result<(), StoreError> {
        self.on_writer(move |core| {
            faults
                .iter()
                .try_for_each(|fault| core.forget(&fault.key, if fault.is_page { Kind::Page } else { Kind::Snapshot }))
        })
    }

    /// Removes one snapshot, and the pages that only it needs.
    ///
    /// # Errors
    /// Another process is the writer; the index cannot be written.
    pub fn remove(&self, entry: &Entry) -> Result<(), StoreError> {
        let key = entry.key;
        self.on_writer(move |core| core.forget(&key, Kind::Snapshot))
    }

    /// Removes what is not to be kept. Returns the bytes before and after.
    ///
    /// # Errors
    /// Another process is the writer; the index cannot be written.
    pub fn prune(&self, prune: Prune) -> Result<(u64, u64), StoreError> {
        self.on_writer(move |core| {
            let before = core.index().total_bytes()?;
            if let Some(root) = prune.only_root {
                let others = "SELECT s.id, s.key, s.page, s.tokens, s.bytes FROM snapshots AS s
                     JOIN pages ON pages.id = s.page JOIN models ON models.id = pages.model WHERE models.root <> ?1";
                remove_all(core, others, params![root.as_bytes()])?;
            }
            if let Some(time) = prune.unused_since {
                let old = "SELECT id, key, page, tokens, bytes FROM snapshots WHERE used < ?1";
                remove_all(core, old, params![time])?;
            }
            if let Some(bytes) = prune.to_bytes {
                core.shrink_to(bytes, None)?;
            }
            if prune.facts {
                core.remove_facts()?;
            }
            // Pages that a crash left without a snapshot go, too.
            while let Some(page) = core.index().barren_page(None)? {
                let removed = core.index().transaction(|index| index.remove_barren(page, None))?;
                core.remove_files(&removed);
            }
            core.shrink_to(u64::MAX, None)?;
            Ok((before, core.index().total_bytes()?))
        })
    }
}

/// Removes all snapshots that a query finds.
fn remove_all(core: &mut crate::core::Core, query: &str, values: impl rusqlite::Params) -> rusqlite::Result<()> {
    let found: Vec<SnapshotRow> = core
        .index()
        .connection
        .prepare(query)?
        .query_map(values, |row| {
            Ok(SnapshotRow {
                id: row.get::<_, Id>(0)?,
                key: key(row, 1)?,
                page: row.get(2)?,
                tokens: row.get::<_, i64>(3)? as u64,
                bytes: row.get::<_, i64>(4)? as u64,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    for snapshot in found {
        let removed = core.index().transaction(|index| index.remove_snapshot(&snapshot, None))?;
        core.remove_files(&removed);
    }
    Ok(())
}
