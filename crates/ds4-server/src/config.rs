//! How a server is set up.

use std::path::PathBuf;
use std::time::Duration;

use ds4_chat::render::{Effort, Thinking};
use ds4_kvstore::KvStore;

/// Settings of a server. [`Default`] gives what `ds4 serve` uses when nothing else is said.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Name of the model in `/v1/models`, and the one that answers carry when a request names none.
    pub model_id: String,
    /// Further names in `/v1/models`. Any name is accepted in requests unless `strict_models` is set.
    pub aliases: Vec<String>,
    /// `system_fingerprint` of answers: a stable name of the model file and the build.
    pub fingerprint: String,
    /// Whether a request for a model of another name is refused.
    pub strict_models: bool,
    /// Keys of which a request must carry one. None: no key is needed.
    pub api_keys: Vec<String>,
    /// Web origins whose pages may use the server, as `https://host:port`; `*` means all.
    pub cors: Vec<String>,
    /// Host names, beside `localhost` and loopback addresses, under which a server bound to loopback may be addressed.
    pub hosts: Vec<String>,
    /// Thinking mode of requests that say nothing about it.
    pub thinking: Thinking,
    /// Whether temperature, top-p and penalties of a request count in thinking mode. The hosted service ignores them
    /// there, because the model was tuned for its own.
    pub client_sampling_in_thinking: bool,
    /// What becomes of images and other content that a text model cannot read.
    pub unsupported_media: UnsupportedMedia,
    /// Where to write one JSON line per step of every request. It contains prompts and answers.
    pub trace: Option<PathBuf>,
    /// Longest silence in a stream before a keepalive event.
    pub keepalive: Duration,
    /// How long running generations may go on after a request to shut down.
    pub shutdown_grace: Duration,
    /// Where sampled turns and kept responses are beyond this process, so that they are replayed and continued after a restart as
    /// well.
    pub store: Option<KvStore>,
    /// Bounds for what clients send.
    pub limits: Limits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            model_id: "deepseek-v4-flash".to_owned(),
            aliases: Vec::new(),
            fingerprint: concat!("fp_ds4_", env!("CARGO_PKG_VERSION")).to_owned(),
            strict_models: false,
            api_keys: Vec::new(),
            cors: Vec::new(),
            hosts: Vec::new(),
            thinking: Thinking::On(Effort::High),
            client_sampling_in_thinking: false,
            unsupported_media: UnsupportedMedia::Placeholder,
            trace: None,
            keepalive: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(30),
            store: None,
            limits: Limits::default(),
        }
    }
}

/// What becomes of content that a text model cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsupportedMedia {
    /// A short text in its place. Agents cannot take a screenshot out of their history again, so refusing one would end
    /// their session.
    Placeholder,
    /// The request is refused.
    Error,
}

/// Bounds for what clients send.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub body_bytes: usize,
    /// Deepest nesting of arrays and objects in a request body, at most [`ds4_chat::json::Json::MAX_DEPTH`].
    pub json_nesting: usize,
    /// Largest request head, in bytes.
    pub head_bytes: usize,
    /// Most header lines of a request.
    pub headers: usize,
    /// How long a client may take to send a request's head.
    pub head_time: Duration,
    /// Longest pause within a request's body.
    pub body_idle: Duration,
    /// Most open connections; more wait to be accepted.
    pub connections: usize,
    /// Most messages or input items of a request.
    pub messages: usize,
    /// Most tools of a request.
    pub tools: usize,
    /// Largest JSON text of all tools of a request together, in bytes.
    pub tool_bytes: usize,
    /// Most bytes of sampled turns that are kept for exact replay.
    pub replay_bytes: usize,
    /// Most sampled turns that are kept for exact replay.
    pub replay_turns: usize,
    /// Most responses that are kept to be continued.
    pub stored_responses: usize,
    /// Most bytes of these.
    pub stored_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            json_nesting: 128,
            head_bytes: 64 << 10,
            headers: 100,
            head_time: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            connections: 1024,
            messages: 100_000,
            tools: 1024,
            tool_bytes: 8 << 20,
            replay_bytes: 512 << 20,
            replay_turns: 100_000,
            stored_responses: 1000,
            stored_bytes: 256 << 20,
        }
    }
}
