//! Between the scheduler and the store on disk: what is saved, and prefixes that are read while others are computed.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use ds4_kvstore::{Chain, Identity, KvStore, Prefixes, Save, StoreError, StoreStats};
use ds4_model::state::{SequenceState, StateParts};
use ds4_model::{Backend, Sequence, StateLayout};

use crate::inbox::Inbox;

/// The store, and the thread that reads from it.
pub(crate) struct DiskTier {
    prefixes: Prefixes,
    /// `None` when nothing more is to be read.
    requests: Option<Sender<LoadRequest>>,
    reader: Option<JoinHandle<()>>,
    results: Receiver<LoadResult>,
    next_ticket: u64,
    /// Once a backend cannot give its states away, it is not asked again.
    exports: bool,
}

/// Which load a result is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

struct LoadRequest {
    ticket: Ticket,
    prompt: Vec<u32>,
    /// Tokens that are in memory already.
    beyond: usize,
}

/// What a load came to.
pub(crate) struct LoadResult {
    pub(crate) ticket: Ticket,
    pub(crate) state: Option<Sequence>,
}

/// What the states of a backend depend on beside tokens.
pub(crate) fn identity(backend: &impl Backend, layout: &StateLayout) -> Identity {
    let (model, numerics) = (backend.model(), backend.numerics());
    let detail = format!(
        "weights {:016x}; layout {:016x}; cache {}; products {}; backend {}; version {}",
        model.fingerprint(),
        layout.fingerprint(),
        numerics.kv,
        numerics.compute,
        backend.arithmetic(),
        env!("CARGO_PKG_VERSION"),
    );
    let name = model.gguf().metadata().str("general.name").unwrap_or("unnamed model");
    Identity { label: name.to_owned(), detail, page_tokens: layout.page_tokens }
}

impl DiskTier {
    /// The tier for a store.
    ///
    /// # Errors
    /// An unusable index, or no thread.
    pub(crate) fn start(
        store: &KvStore,
        identity: &Identity,
        layout: Arc<StateLayout>,
        inbox: Arc<Inbox>,
    ) -> Result<Self, DiskError> {
        let prefixes = store.prefixes(identity)?;
        let (requests, to_load) = mpsc::channel::<LoadRequest>();
        let (loaded, results) = mpsc::channel();
        let reader = thread::Builder::new().name("ds4-kv-read".to_owned()).spawn({
            let prefixes = prefixes.clone();
            move || {
                // Ends when the scheduler drops its end.
                for request in to_load {
                    let state = load(&prefixes, &layout, &request);
                    if loaded.send(LoadResult { ticket: request.ticket, state }).is_err() {
                        return;
                    }
                    inbox.wake();
                }
            }
        })?;
        Ok(Self { prefixes, requests: Some(requests), reader: Some(reader), results, next_ticket: 0, exports: true })
    }

    /// Tokens of a page: no prefix on disk is shorter, and none is worth reading for less.
    pub(crate) fn page_tokens(&self) -> usize {
        self.prefixes.chain().page_tokens()
    }

    /// Begins to look for a state of more than `beyond` tokens. `None` if nobody can look.
    pub(crate) fn look_for(&mut self, prompt: &[u32], beyond: usize) -> Option<Ticket> {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let request = LoadRequest { ticket, prompt: prompt.to_vec(), beyond };
        self.requests.as_ref()?.send(request).ok().map(|()| ticket)
    }

    /// A load that has come to an end.
    pub(crate) fn next_result(&mut self) -> Option<LoadResult> {
        self.results.try_recv().ok()
    }

    /// Gives what is new of a state to the writer. tokens: [sequence.len()]; `chain` has the keys of a beginning of them.
    pub(crate) fn save<B: Backend>(
        &mut self,
        backend: &B,
        tokens: &[u32],
        sequence: &B::Sequence,
        chain: &mut Option<Chain>,
        session: Option<&Arc<str>>,
    ) {
        let page_tokens = self.page_tokens();
        let len = sequence.len();
        if !self.exports || !self.prefixes.is_writable() || len < page_tokens {
            return;
        }
        let chain = chain.get_or_insert_with(|| self.prefixes.chain());
        chain.extend(tokens);
        let full = len / page_tokens;
        let key = chain.last().snapshot(&tokens[full * page_tokens..]);
        if self.prefixes.has_snapshot(&key) {
            return;
        }
        let first_page = self.prefixes.stored_pages(chain);
        let StateParts { pages, rest } = match backend.export_parts(sequence, first_page..full) {
            Ok(parts) => parts,
            Err(error) => {
                self.exports = false;
                let why = format!("states of this backend cannot be written to the KV cache on disk: {error}");
                self.prefixes.store().warn(why);
                return;
            }
        };
        self.prefixes.save(Save {
            first_page,
            parent: chain.parent_of(first_page),
            tokens: tokens[first_page * page_tokens..].to_vec(),
            pages,
            snapshot: Some(rest),
            session: session.map(|session| session.to_string()),
        });
    }

    /// The store's counters.
    pub(crate) fn stats(&self) -> StoreStats {
        self.prefixes.store().stats()
    }
}

impl Drop for DiskTier {
    /// Waits for the thread: the store is then in nobody's hands here, and whoever closes it knows that it is closed.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(reader) = self.reader.take() {
            // Its panics are printed; there is nothing to do about them.
            let _ = reader.join();
        }
    }
}

fn load(prefixes: &Prefixes, layout: &Arc<StateLayout>, request: &LoadRequest) -> Option<Sequence> {
    let mut chain = prefixes.chain();
    chain.extend(&request.prompt);
    let loaded = prefixes.restore(&chain, &request.prompt, request.beyond)?;
    let parts = StateParts { pages: loaded.pages, rest: loaded.tail };
    match Sequence::from_parts(layout, loaded.tokens, parts) {
        Ok(sequence) => Some(sequence),
        Err(error) => {
            prefixes.store().warn(error.to_string());
            None
        }
    }
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No thread.
    #[error("the thread that reads the KV cache could not be started: {0}")]
    Thread(#[from] io::Error),
}
