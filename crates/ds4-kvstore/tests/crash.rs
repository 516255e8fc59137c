//! The power fails after every single operation: what was finished is still there, nothing wrong ever comes back, and the store
//! goes on.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ds4_kvstore::{KvStore, StoreOptions};
use support::power::{Chance, PowerDisk};
use support::{prefixes, restored, run, save};

/// Cuts in all.
const CUTS: usize = 1000;

fn open(folder: &Path, disk: &PowerDisk, budget: u64) -> KvStore {
    let mut options = StoreOptions::new(folder, budget);
    options.storage = Arc::new(disk.clone());
    KvStore::open(options).expect("a store always opens")
}

/// A few conversations that grow, branch and are read again. Each is the list of its prompts.
fn conversations(seed: u64) -> Vec<Vec<u32>> {
    let mut chance = Chance(seed);
    let system = run(1000, 9 + chance.below(8));
    let mut ends: Vec<Vec<u32>> = Vec::new();
    let mut prompts = Vec::new();
    for _ in 0..6 {
        let mut prompt = match ends.len() {
            0 => system.clone(),
            n if chance.below(3) > 0 => ends[chance.below(n)].clone(),
            _ => system.clone(),
        };
        prompt.extend(run(chance.below(4) as u32 * 100, 1 + chance.below(11)));
        prompts.push(prompt.clone());
        ends.push(prompt);
    }
    prompts
}

/// Saves the prompts one after the other. Returns those that were on the disk before the power failed.
fn work(store: &KvStore, disk: &PowerDisk, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let prefixes = prefixes(store);
    let mut finished = Vec::new();
    for prompt in prompts {
        restored(&prefixes, prompt);
        save(&prefixes, prompt);
        store.flush();
        if disk.is_off() {
            break;
        }
        finished.push(prompt.clone());
    }
    finished
}

/// A prompt that goes on after `prompt`.
fn continued(prompt: &[u32]) -> Vec<u32> {
    [prompt, &[77_777]].concat()
}

#[test]
fn a_thousand_power_failures() {
    let memory = Path::new("/dev/shm");
    let mut done = 0;
    let mut seed = 0;
    while done < CUTS {
        seed += 1;
        let prompts = conversations(seed);
        let roomy = seed % 3 != 0;
        let budget = if roomy { 1 << 30 } else { 40 << 10 };
        let whole = PowerDisk::default();
        let folder = tempfile::tempdir().expect("a folder");
        work(&open(folder.path(), &whole, budget), &whole, &prompts);
        let operations = whole.operations();
        for cut in 0..operations {
            let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            let folder = folder.expect("a folder");
            let disk = PowerDisk::default();
            // Opened before the power can fail: a store that never was has nothing to lose.
            let store = open(folder.path(), &disk, budget);
            disk.cut_after(disk.operations() + cut);
            let finished = work(&store, &disk, &prompts);
            drop(store);

            let mut chance = Chance((seed << 20) + cut as u64);
            let disk = disk.after_power_failure(&mut chance);
            let lost_index = chance.below(4) == 0;
            if lost_index {
                fs::write(
                    folder.path().join("index.sqlite"),
                    b"no database at all, and longer than a header is: 0123456789",
                )
                .expect("writable");
                for name in ["index.sqlite-wal", "index.sqlite-shm"] {
                    let _ = fs::remove_file(folder.path().join(name));
                }
            }
            let store = open(folder.path(), &disk, budget);
            let prefixes = prefixes(&store);
            for prompt in &prompts {
                let found = restored(&prefixes, &continued(prompt));
                if roomy && finished.contains(prompt) {
                    let what = if lost_index { "a lost index" } else { "its index" };
                    assert_eq!(found, prompt.len(), "seed {seed}, cut {cut}, with {what}");
                }
            }
            assert!(store.stats().bytes <= budget, "{:?}", store.stats());
            // And it goes on.
            let more = continued(&prompts[0]);
            save(&prefixes, &more);
            store.flush();
            assert_eq!(restored(&prefixes, &continued(&more)), more.len(), "seed {seed}, cut {cut}");
            drop((prefixes, store));
            // A second start finds the same.
            let store = open(folder.path(), &disk, budget);
            assert_eq!(restored(&support::prefixes(&store), &continued(&more)), more.len());
            done += 1;
            if done == CUTS {
                break;
            }
        }
    }
}
