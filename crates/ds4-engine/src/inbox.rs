//! The bounded queue between the engine's handles and its thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::job::Job;
use crate::{EngineError, FinishReason};

/// Jobs that wait, and how many there are in all.
///
/// A job is never dropped or ended under the lock: its end gives its permit back, which takes the lock.
pub(crate) struct Inbox {
    state: Mutex<State>,
    /// Notified when a job comes or the inbox closes.
    changed: Condvar,
    /// Most jobs waiting or running.
    capacity: usize,
}

struct State {
    /// In the order in which they came.
    waiting: Vec<Job>,
    /// Jobs waiting or running.
    in_flight: usize,
    closed: Option<Closed>,
}

/// Why no more jobs come.
#[derive(Clone)]
pub(crate) enum Closed {
    /// Nobody can submit any more; what is there is finished.
    Abandoned,
    /// Everything is to be cancelled.
    ShutDown,
    /// The engine thread ended because of this defect.
    Defect(String),
}

/// What the scheduler gets for its next step.
pub(crate) struct Intake {
    /// Jobs to run, in the order in which they were chosen.
    pub(crate) admitted: Vec<Job>,
    /// Jobs that ended while they waited.
    pub(crate) ended: Vec<(Job, FinishReason)>,
    /// Whether the running jobs are to be cancelled.
    pub(crate) shut_down: bool,
}

impl Inbox {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        let state = State { waiting: Vec::new(), in_flight: 0, closed: None };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new(), capacity })
    }

    /// The state is consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more job.
    pub(crate) fn permit(self: &Arc<Self>) -> Result<Permit, EngineError> {
        let mut state = self.lock();
        if let Some(closed) = &state.closed {
            return Err(closed.error());
        }
        if state.in_flight >= self.capacity {
            return Err(EngineError::QueueFull { capacity: self.capacity });
        }
        state.in_flight += 1;
        Ok(Permit(Arc::clone(self)))
    }

    /// Puts a job into the queue. If the inbox has closed meanwhile, it comes back with the reason.
    pub(crate) fn push(&self, job: Job) -> Result<(), (Box<Job>, EngineError)> {
        let mut state = self.lock();
        if let Some(closed) = &state.closed {
            let error = closed.error();
            return Err((Box::new(job), error));
        }
        state.waiting.push(job);
        self.changed.notify_all();
        Ok(())
    }

    /// Takes all jobs that ended while they waited, and of the others those that `choose` names by number, one after the other.
    pub(crate) fn take(&self, now: Instant, mut choose: impl FnMut(&[Job]) -> Option<usize>) -> Intake {
        let mut state = self.lock();
        let shut_down = matches!(state.closed, Some(Closed::ShutDown));
        let mut intake = Intake { admitted: Vec::new(), ended: Vec::new(), shut_down };
        let mut still_waiting = Vec::with_capacity(state.waiting.len());
        for job in state.waiting.drain(..) {
            if shut_down {
                intake.ended.push((job, FinishReason::Cancelled));
            } else if let Some(reason) = job.interruption(now) {
                intake.ended.push((job, reason));
            } else {
                still_waiting.push(job);
            }
        }
        state.waiting = still_waiting;
        while let Some(index) = choose(&state.waiting) {
            intake.admitted.push(state.waiting.remove(index));
        }
        intake
    }

    /// Ends a wait of the engine thread, if there is one.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Waits until a job comes; false if none will.
    pub(crate) fn wait_for_job(&self) -> bool {
        let mut state = self.lock();
        while state.waiting.is_empty() {
            if state.closed.is_some() {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Waits for a change or this long.
    pub(crate) fn wait_briefly(&self, timeout: Duration) {
        let state = self.lock();
        drop(self.changed.wait_timeout(state, timeout));
    }

    /// Refuses further jobs. The first reason stays, except that shutting down goes beyond abandoning.
    pub(crate) fn close(&self, reason: Closed) {
        let mut state = self.lock();
        if matches!(state.closed, None | Some(Closed::Abandoned)) {
            state.closed = Some(reason);
        }
        self.changed.notify_all();
    }

    /// Takes all jobs that wait.
    pub(crate) fn clear(&self) -> Vec<Job> {
        std::mem::take(&mut self.lock().waiting)
    }
}

impl Closed {
    fn error(&self) -> EngineError {
        let reason = match self {
            Self::Abandoned | Self::ShutDown => "it was shut down".to_owned(),
            Self::Defect(what) => format!("it stopped because of a defect in it ({what}); start it again"),
        };
        EngineError::Stopped { reason }
    }
}

/// A job's place among those that the engine takes; given back when dropped.
pub(crate) struct Permit(Arc<Inbox>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}
