//! `ds4 serve`: the model over HTTP.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use ds4_engine::EngineOptions;
use ds4_kvstore::KvStore;
use ds4_server::{AppState, Limits, ServerConfig, UnsupportedMedia};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::accounts;
use crate::args::{MediaArg, ServeArgs, ThinkArg};
use crate::backend::start_engine;
use crate::exit::{self, Outcome, UsageError};
use crate::kv_cache;
use crate::model_source::{LoadedModel, ModelSource};
use crate::terminal::{self, Waiting};

/// How long streams that the end of the grace cut off have to tell their clients.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until it is told to stop.
///
/// # Errors
/// An unusable model, an address that cannot be listened at, options out of range.
pub fn execute(args: &ServeArgs) -> anyhow::Result<Outcome> {
    let api_keys = api_keys(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Connections cost little beside a model; the processors are the engine's.
        .worker_threads(2)
        .thread_name("ds4-http")
        .enable_io()
        .enable_time()
        .build()
        .context("cannot start the threads of the server")?;
    // The address first: a model takes long to load, and a port in use is the likeliest mistake.
    let address = SocketAddr::new(args.host, args.port);
    let listener = runtime.block_on(TcpListener::bind(address)).with_context(|| {
        format!("cannot listen at {address}; is another server running there? --port takes another")
    })?;
    let address = listener.local_addr().context("cannot tell the address that the server listens at")?;

    let source = ModelSource::from(&args.model);
    let waiting = (!args.quiet).then(|| Waiting::new(format!("opening {}", source.label())));
    let loaded = LoadedModel::open(&source)?;
    let parallel = usize::from(args.parallel);
    let options = EngineOptions {
        parallel,
        queue: usize::from(args.queue),
        ctx: args.ctx.map(|ctx| ctx as usize),
        kv_ram: Some(kv_cache::memory_budget(args.kv.kv_ram)),
        ..EngineOptions::default()
    };
    let store = kv_cache::open(&args.kv, loaded.is_demo(), args.quiet)?;
    let engine = start_engine(&loaded, &args.backend, options, store.as_ref())?;
    drop(waiting);

    let profile = args.prompt_profile.resolve(loaded.profile());
    let state = AppState::new(engine.clone(), profile, config(args, api_keys, &loaded, store.clone()))?;
    if !args.quiet {
        announce(&source, address, args);
    }
    drop(loaded);
    let accounts = (!args.quiet).then(|| accounts::tell_from_time_to_time(engine.clone(), note));
    runtime.block_on(ds4_server::serve(state, listener, stop_signal()));
    drop(accounts);
    engine.shut_down();
    if let Some(store) = store {
        // What the last answers left is on the disk before the process ends.
        store.flush();
    }
    runtime.shutdown_timeout(LAST_WORDS);
    Ok(Outcome::Done)
}

fn config(args: &ServeArgs, api_keys: Vec<String>, loaded: &LoadedModel, store: Option<KvStore>) -> ServerConfig {
    let limits = Limits {
        body_bytes: (args.max_body as usize) << 20,
        json_nesting: usize::from(args.max_nesting),
        stored_responses: args.kept_responses as usize,
        stored_bytes: (args.kept_responses_memory as usize) << 20,
        connections: args.max_connections as usize,
        ..Limits::default()
    };
    ServerConfig {
        aliases: args.model_alias.clone(),
        strict_models: args.strict_model,
        fingerprint: fingerprint(loaded, args),
        api_keys,
        cors: args.cors.clone(),
        hosts: args.allow_host.clone(),
        thinking: ThinkArg::or_default(args.think, loaded.is_demo()).thinking(),
        client_sampling_in_thinking: args.honor_sampling,
        unsupported_media: match args.unsupported_media {
            MediaArg::Placeholder => UnsupportedMedia::Placeholder,
            MediaArg::Error => UnsupportedMedia::Error,
        },
        trace: args.trace.clone(),
        shutdown_grace: Duration::from_secs(u64::from(args.grace)),
        store,
        limits,
        ..ServerConfig::default()
    }
}

/// All keys. An empty one would let everybody in who sends an empty header.
fn api_keys(args: &ServeArgs) -> anyhow::Result<Vec<String>> {
    let mut keys = args.api_key.clone();
    if let Some(path) = &args.api_key_file {
        let from_file = keys_of(path)?;
        if from_file.is_empty() {
            bail!("the key file {} has no keys; write one a line", path.display());
        }
        keys.extend(from_file);
    }
    if keys.iter().any(|key| key.trim().is_empty()) {
        return Err(
            UsageError("--api-key is empty; give it a key, or leave it out for a server without keys".into()).into()
        );
    }
    Ok(keys)
}

fn keys_of(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the key file {}", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// A name for what decides about the answer to a request with a seed: the model file, the build, how it computes.
fn fingerprint(loaded: &LoadedModel, args: &ServeArgs) -> String {
    let gguf = loaded.model.gguf();
    let mut hash = Sha256::new();
    for (name, value) in gguf.metadata().iter().filter(|(name, _)| name.starts_with("general.")) {
        hash.update(format!("{name}={value:?};"));
    }
    let backend = &args.backend;
    hash.update(format!(
        "{} {:?} {} {}",
        env!("CARGO_PKG_VERSION"),
        backend.backend,
        backend.compute,
        backend.kv_precision
    ));
    let digits: String = hash.finalize().iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("fp_ds4_{digits}")
}

fn announce(source: &ModelSource, address: SocketAddr, args: &ServeArgs) {
    let host = match address.ip() {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        IpAddr::V4(ip) => ip.to_string(),
    };
    let url = format!("http://{host}:{}", address.port());
    note(&format!("serving {} at {url} (base URL of OpenAI clients: {url}/v1, of Anthropic's: {url})", source.label()));
    if !address.ip().is_loopback() && args.api_key.is_empty() && args.api_key_file.is_none() {
        note("other machines can use this server without a key; --api-key asks for one");
    }
}

fn note(text: &str) {
    terminal::tell(&terminal::printable(&format!("ds4: {text}")), |style, line| style.dim(line).into_owned());
}

/// Ready at the first Ctrl-C or request of the system to end. The second ends the process at once.
async fn stop_signal() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        std::process::exit(i32::from(exit::INTERRUPTED));
    });
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};

    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without a handler the system's own way to end a process remains.
        return std::future::pending().await;
    };
    std::future::poll_fn(|context| {
        let received = interrupt.poll_recv(context).is_ready() || terminate.poll_recv(context).is_ready();
        if received { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[cfg(not(unix))]
async fn signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
