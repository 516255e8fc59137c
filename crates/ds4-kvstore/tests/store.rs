//! What a store finds, shares, forgets and refuses.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ds4_kvstore::{Access, KvStore, Prune, StoreError, StoreOptions};
use proptest::prelude::*;
use support::power::PowerDisk;
use support::{PAGE, Warnings, chain, identity, prefixes, restored, run, save};

const ROOMY: u64 = 1 << 30;
/// Longer than anything here takes.
const HANG: Duration = Duration::from_secs(120);

fn open(folder: &Path) -> KvStore {
    KvStore::open(StoreOptions::new(folder, ROOMY)).expect("a usable folder")
}

fn continued(prompt: &[u32]) -> Vec<u32> {
    [prompt, &[77_777]].concat()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("pages"))
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

#[test]
fn the_longest_stored_beginning_is_found_and_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let prompt = run(1, 23);
    let check = |store: &KvStore| {
        let prefixes = prefixes(store);
        assert_eq!(restored(&prefixes, &continued(&prompt)), 23);
        assert_eq!(restored(&prefixes, &prompt), 9, "a state that is the whole prompt leaves nothing to compute");
        assert_eq!(restored(&prefixes, &run(1, 15)), 9);
        assert_eq!(restored(&prefixes, &run(1, 9)), 8);
        assert_eq!(restored(&prefixes, &[&run(1, 10)[..], &[5; 20]].concat()), 9);
        assert_eq!(restored(&prefixes, &run(2, 23)), 0);
        assert_eq!(restored(&prefixes, &[]), 0);
        assert!(prefixes.find(&chain(&prefixes, &prompt), &prompt, 9).is_none(), "nothing longer than 9");
    };
    {
        let store = open(folder.path());
        let prefixes = prefixes(&store);
        for len in [8, 9, 23] {
            assert!(save(&prefixes, &prompt[..len]));
        }
        store.flush();
        check(&store);
    }
    check(&open(folder.path()));
}

#[test]
fn a_prompt_that_ends_with_a_stored_page_leaves_a_token_to_compute() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let prefixes = prefixes(&store);
    assert!(save(&prefixes, &run(1, PAGE)));
    assert!(save(&prefixes, &run(1, 3 * PAGE)));
    store.flush();
    assert_eq!(restored(&prefixes, &run(1, PAGE)), 0);
    assert_eq!(restored(&prefixes, &run(1, 3 * PAGE)), PAGE);
    assert_eq!(restored(&prefixes, &run(1, 3 * PAGE + 1)), 3 * PAGE);
}

#[test]
fn a_conversation_that_grows_writes_what_is_new() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let prefixes = prefixes(&store);
    let mut written = Vec::new();
    for turn in 1..=20 {
        let before = store.stats().saved_bytes;
        assert!(save(&prefixes, &run(1, turn * 2 * PAGE)));
        store.flush();
        written.push(store.stats().saved_bytes - before);
    }
    assert!(written[1..].iter().all(|&bytes| bytes == written[1]), "{written:?}");
    assert_eq!(files(folder.path(), "page").len(), 40, "each page once");
}

#[test]
fn branches_share_what_they_have_in_common() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let prefixes = prefixes(&store);
    let system = run(1, 5 * PAGE);
    let branch = |n: u32| [&system[..], &[1000 + n; 2 * PAGE]].concat();
    for n in 0..10 {
        assert!(save(&prefixes, &branch(n)));
    }
    store.flush();
    assert_eq!(store.stats().pages, 5 + 10 * 2);
    for n in 0..10 {
        assert_eq!(restored(&prefixes, &continued(&branch(n))), 7 * PAGE);
    }
}

#[test]
fn many_snapshots_at_one_page_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let prefixes = prefixes(&store);
    let system = run(1, 3 * PAGE);
    let with = |tail: &[u32]| [&system[..], tail].concat();
    for a in 0..6_u32 {
        for b in 0..6_u32 {
            assert!(save(&prefixes, &with(&[a, b * 1000])));
        }
        assert!(save(&prefixes, &with(&[a])));
    }
    store.flush();
    assert_eq!(restored(&prefixes, &with(&[4, 2000, 9])), 3 * PAGE + 2);
    assert_eq!(restored(&prefixes, &with(&[4, 2001, 9])), 3 * PAGE + 1);
    assert_eq!(restored(&prefixes, &with(&[256, 2001, 9])), 0, "numbers are compared, not bytes");
    assert_eq!(restored(&prefixes, &with(&[4, 0])), 3 * PAGE + 1);
}

#[test]
fn another_models_states_are_not_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    assert!(save(&prefixes(&store), &run(1, 20)));
    store.flush();
    for other in ["weights 2", "weights 1, exact"] {
        let other = store.prefixes(&identity(other)).expect("a usable index");
        assert_eq!(restored(&other, &continued(&run(1, 20))), 0);
    }
}

#[test]
fn the_limit_is_kept_and_the_least_recently_used_ends_go_first() {
    let folder = tempfile::tempdir().expect("a folder");
    // Each conversation of 8 pages and a snapshot takes 9 blocks of 4096 bytes; there is room for four, and a half.
    let budget = 40 * 4096;
    let store = KvStore::open(StoreOptions::new(folder.path(), budget)).expect("a usable folder");
    let prefixes = prefixes(&store);
    let prompt = |n: u32| run(n * 1000, 8 * PAGE);
    for n in 0..4 {
        assert!(save(&prefixes, &prompt(n)));
        store.flush();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(restored(&prefixes, &continued(&prompt(0))), 32);
    store.flush();
    std::thread::sleep(std::time::Duration::from_millis(2));
    for n in 4..6 {
        assert!(save(&prefixes, &prompt(n)));
        store.flush();
        assert!(store.stats().bytes <= budget, "{:?}", store.stats());
    }
    let found: Vec<usize> = (0..6).map(|n| restored(&prefixes, &continued(&prompt(n)))).collect();
    assert_eq!(found, [32, 0, 0, 32, 32, 32], "0 was used last of the first four");
    assert_eq!(
        files(folder.path(), "page").len() as u64,
        store.stats().pages,
        "what is out of the index is off the disk"
    );
    let too_large = run(50_000, 100 * PAGE);
    save(&prefixes, &too_large);
    store.flush();
    assert_eq!(restored(&prefixes, &continued(&too_large)), 0);
    assert_eq!(restored(&prefixes, &continued(&prompt(5))), 32, "what cannot be kept displaces nothing");
}

#[test]
fn old_snapshots_of_a_long_conversation_thin_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let prefixes = prefixes(&store);
    for turn in 1..=100 {
        save(&prefixes, &run(1, turn * PAGE + 1));
        store.flush();
    }
    let left: Vec<u64> = store.entries().expect("an index").iter().map(|entry| entry.tokens).collect();
    assert!(left.len() < 25, "{left:?}");
    for newest in 96..=100 {
        assert!(left.contains(&(newest * PAGE as u64 + 1)), "{left:?}");
    }
    assert!(left.contains(&(PAGE as u64 + 1)), "the first one stays");
}

/// Every way to damage a file: none is ever used, and only what depends on it is lost.
#[test]
fn damaged_files_are_misses_with_a_warning() {
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change); 7] = [
        ("a flipped bit", |path, _| {
            let mut bytes = fs::read(path).expect("a file");
            let middle = bytes.len() - 100;
            bytes[middle] ^= 4;
            fs::write(path, bytes).expect("writable");
        }),
        ("cut off", |path, _| {
            let bytes = fs::read(path).expect("a file");
            fs::write(path, &bytes[..bytes.len() - 1]).expect("writable");
        }),
        ("empty", |path, _| fs::write(path, []).expect("writable")),
        ("another page", |path, other| {
            fs::copy(other, path).expect("writable");
        }),
        ("another version", |path, _| {
            let mut bytes = fs::read(path).expect("a file");
            bytes[4] = 2;
            fs::write(path, bytes).expect("writable");
        }),
        ("longer", |path, _| {
            let mut bytes = fs::read(path).expect("a file");
            bytes.push(0);
            fs::write(path, bytes).expect("writable");
        }),
        ("a folder", |path, _| {
            fs::remove_file(path).expect("removable");
            fs::create_dir(path).expect("writable");
        }),
    ];
    for extension in ["page", "snap"] {
        for (what, change) in changes {
            let folder = tempfile::tempdir().expect("a folder");
            let warnings = Warnings::default();
            let store =
                KvStore::open(warnings.options(StoreOptions::new(folder.path(), ROOMY))).expect("a usable folder");
            let prefixes = prefixes(&store);
            let (short, long, other) = (run(1, 8), run(1, 20), run(500, 20));
            for prompt in [&short, &long, &other] {
                assert!(save(&prefixes, prompt));
            }
            store.flush();
            let name = match extension {
                "page" => chain(&prefixes, &long).keys()[3].to_string(),
                _ => chain(&prefixes, &long).last().snapshot(&[]).to_string(),
            };
            let other_name = match extension {
                "page" => chain(&prefixes, &other).keys()[3].to_string(),
                _ => chain(&prefixes, &other).last().snapshot(&[]).to_string(),
            };
            let path = |name: &str| folder.path().join("pages").join(format!("{name}.{extension}"));
            change(&path(&name), &path(&other_name));
            assert_eq!(restored(&prefixes, &continued(&long)), 8, "{what} ({extension})");
            let told = warnings.take();
            assert!(told.iter().any(|warning| warning.contains(&name)), "{what} ({extension}): {told:?}");
            assert_eq!(restored(&prefixes, &continued(&other)), 20, "{what} ({extension})");
            // Computed again and saved again, it is whole again.
            if what != "a folder" {
                assert!(save(&prefixes, &long));
                store.flush();
                assert_eq!(restored(&prefixes, &continued(&long)), 20, "{what} ({extension})");
            }
        }
    }
}

#[test]
fn files_that_vanish_are_misses() {
    let folder = tempfile::tempdir().expect("a folder");
    {
        let store = open(folder.path());
        let prefixes = prefixes(&store);
        assert!(save(&prefixes, &run(1, 8)));
        assert!(save(&prefixes, &run(1, 20)));
        store.flush();
        let key = chain(&prefixes, &run(1, 20)).keys()[2];
        fs::remove_file(folder.path().join(format!("pages/{key}.page"))).expect("a file");
        assert_eq!(restored(&prefixes, &continued(&run(1, 20))), 8);
        let key = chain(&prefixes, &run(1, 20)).keys()[0];
        fs::remove_file(folder.path().join(format!("pages/{key}.page"))).expect("a file");
    }
    let store = open(folder.path());
    assert_eq!(restored(&prefixes(&store), &continued(&run(1, 20))), 0);
    assert_eq!(store.stats().pages, 0, "pages without their beginning are of no use");
    assert!(files(folder.path(), "page").is_empty());
}

#[test]
fn a_lost_index_is_built_again_from_the_pages() {
    for damage in [None, Some(b"this is not a database, but it is longer than the header of one would be".as_slice())] {
        let folder = tempfile::tempdir().expect("a folder");
        {
            let store = open(folder.path());
            for prompt in [run(1, 20), run(1, 23), run(900, 13)] {
                assert!(save(&prefixes(&store), &prompt));
            }
        }
        let index = folder.path().join("index.sqlite");
        match damage {
            None => fs::remove_file(&index).expect("a file"),
            Some(bytes) => fs::write(&index, bytes).expect("writable"),
        }
        fs::write(folder.path().join("pages/0.page.tmp"), b"left over").expect("writable");
        fs::write(folder.path().join("pages/strange.page"), b"not ours").expect("writable");
        let store = open(folder.path());
        for prompt in [run(1, 20), run(1, 23), run(900, 13)] {
            assert_eq!(restored(&prefixes(&store), &continued(&prompt)), prompt.len());
        }
        assert_eq!(fs::read_dir(folder.path().join("pages")).expect("a folder").count(), 3 + 5 + 3);
    }
}

#[test]
fn a_second_process_reads_and_is_told_who_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = open(folder.path());
    assert_eq!(writer.access(), Access::Writer);
    assert!(save(&prefixes(&writer), &run(1, 20)));
    writer.flush();
    let reader = open(folder.path());
    assert_eq!(reader.access(), Access::Reader { writer: Some(std::process::id()) });
    let of_reader = prefixes(&reader);
    assert_eq!(restored(&of_reader, &continued(&run(1, 20))), 20);
    assert!(!save(&of_reader, &run(1, 24)), "it writes nothing");
    let error = reader.prune(Prune::default()).expect_err("not the writer");
    assert!(matches!(error, StoreError::NotWriter { pid: Some(_), .. }), "{error}");
    assert!(error.to_string().contains("is being written by another process"), "{error}");
    // What the writer adds and removes, the reader sees.
    assert!(save(&prefixes(&writer), &run(1, 24)));
    writer.flush();
    assert_eq!(restored(&of_reader, &continued(&run(1, 24))), 24);
    writer.prune(Prune { to_bytes: Some(0), ..Prune::default() }).expect("the writer");
    assert_eq!(restored(&of_reader, &continued(&run(1, 24))), 0);
    drop((writer, of_reader, reader));
    assert_eq!(open(folder.path()).access(), Access::Writer, "the lock goes with its holder");
}

#[test]
fn a_reader_writes_once_the_writer_has_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let warnings = Warnings::default();
    let writer = open(folder.path());
    assert!(save(&prefixes(&writer), &run(1, 20)));
    let options = StoreOptions { succession: Duration::from_millis(5), ..StoreOptions::new(folder.path(), ROOMY) };
    let reader = KvStore::open(warnings.options(options)).expect("a usable folder");
    let of_reader = prefixes(&reader);
    assert!(!of_reader.is_writable() && !save(&of_reader, &run(500, 20)));
    drop(writer);
    let begin = Instant::now();
    while !of_reader.is_writable() {
        assert!(begin.elapsed() < HANG, "it never became the writer");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(save(&of_reader, &run(500, 20)), "what was refused before");
    reader.flush();
    assert_eq!(reader.access(), Access::Writer);
    assert_eq!(restored(&of_reader, &continued(&run(500, 20))), 20);
    assert_eq!(restored(&of_reader, &continued(&run(1, 20))), 20, "what the other wrote is still there");
    assert!(reader.entries().expect("an index").iter().all(|entry| entry.model == "test model"));
    assert!(warnings.take().iter().any(|sentence| sentence.contains("this one writes it now")));
    assert!(matches!(open(folder.path()).access(), Access::Reader { .. }), "there is still only one");
}

#[test]
fn pruning_everything_leaves_no_word_of_what_was_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    store.put_fact(ds4_kvstore::TITLES, b"s", b"a title of a secret kind");
    assert!(save(&prefixes(&store), &run(1, 20)));
    store.flush();
    assert_eq!(store.entries().expect("an index")[0].title.as_deref(), Some("a title of a secret kind"));
    store.prune(Prune { to_bytes: Some(0), facts: true, ..Prune::default() }).expect("the writer");
    assert_eq!(store.fact(ds4_kvstore::TITLES, b"s"), None);
    drop(store);
    for entry in fs::read_dir(folder.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = if path.is_file() { fs::read(&path).expect("a file") } else { Vec::new() };
        assert!(!bytes.windows(6).any(|part| part == b"secret"), "{}", path.display());
    }
}

#[test]
fn who_only_looks_does_not_take_the_writers_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let looking = || KvStore::open(StoreOptions { read_only: true, ..StoreOptions::new(folder.path(), ROOMY) });
    let error = looking().expect_err("nothing there");
    assert!(error.to_string().contains("there is no KV cache in"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0, "and nothing was made");
    assert!(save(&prefixes(&open(folder.path())), &run(1, 20)));
    let reader = looking().expect("a store");
    let writer = open(folder.path());
    assert_eq!(writer.access(), Access::Writer);
    assert_eq!(reader.entries().expect("an index").len(), 1);
}

#[test]
fn an_index_of_another_version_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()));
    let index = rusqlite::Connection::open(folder.path().join("index.sqlite")).expect("an index");
    index.pragma_update(None, "user_version", 7).expect("writable");
    drop(index);
    let error = KvStore::open(StoreOptions::new(folder.path(), ROOMY)).expect_err("another version");
    assert!(error.to_string().contains("has format version 7, this program knows 1"), "{error}");
}

#[test]
fn a_full_disk_costs_what_was_to_be_written_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let (disk, warnings) = (PowerDisk::default(), Warnings::default());
    let mut options = warnings.options(StoreOptions::new(folder.path(), ROOMY));
    options.storage = Arc::new(disk.clone());
    let store = KvStore::open(options).expect("a usable folder");
    let prefixes = prefixes(&store);
    assert!(save(&prefixes, &run(1, 80)));
    store.flush();
    disk.set_full(true);
    assert!(save(&prefixes, &run(900, 12)), "it is queued");
    store.flush();
    assert_eq!(restored(&prefixes, &continued(&run(900, 12))), 0);
    assert_eq!(store.stats().dropped, 1);
    let told = warnings.take();
    assert!(told.len() == 1 && told[0].contains("is full"), "{told:?}");
    disk.set_full(false);
    assert!(save(&prefixes, &run(900, 12)));
    store.flush();
    assert_eq!(restored(&prefixes, &continued(&run(900, 12))), 12);
}

#[test]
fn counters_can_be_watched_without_keeping_the_store_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let watch = store.watch();
    assert_eq!(watch.stats(), Some(store.stats()));
    drop(store);
    assert_eq!(watch.stats(), None);
    assert_eq!(open(folder.path()).access(), Access::Writer);
}

#[test]
fn a_busy_writer_takes_no_more_than_its_queue_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = StoreOptions::new(folder.path(), ROOMY);
    options.queue_bytes = 1;
    let store = KvStore::open(options).expect("a usable folder");
    let prefixes = prefixes(&store);
    let taken = (0..200).filter(|&n| save(&prefixes, &run(n * 100, 20))).count() as u64;
    store.flush();
    let stats = store.stats();
    assert_eq!((stats.snapshots, stats.dropped), (taken, 200 - taken));
    assert!(taken > 0 && stats.queued_bytes == 0);
}

#[test]
fn facts_are_kept_by_space_and_name() {
    let folder = tempfile::tempdir().expect("a folder");
    {
        let store = open(folder.path());
        store.put_fact("turn", b"a", b"1");
        store.put_fact("turn", b"a", b"2");
        store.put_fact("call", b"a", &[0; 1000]);
        store.flush();
        assert_eq!(store.fact("turn", b"a").as_deref(), Some(&b"2"[..]));
    }
    let store = open(folder.path());
    assert_eq!(store.fact("turn", b"a").as_deref(), Some(&b"2"[..]));
    assert_eq!(store.fact("call", b"a").map(|value| value.len()), Some(1000));
    assert_eq!(store.fact("call", b"b"), None);
    store.put_fact("turn", b"b", b"3");
    store.flush();
    assert_eq!(store.facts("turn"), [(b"a".to_vec(), b"2".to_vec()), (b"b".to_vec(), b"3".to_vec())]);
    store.forget_fact("turn", b"a");
    store.forget_fact("turn", b"c");
    store.flush();
    assert_eq!(store.facts("turn"), [(b"b".to_vec(), b"3".to_vec())]);
    assert_eq!(store.facts("call").len(), 1);
}

#[test]
fn an_exported_prefix_is_used_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("prefix.ds4kv");
    let prompt = run(1, 70 * PAGE + 3);
    {
        let store = open(&folder.path().join("a"));
        assert!(save(&prefixes(&store), &prompt));
        store.flush();
        let entry = store.entries().expect("an index").remove(0);
        assert_eq!(store.entry(&entry.key.to_string()[..10]).expect("found"), entry);
        assert_eq!(store.tokens_of(&entry).expect("an index"), Some(prompt.clone()));
        let bytes = store.export(&entry, &file).expect("writable");
        assert_eq!(bytes, fs::metadata(&file).expect("a file").len());
    }
    let store = open(&folder.path().join("b"));
    assert_eq!(store.import(&file).expect("an intact file"), prompt.len() as u64);
    assert_eq!(restored(&prefixes(&store), &continued(&prompt)), prompt.len());
    let whole = fs::read(&file).expect("a file");
    let other = open(&folder.path().join("c"));
    for len in (0..whole.len()).step_by(997).chain([whole.len() - 1]) {
        fs::write(&file, &whole[..len]).expect("writable");
        let error = other.import(&file).expect_err("cut off");
        assert!(error.to_string().contains("is not a usable export"), "{error}");
    }
    for place in (0..whole.len()).step_by(1013) {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        fs::write(&file, &damaged).expect("writable");
        // The model's name is the one thing that may change.
        if !(12..22).contains(&place) {
            other.import(&file).expect_err("damaged");
        }
    }
    assert_eq!(restored(&prefixes(&other), &continued(&prompt)), 0);
}

#[test]
fn verification_finds_damage_and_repair_takes_it_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let prefixes = prefixes(&store);
    assert!(save(&prefixes, &run(1, 20)));
    assert!(save(&prefixes, &run(300, 20)));
    store.flush();
    let mut read = 0;
    assert_eq!(store.verify(|_, all| read = all).expect("an index"), []);
    assert_eq!(read, 12);
    let key = chain(&prefixes, &run(1, 20)).keys()[1];
    fs::write(folder.path().join(format!("pages/{key}.page")), b"?").expect("writable");
    let faults = store.verify(|_, _| ()).expect("an index");
    assert_eq!(faults.iter().map(|fault| fault.key).collect::<Vec<_>>(), [key]);
    store.repair(faults).expect("the writer");
    assert_eq!(store.verify(|_, _| ()).expect("an index"), []);
    assert_eq!(store.entries().expect("an index").len(), 1);
    assert_eq!(store.stats().pages, 1 + 5, "the page before the damaged one stays");
    let (before, after) = store.prune(Prune::default()).expect("the writer");
    assert_eq!(before - after, 4096, "until nobody needs it");
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_what_was_said() {
    use std::os::unix::fs::PermissionsExt;
    let outer = tempfile::tempdir().expect("a folder");
    let folder = outer.path().join("new/kv");
    let store = open(&folder);
    assert!(save(&prefixes(&store), &run(1, 20)));
    store.flush();
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("pages"))), (0o700, 0o700));
    for path in files(&folder, "page").into_iter().chain(files(&folder, "snap")) {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    for entry in fs::read_dir(&folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        assert!(path.is_dir() || mode(&path) == 0o600, "{}", path.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against the plainest model there is: a list of what was saved.
    #[test]
    fn it_finds_what_a_list_would(
        saved in prop::collection::vec(prop::collection::vec(0_u32..3, PAGE..20), 1..12),
        asked in prop::collection::vec(prop::collection::vec(0_u32..3, 0..24), 1..12),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path());
        let prefixes = prefixes(&store);
        for tokens in &saved {
            save(&prefixes, tokens);
        }
        store.flush();
        // What the thinning left.
        let left: Vec<Vec<u32>> = store
            .entries()
            .expect("an index")
            .iter()
            .map(|entry| store.tokens_of(entry).expect("an index").expect("intact"))
            .collect();
        prop_assert!(left.iter().all(|tokens| saved.contains(tokens)));
        prop_assert!(saved.last().is_some_and(|last| left.contains(last)));
        for prompt in &asked {
            let expected = left
                .iter()
                .filter(|tokens| tokens.len() < prompt.len() && prompt.starts_with(tokens))
                .map(Vec::len)
                .max();
            prop_assert_eq!(restored(&prefixes, prompt), expected.unwrap_or(0));
        }
    }
}
