//! A thread pool for operations that take microseconds.
//!
//! A decoded token runs several hundred operations one after the other, each split into some tens
//! of tasks. Waking a sleeping thread costs as much as such an operation, so idle workers first
//! watch the pool's state word for a short while and only then go to sleep; a pool that is not
//! used costs no processor time.
//!
//! The state word holds `epoch | open | active`. [`Pool::run`] opens an epoch, takes tasks itself,
//! closes the epoch when none is left and waits for the workers that *entered* it. A worker that the
//! operating system did not schedule in time never entered, so nobody waits for it.

use crate::processors;
use crate::tasks::Tasks;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker watches for work before it sleeps. Longer than the serial work between
/// two operations of a token, far shorter than anything a monitor of an idle server would notice.
const WATCH: Duration = Duration::from_micros(100);

/// `active`: number of workers inside the current epoch (low 31 bits of the state word).
const ACTIVE: u64 = (1 << 31) - 1;
/// `open`: workers may enter the current epoch.
const OPEN: u64 = 1 << 31;
/// One step of the epoch counter (high 32 bits).
const EPOCH: u64 = 1 << 32;

thread_local! {
    /// Set while this thread executes tasks: a task that calls `run` would wait for itself.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Why a pool could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The number of threads is zero or absurd.
    #[error("a thread pool needs between 1 and {max} threads, not {threads}")]
    Threads {
        /// What was asked for.
        threads: usize,
        /// The most this pool accepts.
        max: usize,
    },
    /// The operating system refused a thread.
    #[error("could not start worker thread {index}: {source}; use fewer threads")]
    Spawn {
        /// Number of the worker (1 is the first beside the caller).
        index: usize,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// A task function of one `run` call with its lifetime erased.
type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    state: AtomicU64,
    /// The tasks nobody has taken. Touched only between entering and leaving an epoch.
    tasks: Tasks,
    /// Written by `run` while the epoch is closed and `active` is 0, read by workers that entered.
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Workers asleep, or about to be, on `wake`.
    sleepers: AtomicUsize,
    stop: AtomicBool,
    /// Set while the caller of `run` sleeps on `left`.
    caller_sleeps: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
    left: Condvar,
    watch: Duration,
}

// SAFETY: every field but `job` is Send + Sync by itself. `job` is written only in `Pool::run`, which
// holds `turn`, while the epoch is closed and no worker is inside; workers read it only after entering an
// open epoch through `state` (SeqCst), which orders the accesses. The pointee is `Sync`, so calling it
// from several threads is fine, and `run` does not return before every entered worker has left.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A fixed set of threads that executes the tasks of one operation at a time.
///
/// ```
/// let pool = ds4_cpu::pool::Pool::new(2).unwrap();
/// let hits = std::sync::atomic::AtomicUsize::new(0);
/// pool.run(100, |task| {
///     hits.fetch_add(task, std::sync::atomic::Ordering::Relaxed);
/// });
/// assert_eq!(hits.into_inner(), 4950);
/// ```
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The node of the thread that calls `run`, as far as that can be said of it.
    node: usize,
    /// One `run` at a time; a second caller waits here.
    turn: Mutex<()>,
}

impl Pool {
    /// The most threads a pool accepts.
    pub const MAX_THREADS: usize = 1024;

    /// A pool of `threads` threads, the one that calls [`run`](Pool::run) included.
    ///
    /// # Errors
    /// `threads` is 0 or above [`Pool::MAX_THREADS`], or the operating system refuses a thread.
    pub fn new(threads: usize) -> Result<Pool, PoolError> {
        Pool::start(threads, &[], &[])
    }

    /// Like [`Pool::new`], with each worker bound to one of the cores of this process, while there is one for each; the
    /// first is left to the caller, which is not bound: threads it starts later would be, too. Where there are more cores
    /// than threads nothing is bound, since another program with as few threads would choose the same cores. Binding is a
    /// hint: where the system has no such call, or refuses it, the threads run unbound. Bound threads of several memory nodes
    /// have tasks of their own, see [`run`](Pool::run).
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn new_bound(threads: usize) -> Result<Pool, PoolError> {
        let allowed = processors::allowed();
        let bound = threads == allowed.cores || threads == allowed.processors.len();
        let places = if bound { &allowed.processors[..threads.min(allowed.processors.len())] } else { &[] };
        Pool::start(threads, places, &processors::nodes(places))
    }

    /// Worker `i` is bound to the `i`-th of `places`, if there is one, and takes the tasks of the `i`-th of `nodes` first.
    fn start(threads: usize, places: &[usize], nodes: &[usize]) -> Result<Pool, PoolError> {
        if threads == 0 || threads > Pool::MAX_THREADS {
            return Err(PoolError::Threads { threads, max: Pool::MAX_THREADS });
        }
        // With more threads than processors a watching thread would keep a working one waiting.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let watch = if threads > processors { Duration::ZERO } else { WATCH };
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            tasks: Tasks::new(nodes.iter().max().map_or(1, |last| last + 1)),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            caller_sleeps: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            left: Condvar::new(),
            watch,
        });
        let node = |index: usize| nodes.get(index).copied().unwrap_or(0);
        let workers = Vec::with_capacity(threads - 1);
        let mut pool = Pool { shared, workers, node: node(0), turn: Mutex::new(()) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let (place, node) = (places.get(index).copied(), node(index));
            let worker = std::thread::Builder::new()
                .name(format!("ds4-cpu-{index}"))
                .spawn(move || {
                    if let Some(processor) = place {
                        processors::bind_current_thread(processor);
                    }
                    work(&shared, node);
                })
                // `pool` is dropped on the way out, which stops the workers already started.
                .map_err(|source| PoolError::Spawn { index, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Number of threads that execute tasks, the caller of [`run`](Pool::run) included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Number of memory nodes among which tasks are divided: 1 unless the threads are bound to processors of several.
    pub fn nodes(&self) -> usize {
        self.shared.tasks.nodes()
    }

    /// Calls `task(i)` once for every `i` in `0..n_tasks`, on all threads, and returns when all have
    /// ended. Threads take the next free number, in increasing order; those of several memory nodes first from a part that
    /// belongs to their node, the same one for the same number of tasks. Everything a task wrote is
    /// visible to the caller afterwards.
    ///
    /// # Panics
    /// When a task panics, tasks not yet begun are dropped and the panic continues in the caller; the
    /// pool stays usable. Also panics when called from inside a task.
    pub fn run<F: Fn(usize) + Sync>(&self, n_tasks: usize, task: F) {
        assert!(
            !IN_TASK.get(),
            "Pool::run was called from inside a pool task; split the work into one operation after the other"
        );
        if n_tasks == 0 {
            return;
        }
        let turn = lock(&self.turn);
        if self.workers.is_empty() || n_tasks == 1 {
            let _mark = TaskMark::set();
            (0..n_tasks).for_each(task);
            return;
        }
        let s = &*self.shared;
        let job: &(dyn Fn(usize) + Sync) = &task;
        // SAFETY: only the lifetime is erased. Workers call `job` only inside this epoch, and `finish`
        // below, which also runs when this function unwinds, waits until the last one has left.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        // SAFETY: the epoch is closed and `active` is 0 (the previous `finish` saw to it), and `turn`
        // excludes other callers, so nobody else accesses the cell.
        unsafe { *s.job.get() = Some(job) };
        s.tasks.offer(n_tasks);
        let finish = Finish(s);
        s.state.store((s.state.load(SeqCst) & !(OPEN | ACTIVE)).wrapping_add(EPOCH) | OPEN, SeqCst);
        if s.sleepers.load(SeqCst) > 0 {
            let _guard = lock(&s.lock);
            s.wake.notify_all();
        }
        s.take_tasks(job, self.node);
        drop(finish);
        let payload = lock(&s.panic).take();
        if let Some(payload) = payload {
            drop(turn);
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        {
            let _guard = lock(&self.shared.lock);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks; it has nothing to report.
            let _ = worker.join();
        }
    }
}

/// Locks also after a panic elsewhere: the guarded values have no invariant a panic could break.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks the current thread as executing tasks until dropped.
struct TaskMark;

impl TaskMark {
    fn set() -> TaskMark {
        IN_TASK.set(true);
        TaskMark
    }
}

impl Drop for TaskMark {
    fn drop(&mut self) {
        IN_TASK.set(false);
    }
}

/// Closes the epoch and waits for the workers inside it.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let s = self.0;
        s.state.fetch_and(!OPEN, SeqCst);
        let started = Instant::now();
        while started.elapsed() < s.watch {
            for _ in 0..64 {
                if s.state.load(SeqCst) & ACTIVE == 0 {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut guard = lock(&s.lock);
        s.caller_sleeps.store(true, SeqCst);
        while s.state.load(SeqCst) & ACTIVE != 0 {
            guard = s.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        s.caller_sleeps.store(false, SeqCst);
    }
}

impl Shared {
    /// Executes tasks until none is left.
    fn take_tasks(&self, job: Job, node: usize) {
        let _mark = TaskMark::set();
        while let Some(task) = self.tasks.take(node) {
            // SAFETY: the caller of `run` is still inside `run`, which keeps the closure alive, because
            // this thread is either that caller or has entered the epoch and not left it.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(task) }));
            if let Err(payload) = outcome {
                self.tasks.withdraw();
                lock(&self.panic).get_or_insert(payload);
            }
        }
    }

    /// Enters the open epoch `state`, if it is still that one and open.
    fn enter(&self, mut state: u64) -> bool {
        let epoch = state / EPOCH;
        while state / EPOCH == epoch && state & OPEN != 0 {
            match self.state.compare_exchange_weak(state, state + 1, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Leaves the epoch; the last one out wakes a caller that went to sleep.
    fn leave(&self) {
        let before = self.state.fetch_sub(1, SeqCst);
        if before & ACTIVE == 1 && before & OPEN == 0 && self.caller_sleeps.load(SeqCst) {
            let _guard = lock(&self.lock);
            self.left.notify_all();
        }
    }

    /// Waits for an open epoch other than `done`; `None` when the pool is being dropped.
    fn wait_for_work(&self, done: u64) -> Option<u64> {
        let fresh = |state: u64| state & OPEN != 0 && state / EPOCH != done;
        let started = Instant::now();
        loop {
            for _ in 0..64 {
                let state = self.state.load(SeqCst);
                if fresh(state) {
                    return Some(state);
                }
                std::hint::spin_loop();
            }
            if self.stop.load(SeqCst) {
                return None;
            }
            if started.elapsed() >= self.watch {
                break;
            }
        }
        // `sleepers` is raised before the state is looked at again, and `run` opens the epoch before it
        // looks at `sleepers`: one of the two sees the other.
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, SeqCst);
        let found = loop {
            if self.stop.load(SeqCst) {
                break None;
            }
            let state = self.state.load(SeqCst);
            if fresh(state) {
                break Some(state);
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, SeqCst);
        found
    }
}

/// The life of a worker thread of a node.
fn work(s: &Shared, node: usize) {
    let mut done = 0;
    while let Some(state) = s.wait_for_work(done) {
        done = state / EPOCH;
        if s.enter(state) {
            // SAFETY: this thread is inside an epoch, so `run` does not write the cell.
            let job = unsafe { *s.job.get() };
            if let Some(job) = job {
                s.take_tasks(job, node);
            }
            s.leave();
        }
    }
}

#[cfg(test)]
impl Pool {
    /// A pool whose threads count as threads of these nodes.
    pub(crate) fn on_nodes(nodes: &[usize]) -> Pool {
        Pool::start(nodes.len(), &[], nodes).expect("threads")
    }
}
