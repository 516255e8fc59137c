//! Writing behind: a thread that owns the index and makes what it is given durable, in order.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use crate::core::Core;
use crate::key::ChainKey;
use crate::record::Kind;
use crate::save::{Keyed, Save};
use crate::stats::StoreStats;

pub(crate) type Task = Box<dyn FnOnce(&mut Core) + Send>;

pub(crate) enum Command {
    Save(Keyed),
    /// Without a value: forgets the fact.
    Fact {
        space: String,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    Touch(ChainKey),
    Forget(ChainKey, Kind),
    Run(Task),
}

#[derive(Default)]
struct Queue {
    commands: VecDeque<Command>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    queued_bytes: AtomicU64,
    known: Arc<Mutex<HashSet<ChainKey>>>,
    stats: Arc<Mutex<StoreStats>>,
    most_bytes: u64,
}

/// The writing thread. Dropped, it writes what is queued and ends.
pub(crate) struct WriteBehind {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl WriteBehind {
    pub(crate) fn start(core: Core, queue_bytes: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            queued_bytes: AtomicU64::new(0),
            known: Arc::clone(&core.known),
            stats: Arc::clone(&core.stats),
            most_bytes: queue_bytes as u64,
        });
        let thread = thread::Builder::new().name("ds4-kvstore".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || run(core, &shared)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn push(&self, command: Command) -> bool {
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            return false;
        }
        queue.commands.push_back(command);
        self.shared.changed.notify_all();
        true
    }

    pub(crate) fn save(&self, root: ChainKey, page_tokens: usize, save: Save) -> bool {
        let bytes = save.bytes() as u64;
        let queued = self.shared.queued_bytes.load(Ordering::Relaxed);
        // One that is larger than the whole queue goes alone.
        let fits = queued == 0 || queued + bytes <= self.shared.most_bytes;
        let keyed = if fits { Keyed::new(root, page_tokens, save) } else { None };
        let Some(keyed) = keyed else {
            lock(&self.shared.stats).dropped += 1;
            return false;
        };
        lock(&self.shared.known).extend(keyed.keys());
        self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.push(Command::Save(keyed))
    }

    pub(crate) fn set_fact(&self, space: String, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.push(Command::Fact { space, key, value });
    }

    pub(crate) fn touch(&self, snapshot: ChainKey) {
        self.push(Command::Touch(snapshot));
    }

    pub(crate) fn forget(&self, key: ChainKey, kind: Kind) {
        self.push(Command::Forget(key, kind));
    }

    /// Runs `f` on the thread, in order with everything else. `None` if the thread has ended.
    pub(crate) fn run<T: Send + 'static>(&self, f: impl FnOnce(&mut Core) -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = mpsc::channel();
        self.push(Command::Run(Box::new(move |core| {
            // Nobody waits any more if this fails.
            let _ = sender.send(f(core));
        })));
        receiver.recv().ok()
    }

    pub(crate) fn flush(&self) {
        self.run(|_| ());
    }

    pub(crate) fn queued_bytes(&self) -> u64 {
        self.shared.queued_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn knows(&self, key: &ChainKey) -> bool {
        lock(&self.shared.known).contains(key)
    }

    pub(crate) fn known_pages(&self, keys: &[ChainKey]) -> usize {
        let known = lock(&self.shared.known);
        keys.partition_point(|key| known.contains(key))
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It reports its panics itself.
            let _ = thread.join();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(mut core: Core, shared: &Shared) {
    loop {
        let command = {
            let mut queue = lock(&shared.queue);
            loop {
                if let Some(command) = queue.commands.pop_front() {
                    break command;
                }
                if queue.closed {
                    return;
                }
                queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let bytes = if let Command::Save(keyed) = &command { keyed.save.bytes() as u64 } else { 0 };
        // A defect here costs what was to be written, not the answers of the program.
        let outcome = catch_unwind(AssertUnwindSafe(|| core.execute(command)));
        shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if outcome.is_err() {
            (core.files.warn)("a defect in the KV cache: it writes nothing more".to_owned());
            let mut queue = lock(&shared.queue);
            queue.closed = true;
            queue.commands.clear();
            return;
        }
    }
}
