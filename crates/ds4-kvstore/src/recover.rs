//! What happens when a store is opened for writing: files and index are brought together again.
//!
//! A crash can leave temporary files, finished files that the index does not know yet, and files that it does not know any more.
//! Finished files are entered again if they are intact and hang together, so that what was written is not lost; the
//! rest is removed. Entries whose file is gone are taken out with everything behind them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::index::{Index, NewSnapshot};
use crate::key::ChainKey;
use crate::record::{Header, Kind, longest_file, read};
use crate::storage::{ReadMemory, Storage};
use crate::store::{Warn, disk_bytes, file_name};

/// Brings the folder of files and the index together. Returns the keys of what there is then.
pub(crate) fn recover(
    storage: &dyn Storage,
    pages: &Path,
    index: &mut Index,
    now: i64,
    warn: &Warn,
) -> rusqlite::Result<HashSet<ChainKey>> {
    let files = match storage.list(pages) {
        Ok(files) => files,
        Err(error) => {
            warn(format!("the KV cache's folder {} cannot be listed: {error}", pages.display()));
            Vec::new()
        }
    };
    let mut on_disk: HashMap<String, u64> = files.into_iter().collect();
    let mut known = HashSet::new();
    let mut gone = Vec::new();
    for (key, is_page) in index.keys()? {
        if on_disk.remove(&file_name(&key, is_page)).is_some() {
            known.insert(key);
        } else {
            gone.push((key, is_page));
        }
    }
    for (key, is_page) in gone {
        let removed = index.transaction(|index| match is_page {
            true => index.page(&key)?.map_or(Ok(Vec::new()), |page| index.remove_subtree(&page)),
            false => index.snapshot(&key)?.map_or(Ok(Vec::new()), |snapshot| index.remove_snapshot(&snapshot, None)),
        })?;
        for removed in removed {
            known.remove(&removed.key);
            // What cannot be removed now is found again next time.
            let _ = storage.remove(&pages.join(file_name(&removed.key, removed.is_page)));
        }
    }
    adopt(storage, pages, index, on_disk, now, &mut known)?;
    Ok(known)
}

/// Enters the files that the index does not know, parents first; removes those that are of no use.
fn adopt(
    storage: &dyn Storage,
    pages: &Path,
    index: &mut Index,
    strangers: HashMap<String, u64>,
    now: i64,
    known: &mut HashSet<ChainKey>,
) -> rusqlite::Result<()> {
    let mut candidates: Vec<(Header, u64)> = Vec::new();
    for name in strangers.into_keys() {
        let path = pages.join(&name);
        let header = storage.read(&path, longest_file(), &mut ReadMemory::default()).ok().and_then(|bytes| {
            let (header, _) = read(&bytes).ok()?;
            (name == file_name(&header.key(), header.kind == Kind::Page)).then_some((header, bytes.len() as u64))
        });
        match header {
            Some((header, len)) => candidates.push((header, len)),
            None => {
                let _ = storage.remove(&path);
            }
        }
    }
    // A page before what continues it; a snapshot after the page that it hangs on.
    candidates.sort_by_key(|(header, _)| (header.position, header.kind == Kind::Snapshot));
    for (header, len) in candidates {
        let (key, bytes) = (header.key(), disk_bytes(len));
        let adopted = index.transaction(|index| {
            let parent = match (header.position, index.page(&header.parent)?) {
                (_, Some(parent)) => Some(parent.id),
                (0, None) if header.parent == header.root && header.kind == Kind::Page => None,
                _ => return Ok(false),
            };
            match header.kind {
                Kind::Page if header.tokens.is_empty() => return Ok(false),
                Kind::Page => {
                    let model = index.model(&header.root, "", header.tokens.len())?;
                    let number = header.position / header.tokens.len() as u64;
                    index.add_page(&key, model, parent, number, bytes)?;
                }
                Kind::Snapshot => {
                    let Some(page) = parent else { return Ok(false) };
                    let (tail, tokens) = (header.tokens.as_slice(), header.end());
                    index.add_snapshot(&NewSnapshot { key, page, tail, tokens, bytes, now, session: None })?;
                }
            }
            Ok(true)
        })?;
        if adopted {
            known.insert(key);
        } else {
            let _ = storage.remove(&pages.join(file_name(&key, header.kind == Kind::Page)));
        }
    }
    Ok(())
}
