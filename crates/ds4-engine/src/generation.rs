//! The receiving end of a generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use crate::event::{Disconnected, Event, EventSink};

/// A running generation: an iterator over its events that waits for each, and ends after [`Event::Finished`].
///
/// Dropping it cancels the generation.
#[derive(Debug)]
pub struct Generation {
    events: Receiver<(Instant, Event)>,
    /// When the last event received was sent.
    sent: Instant,
    /// Events sent and not received.
    unread: Arc<AtomicUsize>,
    cancel: CancelHandle,
}

impl Generation {
    /// A generation, and the sink for its events, which has room for `capacity` of them.
    pub(crate) fn new(cancel: CancelHandle, capacity: usize) -> (Self, ChannelSink) {
        let (sender, events) = mpsc::channel();
        let unread = Arc::new(AtomicUsize::new(0));
        let sink = ChannelSink { sender, unread: Arc::clone(&unread), capacity };
        (Self { events, sent: Instant::now(), unread, cancel }, sink)
    }

    /// Ends the generation at the next step. Its last event then is `Finished`, with the reason `Cancelled` unless it
    /// ended by itself before.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// A handle that cancels the generation from elsewhere.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// When the event that was taken last was sent: whoever takes events late knows from it how long things took. Before the first, when
    /// the request was submitted.
    pub fn sent(&self) -> Instant {
        self.sent
    }

    /// The next event if there is one already; `None` if there is none yet, or none any more.
    pub fn try_next(&mut self) -> Option<Event> {
        match self.events.try_recv() {
            Ok(event) => Some(self.received(event)),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    /// The next event if it comes in time; `None` if it does not, or there is none any more.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Event> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => Some(self.received(event)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    fn received(&mut self, (sent, event): (Instant, Event)) -> Event {
        self.unread.fetch_sub(1, Ordering::Relaxed);
        self.sent = sent;
        event
    }
}

impl Iterator for Generation {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        // The engine drops its end after `Finished`.
        self.events.recv().ok().map(|event| self.received(event))
    }
}

impl std::iter::FusedIterator for Generation {}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Cancels a generation.
#[derive(Clone, Debug, Default)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    /// Ends the generation at the next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was cancelled with this handle or a clone of it.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The sending end of a [`Generation`].
pub(crate) struct ChannelSink {
    sender: Sender<(Instant, Event)>,
    unread: Arc<AtomicUsize>,
    capacity: usize,
}

impl EventSink for ChannelSink {
    fn has_room(&mut self) -> bool {
        self.unread.load(Ordering::Relaxed) < self.capacity
    }

    fn send(&mut self, event: Event) -> Result<(), Disconnected> {
        // Counted first: the receiver may have it before `send` returns.
        self.unread.fetch_add(1, Ordering::Relaxed);
        self.sender.send((Instant::now(), event)).map_err(|_| Disconnected)
    }
}
