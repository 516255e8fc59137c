//! The index: which pages and snapshots there are, how they hang together, and when they were used.
//!
//! SQLite in WAL mode, so that readers, of this process and others, never wait for the writer. Everything that concerns pages
//! and snapshots could be read from their files again, and is when the index is lost ([`recover`](crate::recover)).

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use crate::key::ChainKey;
use crate::record::FORMAT_VERSION;

const SCHEMA: &str = "
CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    root BLOB NOT NULL UNIQUE,
    label TEXT NOT NULL,
    page_tokens INTEGER NOT NULL
) STRICT;
CREATE TABLE pages (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    model INTEGER NOT NULL REFERENCES models,
    parent INTEGER REFERENCES pages,
    number INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    children INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX pages_by_parent ON pages (parent);
CREATE INDEX pages_without_use ON pages (id) WHERE children = 0;
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    page INTEGER NOT NULL REFERENCES pages,
    tail BLOB NOT NULL,
    tokens INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    created INTEGER NOT NULL,
    used INTEGER NOT NULL,
    hits INTEGER NOT NULL DEFAULT 0,
    session TEXT
) STRICT;
CREATE INDEX snapshots_by_page ON snapshots (page, tail);
CREATE INDEX snapshots_by_use ON snapshots (used, tokens DESC);
CREATE TABLE facts (
    space TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX facts_by_use ON facts (space, used);
";

/// Row number of a page or snapshot.
pub(crate) type Id = i64;

/// A page in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRow {
    pub(crate) id: Id,
    pub(crate) key: ChainKey,
    pub(crate) parent: Option<Id>,
    pub(crate) bytes: u64,
}

/// A snapshot in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotRow {
    pub(crate) id: Id,
    pub(crate) key: ChainKey,
    pub(crate) page: Id,
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
}

/// A new snapshot.
pub(crate) struct NewSnapshot<'a> {
    pub(crate) key: ChainKey,
    pub(crate) page: Id,
    pub(crate) tail: &'a [u32],
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
    pub(crate) now: i64,
    pub(crate) session: Option<&'a str>,
}

pub(crate) struct Index {
    pub(crate) connection: Connection,
    /// See [`make_durable`](Self::make_durable); unknown at first.
    durable: Option<bool>,
}

/// Why an index could not be opened.
pub(crate) enum OpenError {
    /// Written by another version of the program.
    Version(i64),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Index {
    /// The index for the writer; made if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(64);
        let version = version(&connection)?;
        if version == 0 {
            let transaction = connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", FORMAT_VERSION)?;
            transaction.commit()?;
        } else if version != i64::from(FORMAT_VERSION) {
            return Err(OpenError::Version(version));
        }
        let mut index = Self { connection, durable: None };
        index.make_durable(true)?;
        Ok(index)
    }

    /// Whether what is committed from now on is on the disk when that returns, not only in order. A power failure may take the last
    /// commits away otherwise; whatever happens to this process does not.
    pub(crate) fn make_durable(&mut self, durable: bool) -> rusqlite::Result<()> {
        if self.durable != Some(durable) {
            self.connection.pragma_update(None, "synchronous", if durable { "full" } else { "normal" })?;
            self.durable = Some(durable);
        }
        Ok(())
    }

    /// The index for looking things up. `frozen`: nobody can write it, so it needs no locks, which could not be written either.
    pub(crate) fn open_reader(path: &Path, frozen: bool) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let connection = if frozen {
            let uri = format!("file:{}?immutable=1", percent_encoded(path));
            Connection::open_with_flags(uri, flags)?
        } else {
            Connection::open_with_flags(path, flags)?
        };
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(64);
        match version(&connection)? {
            version if version == i64::from(FORMAT_VERSION) => Ok(Self { connection, durable: None }),
            version => Err(OpenError::Version(version)),
        }
    }

    /// Runs `f` in a transaction, which is undone if it fails.
    pub(crate) fn transaction<T>(&mut self, f: impl FnOnce(&Index) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        match f(self).and_then(|value| self.connection.execute_batch("COMMIT").map(|()| value)) {
            Ok(value) => Ok(value),
            Err(error) => {
                // If this fails too, the connection is broken, and the next statement says so.
                let _ = self.connection.execute_batch("ROLLBACK");
                Err(error)
            }
        }
    }

    /// The number of the model with this root, entered if it is new.
    pub(crate) fn model(&self, root: &ChainKey, label: &str, page_tokens: usize) -> rusqlite::Result<Id> {
        self.connection
            .prepare_cached(
                "INSERT INTO models (root, label, page_tokens) VALUES (?1, ?2, ?3)
                 ON CONFLICT (root) DO UPDATE SET label = CASE WHEN ?2 = '' THEN label ELSE ?2 END RETURNING id",
            )?
            .query_row(params![root.as_bytes(), label, page_tokens as i64], |row| row.get(0))
    }

    pub(crate) fn page(&self, key: &ChainKey) -> rusqlite::Result<Option<PageRow>> {
        self.connection
            .prepare_cached("SELECT id, key, parent, bytes FROM pages WHERE key = ?1")?
            .query_row([key.as_bytes()], page_row)
            .optional()
    }

    fn page_by_id(&self, id: Id) -> rusqlite::Result<Option<PageRow>> {
        self.connection
            .prepare_cached("SELECT id, key, parent, bytes FROM pages WHERE id = ?1")?
            .query_row([id], page_row)
            .optional()
    }

    pub(crate) fn add_page(
        &self,
        key: &ChainKey,
        model: Id,
        parent: Option<Id>,
        number: u64,
        bytes: u64,
    ) -> rusqlite::Result<Id> {
        if let Some(parent) = parent {
            self.count_child(parent, 1)?;
        }
        self.connection
            .prepare_cached(
                "INSERT INTO pages (key, model, parent, number, bytes) VALUES (?1, ?2, ?3, ?4, ?5) RETURNING id",
            )?
            .query_row(params![key.as_bytes(), model, parent, number as i64, bytes as i64], |row| row.get(0))
    }

    fn count_child(&self, page: Id, change: i64) -> rusqlite::Result<i64> {
        self.connection
            .prepare_cached("UPDATE pages SET children = children + ?2 WHERE id = ?1 RETURNING children")?
            .query_row([page, change], |row| row.get(0))
    }

    pub(crate) fn snapshot(&self, key: &ChainKey) -> rusqlite::Result<Option<SnapshotRow>> {
        self.connection
            .prepare_cached("SELECT id, key, page, tokens, bytes FROM snapshots WHERE key = ?1")?
            .query_row([key.as_bytes()], snapshot_row)
            .optional()
    }

    pub(crate) fn add_snapshot(&self, new: &NewSnapshot) -> rusqlite::Result<()> {
        self.count_child(new.page, 1)?;
        let NewSnapshot { key, page, tail, tokens, bytes, now, session } = new;
        self.connection
            .prepare_cached(
                "INSERT INTO snapshots (key, page, tail, tokens, bytes, created, used, session)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7)",
            )?
            .execute(params![key.as_bytes(), page, sortable(tail), *tokens as i64, *bytes as i64, now, session])?;
        Ok(())
    }

    /// The deepest snapshot on the way from page `page` to the root whose tail goes on as `tokens`, of which the pages hold
    /// the beginning; it leaves at least one token over.
    pub(crate) fn deepest_snapshot(
        &self,
        page: Id,
        page_tokens: usize,
        tokens: &[u32],
    ) -> rusqlite::Result<Option<(SnapshotRow, usize)>> {
        let mut way = self.connection.prepare_cached(
            "WITH RECURSIVE up (id, parent, number) AS (
                 SELECT id, parent, number FROM pages WHERE id = ?1
                 UNION ALL SELECT pages.id, pages.parent, pages.number FROM up JOIN pages ON pages.id = up.parent
             )
             SELECT id, number FROM up WHERE EXISTS (SELECT 1 FROM snapshots WHERE page = up.id)",
        )?;
        let mut rows = way.query([page])?;
        while let Some(row) = rows.next()? {
            let (page, number): (Id, i64) = (row.get(0)?, row.get(1)?);
            let end = (number as usize + 1).saturating_mul(page_tokens);
            // A page that ends where the prompt does leaves nothing over.
            let Some(rest) = tokens.get(end..tokens.len().saturating_sub(1)) else { continue };
            let rest = &rest[..rest.len().min(page_tokens)];
            if let Some(found) = self.longest_tail(page, rest)? {
                return Ok(Some((found, number as usize + 1)));
            }
        }
        Ok(None)
    }

    /// The snapshot of `page` with the longest tail that `rest` begins with.
    ///
    /// Of all tails not behind `rest` in order, the last is either a beginning of it, or shares a shorter beginning with it
    /// that any answer must be within: so each step shortens `rest`, and a page with thousands of snapshots costs no more.
    fn longest_tail(&self, page: Id, rest: &[u32]) -> rusqlite::Result<Option<SnapshotRow>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, key, page, tokens, bytes, tail FROM snapshots WHERE page = ?1 AND tail <= ?2
             ORDER BY tail DESC LIMIT 1",
        )?;
        let mut rest = sortable(rest);
        loop {
            let found = statement
                .query_row(params![page, rest], |row| Ok((snapshot_row(row)?, row.get::<_, Vec<u8>>(5)?)))
                .optional()?;
            let Some((snapshot, tail)) = found else { return Ok(None) };
            if rest.starts_with(&tail) {
                return Ok(Some(snapshot));
            }
            let common = rest.iter().zip(&tail).take_while(|(a, b)| a == b).count();
            rest.truncate(common / 4 * 4);
        }
    }

    /// A snapshot was used: it and those before it on its way count as used now.
    pub(crate) fn touch(&self, snapshot: &SnapshotRow, now: i64) -> rusqlite::Result<()> {
        self.connection.prepare_cached("UPDATE snapshots SET hits = hits + 1 WHERE id = ?1")?.execute([snapshot.id])?;
        self.touch_way(snapshot, now)
    }

    /// A snapshot and those before it on its way count as used now.
    pub(crate) fn touch_way(&self, snapshot: &SnapshotRow, now: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "WITH RECURSIVE up (id, parent) AS (
                     SELECT id, parent FROM pages WHERE id = ?1
                     UNION ALL SELECT pages.id, pages.parent FROM up JOIN pages ON pages.id = up.parent
                 )
                 UPDATE snapshots SET used = ?2 WHERE page IN (SELECT id FROM up) AND tokens <= ?3 AND used < ?2",
            )?
            .execute(params![snapshot.page, now, snapshot.tokens as i64])?;
        Ok(())
    }

    /// The snapshots before `tokens` tokens on the way from `page` to the root, deepest first, with whether the way branches
    /// at them.
    pub(crate) fn snapshots_before(&self, page: Id, tokens: u64) -> rusqlite::Result<Vec<(SnapshotRow, bool)>> {
        let mut statement = self.connection.prepare_cached(
            "WITH RECURSIVE up (id, parent) AS (
                 SELECT id, parent FROM pages WHERE id = ?1
                 UNION ALL SELECT pages.id, pages.parent FROM up JOIN pages ON pages.id = up.parent
             )
             SELECT snapshots.id, snapshots.key, page, tokens, snapshots.bytes,
                    (SELECT count(*) FROM pages WHERE parent = snapshots.page) > 1
             FROM up JOIN snapshots ON snapshots.page = up.id WHERE tokens < ?2 ORDER BY tokens DESC",
        )?;
        statement.query_map(params![page, tokens as i64], |row| Ok((snapshot_row(row)?, row.get(5)?)))?.collect()
    }

    /// Takes a snapshot out, and the pages that nothing needs any more but `keep`. Returns the files to remove.
    pub(crate) fn remove_snapshot(&self, snapshot: &SnapshotRow, keep: Option<Id>) -> rusqlite::Result<Vec<Removed>> {
        let gone = self.connection.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?.execute([snapshot.id])?;
        if gone == 0 {
            return Ok(Vec::new());
        }
        let mut removed = vec![Removed { key: snapshot.key, is_page: false, bytes: snapshot.bytes }];
        let children = self.count_child(snapshot.page, -1)?;
        if children == 0 {
            removed.extend(self.remove_barren(snapshot.page, keep)?);
        }
        Ok(removed)
    }

    /// Takes a page without children out, and its parents that are then without, but not `keep`.
    pub(crate) fn remove_barren(&self, page: Id, keep: Option<Id>) -> rusqlite::Result<Vec<Removed>> {
        let mut removed = Vec::new();
        let mut next = Some(page);
        while let Some(id) = next.filter(|&id| Some(id) != keep) {
            let Some(page) = self.page_by_id(id)? else { break };
            self.connection.prepare_cached("DELETE FROM pages WHERE id = ?1")?.execute([id])?;
            removed.push(Removed { key: page.key, is_page: true, bytes: page.bytes });
            next = match page.parent {
                Some(parent) if self.count_child(parent, -1)? == 0 => Some(parent),
                _ => None,
            };
        }
        Ok(removed)
    }

    /// Takes a page and everything that continues it out.
    pub(crate) fn remove_subtree(&self, page: &PageRow) -> rusqlite::Result<Vec<Removed>> {
        let mut below = self.connection.prepare_cached(
            "WITH RECURSIVE down (id) AS (
                 SELECT ?1 UNION ALL SELECT pages.id FROM down JOIN pages ON pages.parent = down.id
             )
             SELECT id FROM down",
        )?;
        let ids: Vec<Id> = below.query_map([page.id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut removed = Vec::new();
        // Children first, for the references between them.
        for &id in ids.iter().rev() {
            let snapshots: Vec<Removed> = self
                .connection
                .prepare_cached("DELETE FROM snapshots WHERE page = ?1 RETURNING key, bytes")?
                .query_map([id], |row| {
                    Ok(Removed { key: key(row, 0)?, is_page: false, bytes: row.get::<_, i64>(1)? as u64 })
                })?
                .collect::<rusqlite::Result<_>>()?;
            removed.extend(snapshots);
            let page = self
                .connection
                .prepare_cached("DELETE FROM pages WHERE id = ?1 RETURNING key, bytes")?
                .query_row([id], |row| {
                    Ok(Removed { key: key(row, 0)?, is_page: true, bytes: row.get::<_, i64>(1)? as u64 })
                })?;
            removed.push(page);
        }
        if let Some(parent) = page.parent {
            self.count_child(parent, -1)?;
        }
        Ok(removed)
    }

    /// A page that no snapshot needs, other than `except`.
    pub(crate) fn barren_page(&self, except: Option<Id>) -> rusqlite::Result<Option<Id>> {
        self.connection
            .prepare_cached("SELECT id FROM pages WHERE children = 0 AND id IS NOT ?1 LIMIT 1")?
            .query_row([except], |row| row.get(0))
            .optional()
    }

    /// The snapshot that was not used for longest; of equal ones the deepest.
    pub(crate) fn oldest_snapshot(&self) -> rusqlite::Result<Option<(SnapshotRow, i64)>> {
        self.connection
            .prepare_cached(
                "SELECT id, key, page, tokens, bytes, used FROM snapshots ORDER BY used, tokens DESC LIMIT 1",
            )?
            .query_row([], |row| Ok((snapshot_row(row)?, row.get(5)?)))
            .optional()
    }

    /// Bytes of all files.
    pub(crate) fn total_bytes(&self) -> rusqlite::Result<u64> {
        let sql =
            "SELECT (SELECT coalesce(sum(bytes), 0) FROM pages) + (SELECT coalesce(sum(bytes), 0) FROM snapshots)";
        self.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|bytes| bytes as u64)
    }

    /// Numbers of pages and snapshots.
    pub(crate) fn counts(&self) -> rusqlite::Result<(u64, u64)> {
        let sql = "SELECT (SELECT count(*) FROM pages), (SELECT count(*) FROM snapshots)";
        self.connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))
    }

    /// The keys of all pages and snapshots: a page's with true.
    pub(crate) fn keys(&self) -> rusqlite::Result<Vec<(ChainKey, bool)>> {
        let mut statement =
            self.connection.prepare("SELECT key, 1 FROM pages UNION ALL SELECT key, 0 FROM snapshots")?;
        statement.query_map([], |row| Ok((key(row, 0)?, row.get(1)?)))?.collect()
    }
}

/// A file that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) key: ChainKey,
    pub(crate) is_page: bool,
    pub(crate) bytes: u64,
}

/// Tokens so that their order as bytes is their order as numbers.
fn sortable(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_be_bytes()).collect()
}

pub(crate) fn key(row: &Row, column: usize) -> rusqlite::Result<ChainKey> {
    row.get::<_, [u8; 32]>(column).map(ChainKey::from_bytes)
}

fn page_row(row: &Row) -> rusqlite::Result<PageRow> {
    Ok(PageRow { id: row.get(0)?, key: key(row, 1)?, parent: row.get(2)?, bytes: row.get::<_, i64>(3)? as u64 })
}

fn snapshot_row(row: &Row) -> rusqlite::Result<SnapshotRow> {
    Ok(SnapshotRow {
        id: row.get(0)?,
        key: key(row, 1)?,
        page: row.get(2)?,
        tokens: row.get::<_, i64>(3)? as u64,
        bytes: row.get::<_, i64>(4)? as u64,
    })
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// A path as part of a URI.
fn percent_encoded(path: &Path) -> String {
    path.to_string_lossy()
        .bytes()
        .map(|byte| match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
