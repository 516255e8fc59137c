//! The handle of an engine.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use ds4_chat::tokenizer::Tokenizer;
use ds4_kvstore::{KvStore, StoreWatch};
use ds4_model::{Backend, StateLayout};

use crate::disk::{self, DiskTier};
use crate::event::EventSink;
use crate::generation::{CancelHandle, Generation};
use crate::inbox::{Closed, Inbox};
use crate::job::{Admission, Job};
use crate::sampling::random_seed;
use crate::{EngineError, EngineOptions, KvStats, Request, scheduler};

/// A running engine. Clones are handles of the same one.
///
/// When the last handle is dropped, the engine finishes what it has accepted and then ends.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    inbox: Arc<Inbox>,
    tokenizer: Arc<Tokenizer>,
    options: EngineOptions,
    context: usize,
    n_vocab: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
    stats: Arc<Mutex<KvStats>>,
    /// The store's counters, which go on while nothing is computed.
    disk: Option<StoreWatch>,
}

impl Engine {
    /// Starts the engine thread, which owns `backend` from now on. States are kept in memory only.
    ///
    /// # Errors
    /// An option that makes no sense for this model, or no thread.
    pub fn start<B>(backend: B, tokenizer: Arc<Tokenizer>, options: EngineOptions) -> Result<Self, EngineError>
    where
        B: Backend + Send + 'static,
    {
        Self::start_with_store(backend, tokenizer, options, None)
    }

    /// Like [`start`](Self::start); states are also kept in `store`, and looked for there.
    ///
    /// # Errors
    /// As [`start`](Self::start), and a store that cannot be used.
    pub fn start_with_store<B>(
        backend: B,
        tokenizer: Arc<Tokenizer>,
        options: EngineOptions,
        store: Option<&KvStore>,
    ) -> Result<Self, EngineError>
    where
        B: Backend + Send + 'static,
    {
        let config = backend.model().config();
        let layout = Arc::new(StateLayout::new(config, backend.numerics().kv));
        let (context, n_vocab) = (options.context(config.context_length, &layout)?, config.n_vocab);
        let inbox = Inbox::new(options.parallel.saturating_add(options.queue));
        let disk = store
            .map(|store| {
                let identity = disk::identity(&backend, &layout);
                DiskTier::start(store, &identity, Arc::clone(&layout), Arc::clone(&inbox))
            })
            .transpose()?;
        let stats = Arc::new(Mutex::new(KvStats { budget: options.kv_ram, ..KvStats::default() }));
        let thread = thread::Builder::new()
            .name("ds4-engine".to_owned())
            .spawn({
                let (inbox, options, stats) = (Arc::clone(&inbox), options.clone(), Arc::clone(&stats));
                move || scheduler::run(backend, &inbox, options, &layout, disk, &stats)
            })
            .map_err(EngineError::Thread)?;
        let (thread, disk) = (Mutex::new(Some(thread)), store.map(KvStore::watch));
        Ok(Self(Arc::new(Handle { inbox, tokenizer, options, context, n_vocab, thread, stats, disk })))
    }

    /// Accepts a request. The events of the generation can be taken from what is returned.
    ///
    /// # Errors
    /// A request that is not valid or does not fit the context; a full queue; an engine that has stopped.
    pub fn submit(&self, request: Request) -> Result<Generation, EngineError> {
        let cancel = CancelHandle::default();
        let (generation, sink) = Generation::new(cancel.clone(), self.0.options.event_buffer);
        self.accept(request, cancel, Box::new(sink))?;
        Ok(generation)
    }

    /// Accepts a request. The events of the generation go to `sink`, for callers with a channel of their own.
    ///
    /// # Errors
    /// As [`submit`](Self::submit). The sink then gets no events.
    pub fn submit_to(&self, request: Request, sink: Box<dyn EventSink>) -> Result<CancelHandle, EngineError> {
        let cancel = CancelHandle::default();
        self.accept(request, cancel.clone(), sink)?;
        Ok(cancel)
    }

    fn accept(&self, request: Request, cancel: CancelHandle, sink: Box<dyn EventSink>) -> Result<(), EngineError> {
        let (max_tokens, stops) = request.check(self.0.context, self.0.n_vocab)?;
        let seed = match request.sampling.seed {
            Some(seed) => seed,
            None => random_seed().map_err(EngineError::Seed)?,
        };
        let permit = self.0.inbox.permit()?;
        let admission = Admission { max_tokens, stops, seed, permit, cancel, sink };
        let job = Job::new(request, admission, Arc::clone(&self.0.tokenizer));
        self.0.inbox.push(job).map_err(|(job, error)| {
            job.discard();
            error
        })
    }

    /// Ends the engine: cancels every generation, running or waiting, takes no more, and returns when the engine thread
    /// has ended and the backend is gone. Not to be called from an [`EventSink`].
    pub fn shut_down(&self) {
        self.0.inbox.close(Closed::ShutDown);
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread catches its own panics; what it could not say by events it has printed.
            let _ = thread.join();
        }
    }

    /// The tokenizer that makes text of tokens.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.0.tokenizer
    }

    /// Context in tokens: prompt and answer together.
    pub fn context(&self) -> usize {
        self.0.context
    }

    /// What the KV cache holds and has done, in memory as of the last step, on disk as of now.
    pub fn kv_stats(&self) -> KvStats {
        let stats = *self.0.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = self.0.disk.as_ref().and_then(StoreWatch::stats);
        KvStats { disk: disk.or(stats.disk), ..stats }
    }

    /// The options that it was started with.
    pub fn options(&self) -> &EngineOptions {
        &self.0.options
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", &self.0.options).field("context", &self.0.context).finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inbox.close(Closed::Abandoned);
    }
}
