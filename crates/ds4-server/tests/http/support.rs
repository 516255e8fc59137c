//! A server in this process: over the demo model, or over a backend that says what a test wants.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ds4_chat::render::Profile;
use ds4_chat::tokenizer::Tokenizer;
use ds4_engine::{Engine, EngineOptions};
use ds4_scripted::{Answers, ScriptedBackend, open_model, tokenizer_of};
use ds4_server::{AppState, ServerConfig};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A running server. Dropped, it shuts down.
pub struct Server {
    pub address: SocketAddr,
    pub engine: Engine,
    pub tokenizer: Arc<Tokenizer>,
    /// What the scripted model says.
    pub script: Answers,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
}

impl Server {
    /// Over a scripted model.
    pub fn scripted(config: ServerConfig, options: EngineOptions) -> Self {
        let model = open_model(ds4_testdata::nano());
        let tokenizer = tokenizer_of(&model);
        let script = Answers::new(Arc::clone(&tokenizer));
        let backend = ScriptedBackend::new(model, script.clone());
        let engine = Engine::start(backend, Arc::clone(&tokenizer), options).expect("valid options");
        Self::start(engine, tokenizer, script, config)
    }

    /// Over the demo model.
    pub fn nano(config: ServerConfig) -> Self {
        Self::nano_with(config, options())
    }

    /// Over the demo model. Its states are kept in the store that `config` names, if it does.
    pub fn nano_with(config: ServerConfig, options: EngineOptions) -> Self {
        let model = open_model(ds4_testdata::nano());
        let tokenizer = tokenizer_of(&model);
        let backend = ds4_cpu::CpuBackend::new(model, ds4_cpu::CpuOptions::default()).expect("a processor");
        let (tokens, store) = (Arc::clone(&tokenizer), config.store.as_ref());
        let engine = Engine::start_with_store(backend, tokens, options, store).expect("valid options");
        let script = Answers::new(Arc::clone(&tokenizer));
        Self::start(engine, tokenizer, script, config)
    }

    fn start(engine: Engine, tokenizer: Arc<Tokenizer>, script: Answers, config: ServerConfig) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let state = AppState::new(engine.clone(), Profile::Preview, config).expect("valid");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        runtime.spawn(ds4_server::serve(state, listener, async {
            let _ = stopped.await;
        }));
        Self { address, engine, tokenizer, script, stop: Some(stop), runtime: Some(runtime) }
    }

    /// Lets the model answer this, in the notation of [`ds4_scripted::Answer::spelled`].
    pub fn answers(&self, text: &str) {
        self.script.say(text);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a body as it is.
    pub fn send(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = agent().post(self.url(path)).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::new(request.send(body).expect("an answer"))
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(path, &body.to_string(), &[])
    }

    pub fn get(&self, path: &str) -> Answer {
        Answer::new(agent().get(self.url(path)).call().expect("an answer"))
    }

    /// Value of a line of `/metrics`; 0 if it is not there.
    pub fn metric(&self, line: &str) -> f64 {
        let text = self.get("/metrics").text;
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or(0.0)
    }

    /// Waits until a line of `/metrics` has a value.
    pub fn wait_for(&self, line: &str, value: f64) {
        for _ in 0..500 {
            if self.metric(line) == value {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{line} is {} and does not become {value}", self.metric(line));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.engine.shut_down();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// A client that does not give up on errors.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .max_idle_connections(0)
        .build()
        .new_agent()
}

pub fn options() -> EngineOptions {
    EngineOptions { parallel: 2, retain: 8, ctx: Some(4096), ..EngineOptions::default() }
}

/// A whole response.
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
    /// Whether the body ended as its framing says.
    pub is_whole: bool,
}

impl Answer {
    fn new(mut response: ureq::http::Response<ureq::Body>) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut bytes = Vec::new();
        let is_whole = response.body_mut().as_reader().read_to_end(&mut bytes).is_ok();
        Self { status, headers, text: String::from_utf8(bytes).expect("UTF-8"), is_whole }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Name and JSON of the frames of a stream whose events have names.
    pub fn events(&self) -> Vec<(String, Value)> {
        let event = |frame: &str| {
            let (name, data) = frame.strip_prefix("event: ")?.split_once("\ndata: ")?;
            let data = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {frame}"));
            Some((name.to_owned(), data))
        };
        self.text
            .split_terminator("\n\n")
            .map(|frame| event(frame).unwrap_or_else(|| panic!("no event: {frame}")))
            .collect()
    }

    /// The JSON of the frames; the end mark is a string.
    pub fn frames(&self) -> Vec<Value> {
        let data = self.text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))).collect()
    }
}
