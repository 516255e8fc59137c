//! The real server over a model that says what a script wants: for making real clients do a task.
//!
//! ```text
//! cargo run -p ds4-server --example scripted_server -- SCRIPT.json [--ctx TOKENS] [--step MS] [--prompt-step MS] [--api-key KEY]
//!     [--trace FILE]
//! ```
//!
//! A step of the scheduler takes `--step` milliseconds, and one that computes a part of a prompt (512 tokens) `--prompt-step` more.
//!
//! The script is an array of rules; the first that applies to a prompt answers it:
//!
//! ```json
//! [
//!   {"last": "<tool_result>", "answer": {"text": "Done."}},
//!   {"prompt": "hello.txt", "answer": {"reasoning": "A file.", "calls": [{"name": "Write", "arguments": {"path": "hello.txt"}}]}},
//!   {"answer": {"text": "What?"}}
//! ]
//! ```
//!
//! `last` is looked for in the last user turn, `prompt` anywhere in the prompt, both in its rendered form. Everything but
//! the arithmetic is real: rendering, tokenizer, scheduler, prefix reuse, parsers, APIs. It listens at a free port of
//! loopback and prints one line with its address.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ds4_chat::render::Profile;
use ds4_engine::{Engine, EngineOptions};
use ds4_scripted::{Answers, ScriptedBackend, open_model, tokenizer_of};
use ds4_server::{AppState, ServerConfig};

const USAGE: &str =
    "usage: scripted_server SCRIPT.json [--ctx TOKENS] [--step MS] [--prompt-step MS] [--api-key KEY] [--trace FILE]";

struct Arguments {
    script: PathBuf,
    ctx: usize,
    step: Duration,
    prompt_step: Duration,
    api_keys: Vec<String>,
    trace: Option<PathBuf>,
}

fn arguments() -> Result<Arguments, String> {
    let (mut script, mut ctx, mut trace) = (None, 200_000, None);
    let (mut step, mut prompt_step, mut api_keys) = (Duration::ZERO, Duration::ZERO, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value; {USAGE}"));
        match argument.as_str() {
            "--ctx" => ctx = value()?.parse().map_err(|error| format!("--ctx: {error}"))?,
            "--step" => step = milliseconds(&argument, &value()?)?,
            "--prompt-step" => prompt_step = milliseconds(&argument, &value()?)?,
            "--api-key" => api_keys.push(value()?),
            "--trace" => trace = Some(value()?.into()),
            _ if script.is_none() && !argument.starts_with('-') => script = Some(argument.into()),
            _ => return Err(format!("{argument} is not an argument; {USAGE}")),
        }
    }
    Ok(Arguments { script: script.ok_or(USAGE)?, ctx, step, prompt_step, api_keys, trace })
}

fn milliseconds(option: &str, value: &str) -> Result<Duration, String> {
    value.parse().map(Duration::from_millis).map_err(|error| format!("{option}: {error}"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { script, ctx, step, prompt_step, api_keys, trace } = arguments()?;
    let rules = serde_json::from_str(&std::fs::read_to_string(&script)?)
        .map_err(|error| format!("{} is no script: {error}", script.display()))?;
    let model = open_model(ds4_testdata::nano());
    let tokenizer = tokenizer_of(&model);
    let answers = Answers::new(Arc::clone(&tokenizer));
    answers.set_rules(rules);
    answers.set_step(step);
    answers.set_prompt_step(prompt_step);
    let backend = ScriptedBackend::new(model, answers);
    let options = EngineOptions { parallel: 4, retain: 18, ctx: Some(ctx), ..EngineOptions::default() };
    let engine = Engine::start(backend, tokenizer, options)?;
    let state = AppState::new(engine, Profile::Preview, ServerConfig { api_keys, trace, ..ServerConfig::default() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("serving {} at http://{} until it is killed", script.display(), listener.local_addr()?);
        ds4_server::serve(state, listener, std::future::pending()).await;
        Ok(())
    })
}
