//! A file system in memory whose power can fail: after a given number of operations nothing works any more, and what was not
//! synced is then lost, kept or torn, by chance.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use ds4_kvstore::storage::{ReadMemory, Storage};

#[derive(Clone, Default)]
pub struct PowerDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: Vec<Contents>,
    /// Names as the running system sees them.
    names: HashMap<PathBuf, usize>,
    /// Names as they are on the disk.
    durable_names: HashMap<PathBuf, usize>,
    operations: usize,
    /// Operations that work before the power fails.
    cut: Option<usize>,
    /// Writes fail for lack of room.
    full: bool,
}

#[derive(Clone, Default)]
struct Contents {
    bytes: Vec<u8>,
    durable: Option<Vec<u8>>,
}

/// A small random number generator.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n.max(1)
    }
}

impl PowerDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    fn operation(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.operations += 1;
        match state.cut {
            Some(cut) if state.operations > cut => Err(io::Error::other("the power is off")),
            _ => Ok(state),
        }
    }

    pub fn operations(&self) -> usize {
        self.state().operations
    }

    pub fn cut_after(&self, operations: usize) {
        self.state().cut = Some(operations);
    }

    pub fn is_off(&self) -> bool {
        let state = self.state();
        state.cut.is_some_and(|cut| state.operations > cut)
    }

    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// The disk as the next start of the machine finds it.
    pub fn after_power_failure(&self, chance: &mut Chance) -> Self {
        let state = self.state();
        let mut survived = State::default();
        let mut names: Vec<&PathBuf> = state.names.keys().chain(state.durable_names.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let (new, old) = (state.names.get(name), state.durable_names.get(name));
            let chosen = if new == old || chance.below(2) == 0 { new } else { old };
            let Some(&file) = chosen else { continue };
            let Contents { bytes, durable } = &state.files[file];
            let bytes = match durable {
                Some(durable) => durable.clone(),
                None => torn(bytes, chance),
            };
            survived.names.insert(name.clone(), survived.files.len());
            survived.files.push(Contents { durable: Some(bytes.clone()), bytes });
        }
        survived.durable_names = survived.names.clone();
        Self(Arc::new(Mutex::new(survived)))
    }

    /// Changes a file where it lies.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.names[path];
        change(&mut state.files[file].bytes);
    }
}

/// What may be left of bytes that were never synced.
fn torn(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut left = bytes.to_vec();
    match chance.below(4) {
        0 => left.clear(),
        1 => left.truncate(chance.below(bytes.len())),
        2 => {
            let from = chance.below(bytes.len());
            left[from..].fill(0);
        }
        _ => {}
    }
    left
}

impl Storage for PowerDisk {
    fn create_folder(&self, _: &Path) -> io::Result<()> {
        self.operation().map(|_| ())
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        // The power may fail in the middle.
        let outcome = self.operation().map(|_| ());
        let mut state = self.state();
        if state.full {
            return Err(ErrorKind::StorageFull.into());
        }
        if outcome.is_ok() || state.cut.is_some_and(|cut| state.operations == cut + 1) {
            let file = state.files.len();
            state.files.push(Contents { bytes: parts.concat(), durable: None });
            state.names.insert(path.to_owned(), file);
        }
        outcome
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        let file = *state.names.get(path).ok_or(ErrorKind::NotFound)?;
        state.files[file].durable = Some(state.files[file].bytes.clone());
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        let file = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operation()?;
        state.names.remove(path).map(|_| ()).ok_or(ErrorKind::NotFound.into())
    }

    fn read(&self, path: &Path, most: u64, _: &mut ReadMemory) -> io::Result<Bytes> {
        let state = self.operation()?;
        let file = *state.names.get(path).ok_or(ErrorKind::NotFound)?;
        let bytes = state.files[file].bytes.clone();
        if bytes.len() as u64 > most { Err(ErrorKind::InvalidData.into()) } else { Ok(bytes.into()) }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.operation()?;
        let inside = state.names.iter().filter(|(name, _)| name.parent() == Some(path));
        Ok(inside
            .filter_map(|(name, &file)| {
                let name = name.file_name()?.to_str()?.to_owned();
                Some((name, state.files[file].bytes.len() as u64))
            })
            .collect())
    }
}
