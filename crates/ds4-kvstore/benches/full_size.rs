//! The store at the sizes of V4 Flash: `cargo bench -p ds4-kvstore -- [FOLDER [restore|lookup]]`. FOLDER should be on the disk that
//! is to be measured, with 2 GB free; the payloads are random bytes.
//!
//! Prints how quickly 100 000 tokens are written behind, how quickly they come back beside a plain sequential read of as many bytes
//! from the same disk (all with nothing in the page cache, where the system lets go of it), and how long it takes to
//! look a prompt of 100 000 tokens up among 10 000 stored ones.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use ds4_kvstore::{Chain, Identity, KvStore, Prefixes, Save, StoreOptions};

/// Tokens and bytes of a page, bytes of a snapshot: docs/kv-format.md.
const PAGE_TOKENS: usize = 128;
const PAGE_BYTES: usize = 449_132;
const SNAPSHOT_BYTES: usize = 4_622_592;
const PAGES: usize = 100_000 / PAGE_TOKENS;
const OTHERS: u32 = 10_000;
/// Rounds of which the medians count.
const ROUNDS: usize = 9;

fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x ^ x >> 31).to_le_bytes()
    });
    words.take(len).collect()
}

fn identity() -> Identity {
    Identity { label: "full size".to_owned(), detail: "benchmark".to_owned(), page_tokens: PAGE_TOKENS }
}

fn chain(prefixes: &Prefixes, tokens: &[u32]) -> Chain {
    let mut chain = prefixes.chain();
    chain.extend(tokens);
    chain
}

/// Lets the system forget a file's contents.
fn forget(path: &Path) {
    if let Ok(file) = File::open(path) {
        let _ = rustix::fs::fsync(file.as_fd());
        let _ = rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::DontNeed);
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Seconds that processors have spent on this process.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    // In hundredths, whatever the kernel's own clock.
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let folder = match arguments.next() {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let part = arguments.next();
    let is_wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    let folder = folder.expect("a folder");
    let options = || StoreOptions { queue_bytes: 1 << 30, ..StoreOptions::new(folder.path().join("kv"), 1 << 40) };
    let prompt: Vec<u32> = (0..=(PAGES * PAGE_TOKENS) as u32).collect();
    let whole = &prompt[..PAGES * PAGE_TOKENS];
    let bytes = (PAGES * PAGE_BYTES + SNAPSHOT_BYTES) as f64;

    let store = KvStore::open(options()).expect("a store");
    let prefixes = store.prefixes(&identity()).expect("an index");
    let pages = (0..PAGES).map(|page| random_bytes(PAGE_BYTES, page as u64).into()).collect();
    let snapshot = Some(random_bytes(SNAPSHOT_BYTES, 1 << 32).into());
    let parent = prefixes.chain().root();
    let save = Save { first_page: 0, parent, tokens: whole.to_vec(), pages, snapshot, session: None };
    let begin = Instant::now();
    assert!(prefixes.save(save), "taken");
    let queued = begin.elapsed();
    store.flush();
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "write {:.0} MB behind: handed over in {queued:.2?}, on disk after {seconds:.2} s, {:.0} MB/s",
        bytes / 1e6,
        bytes / 1e6 / seconds
    );

    if is_wanted("restore") {
        restore(folder.path(), &prefixes, &prompt, bytes);
    }
    if is_wanted("lookup") {
        lookup(&store, &prefixes, &prompt);
    }
}

/// Reads the prompt's state and as many bytes of one file, in turns. The state is read twice: a virtual machine may have to ask its
/// host for memory that was not used for a while, at a fraction of the speed of a disk. The second time the memory is at hand, and
/// what is measured is the store.
fn restore(folder: &Path, prefixes: &Prefixes, prompt: &[u32], bytes: f64) {
    let plain = folder.join("plain");
    let mut file = File::create(&plain).expect("a file");
    (0..PAGES + 10).for_each(|page| file.write_all(&random_bytes(PAGE_BYTES, page as u64)).expect("room"));
    file.sync_all().expect("a disk");
    let plain_bytes = file.metadata().expect("a file").len() as f64;
    drop(file);
    let forget_all = || {
        let entries = std::fs::read_dir(folder.join("kv/pages")).expect("a folder");
        entries.for_each(|entry| forget(&entry.expect("an entry").path()));
        forget(&plain);
    };

    let (mut cached, mut direct, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut busy = Vec::new();
    for _ in 0..ROUNDS {
        forget_all();
        cached.push(read_plainly(&plain));
        forget_all();
        direct.push(read_directly(&plain));
        for times in [&mut first, &mut second] {
            forget_all();
            let (begin, busy_before) = (Instant::now(), processor_seconds());
            let loaded = prefixes.restore(&chain(prefixes, prompt), prompt, 0).expect("stored");
            times.push(begin.elapsed().as_secs_f64());
            busy.push(processor_seconds() - busy_before);
            assert_eq!((loaded.tokens, loaded.pages.len()), (PAGES * PAGE_TOKENS, PAGES));
        }
    }
    let plain_rate = plain_bytes / median(cached.clone());
    println!(
        "plain reads of as many bytes, MB/s: {:.0} as dd bs=1M (from {:.0} to {:.0}), {:.0} past the page cache",
        plain_rate / 1e6,
        plain_bytes / 1e6 / cached.iter().copied().fold(0.0, f64::max),
        plain_bytes / 1e6 / cached.iter().copied().fold(f64::INFINITY, f64::min),
        plain_bytes / 1e6 / median(direct),
    );
    for (what, times, skip) in [("with memory that was not used before", first, 0), ("with memory at hand", second, 1)]
    {
        let seconds = median(times);
        println!(
            "{} tokens restored {what} in {:.0} ms ({:.0} ms of processors), {:.0} MB/s, {:.0} % of a plain read",
            PAGES * PAGE_TOKENS,
            seconds * 1e3,
            median(busy.iter().copied().skip(skip).step_by(2).collect()) * 1e3,
            bytes / 1e6 / seconds,
            100.0 * bytes / seconds / plain_rate,
        );
    }
}

/// Seconds that `dd bs=1M of=/dev/null` takes.
fn read_plainly(path: &Path) -> f64 {
    let begin = Instant::now();
    let mut file = File::open(path).expect("a file");
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).expect("a file") > 0 {}
    begin.elapsed().as_secs_f64()
}

/// Seconds that `dd bs=1M iflag=direct of=/dev/null` takes.
fn read_directly(path: &Path) -> f64 {
    let begin = Instant::now();
    let file = File::open(path).expect("a file");
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::DIRECT).expect("a file system that can");
    let mut buffer = vec![0; (1 << 20) + 4096];
    let aligned = buffer.as_ptr().align_offset(4096);
    while rustix::io::read(&file, &mut buffer[aligned..aligned + (1 << 20)]).expect("a file") == 1 << 20 {}
    begin.elapsed().as_secs_f64()
}

/// Looks the prompt, and some that leave it on the way, up among many.
fn lookup(store: &KvStore, prefixes: &Prefixes, prompt: &[u32]) {
    let whole = &prompt[..PAGES * PAGE_TOKENS];
    // Others that begin alike, each with some pages of its own.
    for number in 0..OTHERS {
        let shared = PAGES - 1 - number as usize % 700;
        let mut tokens = whole[..shared * PAGE_TOKENS].to_vec();
        tokens.extend([number + 1_000_000; PAGE_TOKENS]);
        tokens.push(number);
        let chain = chain(prefixes, &tokens);
        let first_page = prefixes.stored_pages(&chain);
        let pages = (first_page..chain.keys().len()).map(|_| Bytes::from_static(&[1; 16])).collect();
        let parent = chain.parent_of(first_page);
        let tokens = tokens[first_page * PAGE_TOKENS..].to_vec();
        while !prefixes.save(Save {
            first_page,
            parent,
            tokens: tokens.clone(),
            pages: Vec::clone(&pages),
            snapshot: Some(Bytes::from_static(&[2; 16])),
            session: None,
        }) {
            store.flush();
        }
    }
    store.flush();
    let entries = store.entries().expect("an index").len();
    let mut times = Vec::new();
    for number in 0..200_u32 {
        // Half of them leave the stored prompts somewhere on the way.
        let mut asked = prompt.to_vec();
        if number % 2 == 0 {
            asked.truncate(50_000 + 200 * number as usize);
            asked.extend([5; 50]);
        }
        let begin = Instant::now();
        let chain = chain(prefixes, &asked);
        let found = prefixes.find(&chain, &asked, 0);
        times.push(begin.elapsed().as_secs_f64());
        assert!(number % 2 == 0 || found.is_some_and(|found| found.tokens == whole.len()));
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    println!(
        "lookup of a prompt of {} tokens among {entries}: median {:.2} ms, worst of 200 {:.2} ms, hashing included",
        prompt.len(),
        median(times) * 1e3,
        worst * 1e3
    );
}
