//! The thread pool under stress, panics and misuse.

use ds4_cpu::pool::{Pool, PoolError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn every_task_runs_exactly_once() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        for n_tasks in [0, 1, 2, 7, 64, 1000] {
            let runs: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(n_tasks, |task| {
                runs[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 1), "{threads} threads, {n_tasks} tasks");
        }
    }
}

/// Many short operations back to back, with pauses long enough for the workers to go to sleep: each
/// must see what the one before wrote, and a lost wake-up or a worker left in an old epoch would show.
#[test]
fn operations_follow_each_other() {
    for threads in [2, 3, 5] {
        let pool = Pool::new(threads).unwrap();
        let mut values = vec![0u64; 37];
        for round in 0..20_000u64 {
            let cells: Vec<Mutex<&mut u64>> = values.iter_mut().map(Mutex::new).collect();
            let n_tasks = 1 + (round as usize * 7) % 37;
            pool.run(n_tasks, |task| **cells[task].lock().unwrap() += 1);
            if round % 4000 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let expected = |task: usize| (0..20_000).filter(|round| task < 1 + (round * 7) % 37).count() as u64;
        for (task, &value) in values.iter().enumerate() {
            assert_eq!(value, expected(task), "{threads} threads, task {task}");
        }
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    for threads in [1, 2, 4] {
        let pool = Pool::new(threads).unwrap();
        for bad in [0, 1, 50, 99] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, |task| {
                    if task == bad {
                        panic!("task {task} failed");
                    }
                });
            }));
            let message = *outcome.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("task {bad} failed"));
        }
        // All at once, each with its own payload: exactly one arrives, nothing hangs.
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(100, |task| panic!("{task}"))));
        assert!(outcome.is_err());
        let count = AtomicUsize::new(0);
        pool.run(100, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 100);
    }
}

#[test]
fn a_task_that_calls_run_is_told_so() {
    for threads in [1, 2] {
        let pool = Pool::new(threads).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(2, |_| pool.run(1, |_| {}))));
        let payload = outcome.unwrap_err();
        let message = payload.downcast_ref::<&str>().unwrap();
        assert!(message.contains("from inside a pool task"), "{message}");
        pool.run(2, |_| {});
    }
}

#[test]
fn callers_on_several_threads_take_turns() {
    let pool = Pool::new(2).unwrap();
    let inside = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let mine = AtomicUsize::new(0);
                    pool.run(8, |task| {
                        if task == 0 {
                            assert!(!inside.swap(true, Ordering::SeqCst), "two operations at once");
                            std::thread::yield_now();
                            inside.store(false, Ordering::SeqCst);
                        }
                        mine.fetch_add(1, Ordering::Relaxed);
                    });
                    assert_eq!(mine.into_inner(), 8);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 800);
}

#[test]
fn the_caller_waits_for_a_slow_task() {
    let pool = Pool::new(2).unwrap();
    // Longer than the time a thread watches before it sleeps.
    let (finished, started) = (AtomicUsize::new(0), Instant::now());
    pool.run(2, |_| {
        std::thread::sleep(Duration::from_millis(20));
        finished.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(finished.into_inner(), 2);
    assert!(started.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_bound_pool_computes_the_same() {
    for threads in [1, 2, 3, ds4_cpu::processors::allowed().cores] {
        let pool = Pool::new_bound(threads).unwrap();
        let sum = AtomicUsize::new(0);
        pool.run(10, |task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}

#[test]
fn impossible_sizes_are_errors() {
    for threads in [0, Pool::MAX_THREADS + 1] {
        let error = Pool::new(threads).err().unwrap();
        assert!(matches!(error, PoolError::Threads { .. }));
        assert!(error.to_string().contains(&format!("not {threads}")), "{error}");
    }
}

/// An idle server must not use the processor: the workers' time stands still once they sleep.
#[cfg(target_os = "linux")]
#[test]
fn idle_workers_sleep() {
    // Ticks (usually 10 ms) of the thread named `name`, user and system.
    fn ticks(name: &str) -> u64 {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
            .filter(|stat| stat.contains(&format!("({name})")))
            .map(|stat| {
                let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
                fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
            })
            .sum()
    }
    // No other test starts a fifteenth worker.
    let pool = Pool::new(15).unwrap();
    pool.run(30, |_| std::thread::sleep(Duration::from_micros(100)));
    std::thread::sleep(Duration::from_millis(20));
    let before = ticks("ds4-cpu-14");
    std::thread::sleep(Duration::from_millis(200));
    assert!(ticks("ds4-cpu-14") - before <= 1, "a worker without work uses the processor");
}
