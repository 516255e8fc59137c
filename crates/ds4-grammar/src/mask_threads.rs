//! Threads that compute masks while the model computes logits.

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

type Task = Box<dyn FnOnce() + Send>;

/// Most threads: a mask takes a fraction of a step of the model, so a few keep up with many generations.
const MOST: usize = 4;

/// A few threads with one queue. They end when this is dropped and the queue is empty.
pub(crate) struct MaskThreads {
    queue: Option<mpsc::Sender<Task>>,
}

impl MaskThreads {
    /// Starts the threads. If the system gives none, tasks run where they are submitted.
    pub(crate) fn start() -> Self {
        let (queue, tasks) = mpsc::channel::<Task>();
        let tasks = Arc::new(Mutex::new(tasks));
        let wanted = thread::available_parallelism().map_or(1, NonZero::get).min(MOST);
        let started = (0..wanted).filter(|index| {
            let tasks = Arc::clone(&tasks);
            thread::Builder::new().name(format!("ds4-mask-{index}")).spawn(move || run(&tasks)).is_ok()
        });
        let any = started.count() > 0;
        Self { queue: any.then_some(queue) }
    }

    /// Runs `task` on one of the threads.
    pub(crate) fn submit(&self, task: impl FnOnce() + Send + 'static) {
        match &self.queue {
            // The threads outlive the sender, so this cannot fail; if it did, the task would be dropped, and whoever
            // waits for it would see that.
            Some(queue) => drop(queue.send(Box::new(task))),
            None => task(),
        }
    }
}

fn run(tasks: &Mutex<mpsc::Receiver<Task>>) {
    loop {
        // Held only while waiting for a task, not while it runs.
        let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(task) => task(),
            Err(mpsc::RecvError) => return,
        }
    }
}
