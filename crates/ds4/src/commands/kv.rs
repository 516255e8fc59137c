//! `ds4 kv`: the KV cache on disk.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use ds4_kvstore::{Entry, KvStore, Prune, StoreOptions};
use serde_json::json;

use crate::args::{KvArgs, KvCommand, ModelArgs, PruneArgs};
use crate::exit::{Outcome, output_error};
use crate::kv_cache;
use crate::model_source::{LoadedModel, ModelSource};
use crate::terminal::{self, Progress, Unit};
use crate::units::{bytes, counted, grouped};

const UNLIMITED: u64 = i64::MAX as u64;
/// Tokens of the end of a conversation that are shown.
const SHOWN: usize = 200;

/// Looks at the cache, or tidies it.
///
/// # Errors
/// No cache, an unknown id, a file that cannot be read or written, another process that writes the cache.
pub fn execute(args: &KvArgs) -> anyhow::Result<Outcome> {
    let folder = kv_cache::folder(args.kv_dir.as_deref())?;
    match &args.command {
        KvCommand::Ls { all, json } => list(&look(&folder)?, *all, *json),
        KvCommand::Show { id, model } => show(&look(&folder)?, id, model),
        KvCommand::Verify { repair } => verify(&folder, *repair),
        KvCommand::Prune(what) => prune(&change(&folder)?, what),
        KvCommand::Export { id, file } => {
            let store = look(&folder)?;
            let written = store.export(&store.entry(id)?, file)?;
            print(&format!("{} written to {}\n", bytes(written), file.display()))
        }
        KvCommand::Import { file } => {
            let tokens = change(&folder)?.import(file)?;
            print(&format!("{} taken in\n", counted(tokens, "token")))
        }
    }
}

/// The cache to look at; whoever writes it goes on.
fn look(folder: &Path) -> anyhow::Result<KvStore> {
    Ok(KvStore::open(StoreOptions { read_only: true, ..options(folder) })?)
}

/// The cache to change.
fn change(folder: &Path) -> anyhow::Result<KvStore> {
    Ok(KvStore::open(options(folder))?)
}

/// A store of any size: tidying up removes what it is told to, and nothing else.
fn options(folder: &Path) -> StoreOptions {
    let warn = |sentence: String| terminal::tell(&terminal::printable(&sentence), |_, line| line.to_owned());
    StoreOptions { warn: std::sync::Arc::new(warn), ..StoreOptions::new(folder, UNLIMITED) }
}

fn list(store: &KvStore, all: bool, as_json: bool) -> anyhow::Result<Outcome> {
    let entries: Vec<Entry> = store.entries()?.into_iter().filter(|entry| all || entry.is_end).collect();
    if as_json {
        let list: Vec<_> = entries.iter().map(as_value).collect();
        return print(&format!("{:#}\n", serde_json::Value::from(list)));
    }
    let mut text = String::new();
    if !entries.is_empty() {
        let _ = writeln!(
            text,
            "{:12}  {:>9}  {:>6}  {:>5}  {:24}  title or session",
            "id", "tokens", "used", "hits", "model"
        );
    }
    for entry in &entries {
        let name = entry.title.as_deref().or(entry.session.as_deref()).unwrap_or("");
        let line = format!(
            "{:12}  {:>9}  {:>6}  {:>5}  {:24}  {}",
            entry.key.short(),
            grouped(entry.tokens),
            ago(entry.used),
            entry.hits,
            shortened(&entry.model, 24),
            shortened(name, 36),
        );
        // What clients call their sessions is not ours to trust.
        let _ = writeln!(text, "{}", terminal::printable(line.trim_end()));
    }
    let all = store.totals()?;
    let _ = writeln!(
        text,
        "{} in {} and {} in {}",
        bytes(all.bytes),
        counted(all.pages, "page"),
        counted(all.snapshots, "snapshot"),
        store.folder().display()
    );
    print(&text)
}

fn as_value(entry: &Entry) -> serde_json::Value {
    json!({
        "id": entry.key.to_string(),
        "model": entry.model,
        "identity": entry.root.to_string(),
        "tokens": entry.tokens,
        "pages": entry.pages,
        "snapshot_bytes": entry.bytes,
        "created_ms": entry.created,
        "used_ms": entry.used,
        "hits": entry.hits,
        "session": entry.session,
        "title": entry.title,
        "is_end": entry.is_end,
    })
}

fn show(store: &KvStore, id: &str, model: &ModelArgs) -> anyhow::Result<Outcome> {
    let entry = store.entry(id)?;
    let pages = store.pages_of(&entry)?;
    let page_bytes: u64 = pages.iter().map(|(_, bytes)| bytes).sum();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:9} {}", terminal::printable(&value));
    };
    line("id", entry.key.to_string());
    line("model", if entry.model.is_empty() { "not known".to_owned() } else { entry.model.clone() });
    line("identity", entry.root.to_string());
    line("tokens", grouped(entry.tokens));
    line("pages", format!("{}, {}", grouped(entry.pages), bytes(page_bytes)));
    line("snapshot", bytes(entry.bytes));
    line("written", format!("{} ago", ago(entry.created)));
    line("used", format!("{} ago, continued {}", ago(entry.used), counted(entry.hits, "time")));
    line("session", entry.session.clone().unwrap_or_else(|| "not known".to_owned()));
    let Some(tokens) = store.tokens_of(&entry)? else {
        print(&text)?;
        bail!("one of its files is damaged; `ds4 kv verify --repair` takes it out");
    };
    if let Some(path) = &model.model {
        let loaded = LoadedModel::open(&ModelSource::new(Some(path.as_path())))?;
        let end = &tokens[tokens.len().saturating_sub(SHOWN)..];
        let said = loaded.tokenizer.decode_lossy(end);
        let _ = write!(text, "\nThe last {}:\n{}\n", counted(end.len() as u64, "token"), terminal::printable(&said));
    }
    print(&text)
}

fn verify(folder: &Path, repair: bool) -> anyhow::Result<Outcome> {
    let store = if repair { change(folder)? } else { look(folder)? };
    let all = store.totals()?;
    let progress = Progress::new("checking", all.bytes, Unit::Bytes);
    // In proportion to the files: most are pages, which have one size.
    let faults = store.verify(|done, files| progress.set(all.bytes / files.max(1) as u64 * done as u64))?;
    drop(progress);
    let mut text = String::new();
    for fault in &faults {
        let kind = if fault.is_page { "page" } else { "snapshot" };
        let _ = writeln!(text, "{kind} {}: {}", fault.key, fault.why);
    }
    let damaged = faults.len() as u64;
    let _ = writeln!(text, "{} checked, {} damaged", counted(all.pages + all.snapshots, "file"), grouped(damaged));
    if repair && damaged > 0 {
        store.repair(faults)?;
        text.push_str("what was damaged was removed, with everything that needs it\n");
    }
    print(&text)?;
    Ok(if damaged == 0 || repair { Outcome::Done } else { Outcome::Failed })
}

fn prune(store: &KvStore, what: &PruneArgs) -> anyhow::Result<Outcome> {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    let before = store.stats().bytes;
    if let Some(id) = &what.id {
        store.remove(&store.entry(id)?)?;
    }
    let to_bytes = if what.all { Some(0) } else { what.to.map(|size| size.0) };
    let unused_since = what.unused.map(|days| now().saturating_sub(i64::from(days) * DAY));
    let (_, after) = store.prune(Prune { to_bytes, unused_since, only_root: None, facts: what.all })?;
    print(&format!("{} removed, {} left\n", bytes(before.saturating_sub(after)), bytes(after)))
}

fn print(text: &str) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output_error)?;
    Ok(Outcome::Done)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as i64)
}

/// How long ago a time in milliseconds was, in its largest unit.
fn ago(time: i64) -> String {
    let seconds = now().saturating_sub(time).max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}
