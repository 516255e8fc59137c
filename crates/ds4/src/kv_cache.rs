//! Where computed prompts are kept, and how much of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ds4_kvstore::{Access, KvStore, StoreOptions};

use crate::args::{KvCacheArgs, Size};
use crate::exit::UsageError;
use crate::machine::Memory;
use crate::terminal;
use crate::units::bytes;

/// Most that the cache on disk takes if nobody says how much.
const MOST_ON_DISK: u64 = 32 << 30;
/// The part of the machine's memory that states take if nobody says how much.
const PART_OF_MEMORY: u64 = 4;
/// Least memory for states if nobody says how much: some, on the smallest machine.
const LEAST_MEMORY: u64 = 1 << 30;

/// Most memory for what waits to be written to disk, and the part of the memory for states that it is at most: a disk that cannot keep
/// up loses states rather than memory.
const MOST_WAITING: u64 = 256 << 20;
const PART_WAITING: u64 = 4;

/// The memory for states: what was asked for, or a part of the machine's.
pub fn memory_budget(asked: Option<Size>) -> u64 {
    asked.map_or_else(|| (Memory::look().total / PART_OF_MEMORY).max(LEAST_MEMORY), |size| size.0)
}

/// The folder of the cache: what was asked for, or one in the user's cache folder.
///
/// # Errors
/// There is no such folder.
pub fn folder(asked: Option<&Path>) -> Result<PathBuf, UsageError> {
    let default = || Some(user_cache_folder()?.join("ds4").join("kv"));
    asked.map(Path::to_owned).or_else(default).ok_or_else(|| {
        UsageError("this account has no cache folder; --kv-dir names one, --kv-disk 0 does without".to_owned())
    })
}

/// The user's cache folder, by the customs of the system.
pub fn user_cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if cfg!(windows) {
        return set("LOCALAPPDATA");
    }
    let of_home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    // A relative path would make another cache in each working folder.
    set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| Some(set("HOME")?.join(of_home)))
}

/// Opens the cache on disk as the arguments ask. `None` if it is turned off; for the demo model it is unless a folder was named, as
/// everything about that is quick.
///
/// # Errors
/// A folder that cannot be used.
pub fn open(args: &KvCacheArgs, is_demo: bool, quiet: bool) -> anyhow::Result<Option<KvStore>> {
    let is_off = args.kv_disk.is_some_and(|size| size.0 == 0);
    if is_off || (is_demo && args.kv_dir.is_none()) {
        return Ok(None);
    }
    let folder = folder(args.kv_dir.as_deref())?;
    let budget = args.kv_disk.map_or_else(|| default_budget(&folder), |size| size.0);
    let waiting = (memory_budget(args.kv_ram) / PART_WAITING).min(MOST_WAITING);
    let options = StoreOptions {
        warn: Arc::new(|sentence| note(&sentence)),
        queue_bytes: usize::try_from(waiting).unwrap_or(usize::MAX),
        ..StoreOptions::new(&folder, budget)
    };
    let store = KvStore::open(options)?;
    match store.access() {
        Access::Writer if quiet => {}
        Access::Writer => note(&format!(
            "computed prompts are kept in {}, {} of at most {}",
            folder.display(),
            bytes(store.stats().bytes),
            bytes(budget)
        )),
        Access::Reader { writer } => {
            let by = writer.map_or_else(String::new, |pid| format!(" (process {pid})"));
            note(&format!(
                "another process{by} writes the KV cache in {}; this one only reads from it; --kv-dir takes another",
                folder.display()
            ));
        }
        Access::ReadOnlyFolder => {
            note(&format!("the KV cache in {} cannot be written and is only read", folder.display()));
        }
    }
    Ok(Some(store))
}

/// At most a quarter of what the disk has free, counting what the cache has already.
fn default_budget(folder: &Path) -> u64 {
    let there = folder.ancestors().find(|folder| folder.is_dir());
    let free = there.and_then(|folder| {
        let stat = rustix::fs::statvfs(folder).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    });
    let used: u64 = std::fs::read_dir(folder.join("pages"))
        .map_or(0, |entries| entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum());
    MOST_ON_DISK.min(free.unwrap_or(0).saturating_add(used) / 4)
}

fn note(text: &str) {
    terminal::tell(&terminal::printable(&format!("ds4: {text}")), |style, line| style.dim(line).into_owned());
}
