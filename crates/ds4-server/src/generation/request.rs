//! What an API asks to be generated, in terms that all of them share.

use std::collections::{BTreeMap, BTreeSet};

use ds4_chat::conversation::{Conversation, Tool};
use ds4_chat::render::{Effort, Thinking};
use ds4_engine::sampling::SamplingParams;
use ds4_grammar::InputGrammar;

use crate::api::Api;
use crate::config::ServerConfig;

/// What is to be generated.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// Who asks.
    pub api: Api,
    /// The prompt.
    pub prompt: PromptSource,
    /// How tokens are sampled.
    pub sampling: ClientSampling,
    /// Most tokens of the answer; `None`: as many as the hosted service allows in this thinking mode. What the context
    /// has no room for is cut.
    pub max_tokens: Option<usize>,
    /// Strings that end the answer. In a conversation they are looked for in the answer only, in raw text everywhere.
    pub stop: Vec<String>,
    /// The conversation that it is part of, if the client names it.
    pub session: Option<String>,
    /// How much its session is to get beside others; 1 is usual.
    pub weight: f64,
}

impl GenerationRequest {
    /// A request with default settings.
    pub fn new(api: Api, prompt: PromptSource) -> Self {
        let sampling = ClientSampling::default();
        Self { api, prompt, sampling, max_tokens: None, stop: Vec::new(), session: None, weight: 1.0 }
    }
}

/// What a prompt is made of.
#[derive(Clone, Debug)]
pub enum PromptSource {
    /// A conversation, to be rendered.
    Chat(Box<ChatPrompt>),
    /// Tokens, to be continued as they are. Control tokens of the answer are not shown, and nothing is parsed.
    Raw(Vec<u32>),
}

/// A conversation, and how the model is to answer it.
#[derive(Clone, Debug)]
pub struct ChatPrompt {
    /// The conversation, with tools, tool choice and response format.
    pub conversation: Conversation,
    /// Thinking mode.
    pub thinking: Thinking,
    /// Whether the turn ends with its first call.
    pub single_call: bool,
    /// Ids of earlier turns of ours ([`GenerationStream::turn_id`](super::GenerationStream::turn_id)) that the client sent
    /// back, as a signature or otherwise, each with the index of its message.
    pub turn_ids: Vec<(usize, String)>,
    /// What the answer must follow to the letter.
    pub strict: Strict,
    /// Names of the only tools that may be called; `None`: all of them. The prompt shows all in either case, so that it does not
    /// change from turn to turn.
    pub allowed_tools: Option<BTreeSet<String>>,
    /// Tools that a message tells of, as the result of a search for tools does. They may be called like the conversation's.
    pub tools_found: Vec<Tool>,
}

/// Which of a conversation's schemas the request was promised to be followed to the letter. A schema that cannot be enforced
/// is then refused; one that is not strict is followed as far as it can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strict {
    /// The schema of the response format.
    pub format: bool,
    /// Tools whose parameters are to be followed, by name.
    pub tools: BTreeSet<String>,
    /// Grammars of the texts that free-form tools take, by the tool's name.
    pub inputs: BTreeMap<String, ToolInput>,
}

/// What a free-form tool's text has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolInput {
    /// The client's grammar.
    pub grammar: InputGrammar,
    /// Where the request has it.
    pub path: String,
}

impl ChatPrompt {
    /// A conversation with default settings.
    pub fn new(conversation: Conversation, thinking: Thinking) -> Self {
        Self {
            conversation,
            thinking,
            single_call: false,
            turn_ids: Vec::new(),
            strict: Strict::default(),
            allowed_tools: None,
            tools_found: Vec::new(),
        }
    }
}

/// Sampling parameters of a request. `None` is what the request does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientSampling {
    /// See [`SamplingParams`], as for all of these.
    pub temperature: Option<f32>,
    /// Likeliest tokens to choose from.
    pub top_k: Option<u32>,
    /// Share of the probability to choose from.
    pub top_p: Option<f32>,
    /// Least probability relative to the likeliest.
    pub min_p: Option<f32>,
    /// Penalty of tokens in the answer.
    pub presence_penalty: Option<f32>,
    /// Penalty of tokens in the answer, per occurrence.
    pub frequency_penalty: Option<f32>,
    /// Seed of the random numbers.
    pub seed: Option<u64>,
    /// Added to logits.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Log-probabilities of each sampled token and of this many likeliest ones.
    pub logprobs: Option<usize>,
}

impl ClientSampling {
    /// The engine's parameters. In thinking mode what shapes the distribution is left to the defaults unless the server is
    /// told otherwise; the seed, the bias and the log-probabilities always count.
    pub(super) fn params(&self, thinking: bool, config: &ServerConfig) -> SamplingParams {
        let mut params = SamplingParams {
            seed: self.seed,
            logit_bias: self.logit_bias.clone(),
            logprobs: self.logprobs,
            ..SamplingParams::default()
        };
        if thinking && !config.client_sampling_in_thinking {
            return params;
        }
        params.temperature = self.temperature.unwrap_or(params.temperature);
        params.top_k = self.top_k.unwrap_or(params.top_k);
        params.top_p = self.top_p.unwrap_or(params.top_p);
        params.min_p = self.min_p.unwrap_or(params.min_p);
        params.presence_penalty = self.presence_penalty.unwrap_or(params.presence_penalty);
        params.frequency_penalty = self.frequency_penalty.unwrap_or(params.frequency_penalty);
        params
    }
}

/// Most tokens of an answer when the request does not say: what the hosted service allows.
pub(super) fn default_max_tokens(thinking: Thinking) -> usize {
    match thinking {
        Thinking::Off => 8_192,
        Thinking::On(Effort::Low | Effort::High) => 65_536,
        Thinking::On(Effort::Max) => 131_072,
    }
}
