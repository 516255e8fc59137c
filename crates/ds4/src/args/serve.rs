//! `ds4 serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::number::whole;
use super::{BackendArgs, KvCacheArgs, ModelArgs, ProfileArg, ThinkArg};

const ABOUT: &str = "Serve the model over HTTP to agents and SDKs";

const LONG_ABOUT: &str = "\
Serve the model over HTTP to agents and SDKs.

Speaks OpenAI's and Anthropic's APIs below http://HOST:PORT/v1. /health says whether it runs, /metrics is for Prometheus. Ctrl-C lets running answers \
come to their end, a second one does not.";

const EXAMPLES: &str = "\
Examples:
  ds4 serve                                 the built-in demo model at http://127.0.0.1:8000
  ds4 serve -m FILE --parallel 4 --ctx 200000
  ds4 serve -m FILE --host 0.0.0.0 --api-key-file keys.txt
  curl http://127.0.0.1:8000/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'";

/// Arguments of `ds4 serve`.
#[derive(Args, Clone, Debug)]
#[command(about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct ServeArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Address to listen at; 0.0.0.0 is reachable from other machines
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen at; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = whole::<u16>(..=65535))]
    pub port: u16,

    /// Longest context of a request, prompt and answer together, in tokens [default: the model's own]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1..))]
    pub ctx: Option<u32>,

    /// Requests that are computed together; further ones wait
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = whole::<u16>(1..=256))]
    pub parallel: u16,

    /// Requests that may wait; further ones are sent away
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = whole::<u16>(..=65535))]
    pub queue: u16,

    /// A key that requests must carry; may be given several times
    #[arg(long, value_name = "KEY", env = "DS4_API_KEY", hide_env_values = true)]
    pub api_key: Vec<String>,

    /// A file of keys, one a line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// A web origin whose pages may use the server, such as http://localhost:3000; * means all
    #[arg(long, value_name = "ORIGIN", num_args = 1..)]
    pub cors: Vec<String>,

    /// A further name under which this machine may be addressed, beside localhost
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,

    /// Write requests, prompts and what was refused to a file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// A further name of the model in the list of models; requests may use any
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub model_alias: Vec<String>,

    /// Refuse requests for models of other names
    #[arg(long)]
    pub strict_model: bool,

    /// Whether and how hard to think where a request does not say [default: high; off for the demo model]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub think: Option<ThinkArg>,

    /// Let requests choose temperature, top-p and penalties in thinking mode, too; they are ignored there otherwise
    #[arg(long)]
    pub honor_sampling: bool,

    /// What becomes of images and other content that this model cannot read
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = MediaArg::Placeholder)]
    pub unsupported_media: MediaArg,

    /// Largest request body, in MiB
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = whole::<u32>(1..=4096))]
    pub max_body: u32,

    /// Deepest nesting of arrays and objects in a request body
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole::<u16>(8..=256))]
    pub max_nesting: u16,

    /// Responses that are kept for `previous_response_id`; the one not used for longest is forgotten first
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole::<u32>(..=1_000_000))]
    pub kept_responses: u32,

    /// Memory for kept responses, in MiB
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole::<u32>(1..=1_048_576))]
    pub kept_responses_memory: u32,

    /// Most open connections
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole::<u32>(1..=65536))]
    pub max_connections: u32,

    /// How long running answers may go on after Ctrl-C, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = whole::<u32>(..))]
    pub grace: u32,

    /// How the model release was taught reasoning effort
    #[arg(long, value_enum, value_name = "PROFILE", default_value_t = ProfileArg::Auto)]
    pub prompt_profile: ProfileArg,

    /// Nothing on standard error but errors
    #[arg(short = 'q', long)]
    pub quiet: bool,

    #[command(flatten)]
    pub kv: KvCacheArgs,

    #[command(flatten)]
    pub backend: BackendArgs,
}

/// What becomes of content that a text model cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MediaArg {
    /// A short text in its place
    Placeholder,
    /// The request is refused
    Error,
}
