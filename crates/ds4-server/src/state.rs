//! What all requests share.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ds4_chat::render::Profile;
use ds4_chat::tokenizer::Tokenizer;
use ds4_engine::Engine;
use ds4_grammar::Grammars;

use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::generation::{GenerationRequest, GenerationStream, Prepared, prepare};
use crate::ids::IdSource;
use crate::metrics::Metrics;
use crate::replay::ReplayStore;
use crate::responses::{ResponseStore, Seal};
use crate::trace::Trace;

/// The server's state. Clones are handles of the same one.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    engine: Engine,
    profile: Profile,
    config: ServerConfig,
    ids: Arc<IdSource>,
    grammars: Grammars,
    replay: ReplayStore,
    responses: ResponseStore,
    seal: Arc<Seal>,
    metrics: Metrics,
    trace: Option<Trace>,
    started: u64,
}

/// Why a server's state could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The operating system gave no random numbers.
    #[error("no random numbers could be drawn from the operating system for ids: {0}")]
    Random(#[from] getrandom::Error),
    /// The trace file cannot be written.
    #[error("the trace file {} cannot be opened for writing: {error}", .path.display())]
    Trace {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl AppState {
    /// The state of a server for `engine`, whose model has this profile.
    ///
    /// # Errors
    /// No random numbers; a trace file that cannot be written.
    pub fn new(engine: Engine, profile: Profile, config: ServerConfig) -> Result<Self, SetupError> {
        let trace = config
            .trace
            .as_ref()
            .map(|path| Trace::create(path).map_err(|error| SetupError::Trace { path: path.clone(), error }))
            .transpose()?;
        Ok(Self(Arc::new(Shared {
            ids: Arc::new(IdSource::new()?),
            grammars: Grammars::new(Arc::clone(engine.tokenizer())),
            replay: ReplayStore::new(config.limits.replay_turns, config.limits.replay_bytes).kept_in(
                config.store.clone(),
                &config.fingerprint,
                engine.tokenizer().vocab_size(),
            ),
            responses: ResponseStore::new(config.limits.stored_responses, config.limits.stored_bytes)
                .kept_in(config.store.clone()),
            seal: Arc::new(Seal::new(&config.api_keys)),
            metrics: Metrics::new(engine.clone()),
            started: unix_seconds(),
            trace,
            engine,
            profile,
            config,
        })))
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The model's vocabulary.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.0.engine.tokenizer()
    }

    /// How the model's release was taught reasoning effort.
    pub fn profile(&self) -> Profile {
        self.0.profile
    }

    /// The settings.
    pub fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    /// The source of ids.
    pub fn ids(&self) -> &Arc<IdSource> {
        &self.0.ids
    }

    /// Grammars of answers and calls.
    pub fn grammars(&self) -> &Grammars {
        &self.0.grammars
    }

    /// Turns that can be replayed.
    pub fn replay(&self) -> &ReplayStore {
        &self.0.replay
    }

    /// Responses that can be continued.
    pub(crate) fn responses(&self) -> &ResponseStore {
        &self.0.responses
    }

    /// What reasoning is sealed with.
    pub(crate) fn seal(&self) -> &Arc<Seal> {
        &self.0.seal
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// When the server started, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.0.started
    }

    /// Names the model's weights and the build: with the same value, request and seed, the answer is the same.
    pub fn fingerprint(&self) -> &str {
        &self.0.config.fingerprint
    }

    /// Notes which fields of a request meant nothing.
    pub(crate) fn trace_ignored(&self, fields: &[String]) {
        if let Some(trace) = self.trace()
            && !fields.is_empty()
        {
            trace.line("ignored", serde_json::json!({ "fields": fields }));
        }
    }

    /// The trace, if one is written.
    pub fn trace(&self) -> Option<&Trace> {
        self.0.trace.as_ref()
    }

    /// Renders, encodes and checks a request, on a thread where that may take its time.
    ///
    /// # Errors
    /// A conversation that cannot be rendered, a prompt that does not fit the context, parameters out of range.
    pub async fn prepare(&self, request: GenerationRequest) -> Result<Prepared, ApiError> {
        let state = self.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&state, request)).await;
        let prepared = prepared.map_err(|error| defect(&error))??;
        if let Some(trace) = self.trace() {
            trace.prompt(&prepared, self.tokenizer());
        }
        Ok(prepared)
    }

    /// Hands a prepared request to the engine.
    ///
    /// # Errors
    /// A full queue, or an engine that has stopped.
    pub fn start(&self, prepared: Prepared) -> Result<GenerationStream, ApiError> {
        GenerationStream::start(self, prepared)
    }
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState")
            .field("engine", &self.0.engine)
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

/// The error for a task that panicked.
pub(crate) fn defect(error: &tokio::task::JoinError) -> ApiError {
    ApiError::new(ErrorKind::Engine, format!("server error: a defect of the program, please report it: {error}"))
}

/// Now, in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
