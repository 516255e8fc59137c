//! A server in this process: over the demo model, or over a backend that says what a test wants.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ds4_chat::render::Profile;
use ds4_chat::special::{Prompt, Special};
use ds4_chat::tokenizer::{Tokenizer, TokenizerParts};
use ds4_engine::{Engine, EngineOptions};
use ds4_gguf::Gguf;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Model, ModelError, Numerics, Rows, Sequence, Sublayer};
use ds4_server::{AppState, ServerConfig};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub fn nano() -> Arc<Model> {
    let gguf = Gguf::open(ds4_testdata::nano()).expect("the demo model");
    Arc::new(Model::new(gguf).expect("a valid model"))
}

pub fn tokenizer_of(model: &Model) -> Arc<Tokenizer> {
    let metadata = model.gguf().metadata();
    let parts = TokenizerParts {
        tokens: metadata.str_array("tokenizer.ggml.tokens").expect("tokens").iter(),
        token_types: metadata.i32_array("tokenizer.ggml.token_type").expect("types"),
        merges: metadata.str_array("tokenizer.ggml.merges").expect("merges").iter(),
        pre: metadata.str("tokenizer.ggml.pre").expect("a name"),
        model: metadata.str("tokenizer.ggml.model").expect("a name"),
    };
    Arc::new(Tokenizer::from_parts(parts).expect("a valid vocabulary"))
}

/// What the scripted model answers, and how fast it is.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Tokens of the turn after its think marker; then the end of the sentence.
    pub answer: Vec<u32>,
    /// Time of a step.
    pub step: Duration,
    /// The step (of the answer, from 0) that fails.
    pub fail_at: Option<usize>,
}

/// Pieces of an answer: text, and control tokens in braces by name.
pub fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut prompt = Prompt::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        prompt.text(before);
        let (name, after) = after.split_once("}}").expect("a closed name");
        prompt.control(match name {
            "D" => Special::Dsml,
            "/think" => Special::EndThink,
            other => panic!("no control token {other}"),
        });
        rest = after;
    }
    prompt.text(rest);
    tokenizer.encode_prompt(&prompt).expect("all control tokens")
}

pub struct Scripted {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    script: Arc<Mutex<Script>>,
    next: Vec<u32>,
    failed: bool,
    logits: Vec<f32>,
}

#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<u32>, usize);

impl SequenceState for Tokens {
    fn len(&self) -> usize {
        self.1
    }

    fn advance(&mut self, tokens: usize) {
        self.1 += tokens;
    }

    fn fork(&self) -> Self {
        self.clone()
    }
}

impl Scripted {
    /// The token after `tokens`, which may have the beginning of an answer.
    fn next_token(&mut self, tokens: &[u32]) -> u32 {
        let script = self.script.lock().expect("no panic").clone();
        let header = self.tokenizer.special(Special::Assistant);
        let answered = tokens.iter().rposition(|&token| Some(token) == header).map_or(0, |at| tokens.len() - at - 2);
        self.failed |= script.fail_at == Some(answered);
        let eos = self.tokenizer.special(Special::Eos).expect("an end of sentence");
        script.answer.get(answered).copied().unwrap_or(eos)
    }
}

impl Backend for Scripted {
    type Sequence = Tokens;

    fn model(&self) -> &Model {
        &self.model
    }

    fn numerics(&self) -> Numerics {
        Numerics::default()
    }

    fn new_sequence(&self) -> Tokens {
        Tokens::default()
    }

    fn export(&self, _: &Tokens) -> Result<Sequence, ModelError> {
        Err(ModelError::State("not kept here".to_owned()))
    }

    fn import(&self, _: &Sequence) -> Result<Tokens, ModelError> {
        Err(ModelError::State("not kept here".to_owned()))
    }

    fn begin(&mut self, _: &Rows) -> Result<(), ModelError> {
        let step = self.script.lock().expect("no panic").step;
        std::thread::sleep(step);
        Ok(())
    }

    fn embed(&mut self, _: &Rows) -> Result<(), ModelError> {
        Ok(())
    }

    fn hc_mix(&mut self, _: usize, _: Sublayer) -> Result<(), ModelError> {
        Ok(())
    }

    fn attn_in(&mut self, _: usize) -> Result<(), ModelError> {
        Ok(())
    }

    fn attn_q(&mut self, _: usize, _: &Rows) -> Result<(), ModelError> {
        Ok(())
    }

    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Tokens]) -> Result<(), ModelError> {
        if layer == 0 {
            self.next = vec![0; rows.tokens().len()];
            for span in rows.spans() {
                for (row, _) in span.rows() {
                    sequences[span.sequence].0.push(rows.tokens()[row]);
                    if rows.wanted().contains(&row) {
                        let tokens = sequences[span.sequence].0.clone();
                        self.next[row] = self.next_token(&tokens);
                    }
                }
            }
        }
        if self.failed { Err(ModelError::Device("the scripted device is unplugged".to_owned())) } else { Ok(()) }
    }

    fn index_select(&mut self, _: usize, _: &Rows, _: &mut [&mut Tokens]) -> Result<(), ModelError> {
        Ok(())
    }

    fn attend(&mut self, _: usize, _: &Rows, _: &mut [&mut Tokens]) -> Result<(), ModelError> {
        Ok(())
    }

    fn attn_out(&mut self, _: usize) -> Result<(), ModelError> {
        Ok(())
    }

    fn hc_merge(&mut self, _: usize, _: Sublayer) -> Result<(), ModelError> {
        Ok(())
    }

    fn route(&mut self, _: usize, _: &Rows) -> Result<(), ModelError> {
        Ok(())
    }

    fn moe(&mut self, _: usize) -> Result<(), ModelError> {
        Ok(())
    }

    fn head(&mut self, rows: &Rows) -> Result<(), ModelError> {
        let n_vocab = self.model.config().n_vocab;
        self.logits.clear();
        for &row in rows.wanted() {
            let start = self.logits.len();
            // All others are possible too, where a constraint leaves nothing else.
            self.logits.resize(start + n_vocab, 0.0);
            self.logits[start + self.next[row] as usize] = 1000.0;
        }
        Ok(())
    }

    fn read(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError> {
        assert_eq!(buffer, Buffer::Logits);
        Ok(self.logits.clone())
    }

    fn write(&mut self, _: Buffer, _: &[f32]) -> Result<(), ModelError> {
        Ok(())
    }

    fn selection(&self, _: usize) -> Result<Option<Vec<u32>>, ModelError> {
        Ok(None)
    }
}

/// A running server. Dropped, it shuts down.
pub struct Server {
    pub address: SocketAddr,
    pub engine: Engine,
    pub tokenizer: Arc<Tokenizer>,
    script: Arc<Mutex<Script>>,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
}

impl Server {
    /// Over a scripted model.
    pub fn scripted(config: ServerConfig, options: EngineOptions) -> Self {
        let model = nano();
        let tokenizer = tokenizer_of(&model);
        let script = Arc::new(Mutex::new(Script::default()));
        let backend = Scripted {
            model,
            tokenizer: Arc::clone(&tokenizer),
            script: Arc::clone(&script),
            next: Vec::new(),
            failed: false,
            logits: Vec::new(),
        };
        let engine = Engine::start(backend, Arc::clone(&tokenizer), options).expect("valid options");
        Self::start(engine, tokenizer, script, config)
    }

    /// Over the demo model.
    pub fn nano(config: ServerConfig) -> Self {
        let model = nano();
        let tokenizer = tokenizer_of(&model);
        let backend = ds4_cpu::CpuBackend::new(model, ds4_cpu::CpuOptions::default()).expect("a processor");
        let engine = Engine::start(backend, Arc::clone(&tokenizer), options()).expect("valid options");
        Self::start(engine, tokenizer, Arc::default(), config)
    }

    fn start(engine: Engine, tokenizer: Arc<Tokenizer>, script: Arc<Mutex<Script>>, config: ServerConfig) -> Self {
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

    /// Lets the model answer this, in the notation of [`tokens`].
    pub fn answers(&self, text: &str) {
        self.script.lock().expect("no panic").answer = tokens(&self.tokenizer, text);
    }

    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().expect("no panic"));
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

    /// The JSON of the frames; the end mark is a string.
    pub fn frames(&self) -> Vec<Value> {
        let data = self.text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))).collect()
    }
}
