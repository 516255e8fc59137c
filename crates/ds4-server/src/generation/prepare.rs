//! From a request to tokens: everything that can be refused before anything is computed.

use ds4_chat::dsml::Options;
use ds4_chat::render::{BoundaryKind, RenderOptions, RenderedPrompt, render};
use ds4_chat::special::{Piece, Prompt, Special};
use ds4_chat::tokenizer::{Tokenizer, TokenizerError};
use ds4_engine::{Request, StopMatcher};

use super::constraint::Constraint;
use super::guide::TurnGuide;
use super::request::{ChatPrompt, GenerationRequest, PromptSource, default_max_tokens};
use super::titles;
use super::turn_text::{Place, TurnText};
use crate::api::Api;
use crate::error::ApiError;
use crate::state::AppState;

/// A request that is ready to run.
pub struct Prepared {
    pub(super) api: Api,
    pub(super) request: Request,
    pub(super) max_tokens: usize,
    pub(super) text: TurnText,
    /// Tokens of the answer's turn that the prompt has already.
    pub(super) opening: Vec<u32>,
    /// Whether the turn begins with reasoning.
    pub(super) thinking: bool,
    replayed_turns: usize,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("api", &self.api).field("request", &self.request).finish_non_exhaustive()
    }
}

impl Prepared {
    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.request.prompt.len()
    }

    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.request.prompt
    }

    /// Whether the answer begins with reasoning, or goes on with it.
    pub fn begins_with_reasoning(&self) -> bool {
        self.text.place() == Place::Reasoning
    }

    /// Earlier turns whose sampled tokens are in the prompt.
    pub fn replayed_turns(&self) -> usize {
        self.replayed_turns
    }
}

/// Renders and encodes the prompt of `request` and checks that it can run. It takes time in proportion to the prompt, so
/// it does not belong on a thread that serves connections: see [`AppState::prepare`].
///
/// # Errors
/// A conversation that cannot be rendered, a prompt that does not fit the context, parameters out of range.
pub(crate) fn prepare(state: &AppState, request: GenerationRequest) -> Result<Prepared, ApiError> {
    let api = request.api;
    let tokenizer = state.tokenizer();
    let stops = StopMatcher::new(&request.stop).map_err(|error| {
        let field = if api == Api::Messages { "stop_sequences" } else { "stop" };
        ApiError::invalid(field, error.to_string())
    })?;
    let title = match &request.prompt {
        PromptSource::Chat(chat) => titles::of(&chat.conversation),
        PromptSource::Raw(_) => None,
    };
    let built = match request.prompt {
        PromptSource::Chat(chat) => chat_prompt(state, api, *chat)?,
        PromptSource::Raw(ids) => Built { ids, ..Built::default() },
    };
    let sampling = request.sampling.params(built.thinking, state.config());
    sampling.validate(tokenizer.vocab_size()).map_err(|error| ApiError::invalid(error.field(), error.to_string()))?;

    let context = state.engine().context();
    let max_tokens = request.max_tokens.unwrap_or(built.default_max_tokens);
    if built.ids.len() >= context {
        return Err(ApiError::context_length(api, built.ids.len(), max_tokens, context));
    }
    let text = || TurnText::new(tokenizer.clone(), built.parser.clone(), stops.clone());
    let mut engine_request = Request::new(built.ids);
    engine_request.max_tokens = Some(max_tokens);
    engine_request.sampling = sampling;
    engine_request.stop_tokens = tokenizer.special(Special::Eos).into_iter().collect();
    engine_request.snapshots = built.snapshots;
    if let (Some(session), Some(title)) = (&request.session, &title) {
        titles::note(state.config().store.as_ref(), session, title);
    }
    engine_request.session = request.session;
    engine_request.weight = request.weight;
    engine_request.guide = Some(Box::new(TurnGuide::new(tokenizer, text(), built.constraint)));
    Ok(Prepared {
        api,
        request: engine_request,
        max_tokens,
        text: text(),
        opening: built.opening,
        thinking: built.thinking,
        replayed_turns: built.replayed_turns,
    })
}

/// What comes of a prompt's source.
struct Built {
    ids: Vec<u32>,
    snapshots: Vec<usize>,
    parser: Option<Options>,
    constraint: Constraint,
    opening: Vec<u32>,
    thinking: bool,
    default_max_tokens: usize,
    replayed_turns: usize,
}

impl Default for Built {
    fn default() -> Self {
        Self {
            ids: Vec::new(),
            snapshots: Vec::new(),
            parser: None,
            constraint: Constraint::default(),
            opening: Vec::new(),
            thinking: false,
            default_max_tokens: default_max_tokens(ds4_chat::render::Thinking::Off),
            replayed_turns: 0,
        }
    }
}

fn chat_prompt(state: &AppState, api: Api, mut chat: ChatPrompt) -> Result<Built, ApiError> {
    let tokenizer = state.tokenizer();
    let mut conversation = std::mem::take(&mut chat.conversation);
    let replayed_turns = state.replay().apply(&mut conversation, &chat.turn_ids, chat.thinking.is_on());
    let options = RenderOptions { profile: state.profile(), thinking: chat.thinking, ..RenderOptions::default() };
    let rendered = render(&conversation, &options).map_err(|error| ApiError::from_render(&error, api))?;
    let (ids, ends) = encode_pieces(tokenizer, rendered.prompt.pieces())?;
    let (opening, thinking) = opened_turn(tokenizer, &ids);
    let constraint = Constraint::new(state.grammars(), tokenizer, &conversation, &chat, &rendered, api)?;
    Ok(Built {
        snapshots: snapshots(&rendered, &ends),
        ids,
        parser: Some(Options { single_call: chat.single_call, ..rendered.parser_options() }),
        constraint,
        opening,
        thinking,
        default_max_tokens: default_max_tokens(chat.thinking),
        replayed_turns,
    })
}

/// The tokens of `pieces`, and how many there are after each piece.
fn encode_pieces(tokenizer: &Tokenizer, pieces: &[Piece]) -> Result<(Vec<u32>, Vec<usize>), TokenizerError> {
    let mut ids = Vec::new();
    let mut ends = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match piece {
            Piece::Text(text) => ids.extend(tokenizer.encode(text)),
            Piece::Tokens(tokens) => ids.extend(tokens),
            Piece::Control(special) => ids.extend(tokenizer.encode_prompt(Prompt::new().control(*special))?),
        }
        ends.push(ids.len());
    }
    Ok((ids, ends))
}

/// Where states are kept: after what all conversations of a client have in common, and before the turn to answer, for
/// an answer that is asked for again or in another mode. The end of the generation is kept anyway.
fn snapshots(rendered: &RenderedPrompt, ends: &[usize]) -> Vec<usize> {
    let last = |kind| rendered.boundaries.iter().rev().find(|boundary| boundary.kind == kind);
    let mut snapshots: Vec<usize> = [last(BoundaryKind::System), last(BoundaryKind::User)]
        .into_iter()
        .flatten()
        .filter_map(|boundary| ends.get(boundary.pieces.checked_sub(1)?).copied())
        // A beginning-of-sentence token alone is computed faster than found.
        .filter(|&tokens| tokens > 1)
        .collect();
    snapshots.dedup();
    snapshots
}

/// What the prompt has of the turn to be answered, after its think marker, and whether that opens the reasoning.
fn opened_turn(tokenizer: &Tokenizer, ids: &[u32]) -> (Vec<u32>, bool) {
    let special = |special| tokenizer.special(special);
    let header = special(Special::Assistant).and_then(|id| ids.iter().rposition(|&other| other == id));
    match header {
        Some(header) => {
            let thinking = ids.get(header + 1).copied() == special(Special::Think);
            (ids.get(header + 2..).unwrap_or_default().to_vec(), thinking)
        }
        None => (Vec::new(), false),
    }
}
