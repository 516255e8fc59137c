//! From sampled tokens to an answer's events, and to what is remembered of the turn.

use std::collections::VecDeque;
use std::sync::Arc;

use ds4_chat::conversation::ToolCall;
use ds4_chat::dsml::{self, End};
use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;
use ds4_engine::Token;

use super::event::{Delta, FinishReason, GenerationEvent, ScoredToken, TokenLogprob, Usage};
use super::turn_text::{Place, TurnText};
use crate::api::Api;
use crate::ids::IdSource;
use crate::replay::SampledTurn;

/// The answer of one generation, as it grows.
pub(super) struct Answer {
    tokenizer: Arc<Tokenizer>,
    ids: Arc<IdSource>,
    call_prefix: &'static str,
    text: TurnText,
    /// What the turn will be remembered as.
    turn: SampledTurn,
    /// Whether every call so far was complete.
    all_complete: bool,
    reasoning_tokens: usize,
    completion_tokens: usize,
    eos: Option<u32>,
    /// Tokens whose text has not been told.
    untold: Untold,
    finish: Option<dsml::FinishReason>,
}

impl Answer {
    /// An empty answer. `opening`: tokens of the turn that the prompt has already. `thinking`: whether the turn began with
    /// reasoning.
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        ids: Arc<IdSource>,
        api: Api,
        text: TurnText,
        opening: Vec<u32>,
        thinking: bool,
    ) -> Self {
        Self {
            eos: tokenizer.special(Special::Eos),
            tokenizer,
            ids,
            call_prefix: api.call_prefix(),
            text,
            turn: SampledTurn { thinking, tokens: opening, ..SampledTurn::default() },
            all_complete: true,
            reasoning_tokens: 0,
            completion_tokens: 0,
            untold: Untold::default(),
            finish: None,
        }
    }

    /// Takes the next token.
    pub(super) fn push(&mut self, token: Token, out: &mut VecDeque<GenerationEvent>) {
        if Some(token.id) == self.eos {
            return;
        }
        let before = self.text.place();
        self.turn.tokens.push(token.id);
        self.completion_tokens += 1;
        if let Some(logprobs) = token.logprobs
            && !self.tokenizer.is_control(token.id)
            && matches!(before, Place::Reasoning | Place::Answer | Place::Markup)
        {
            let scored = |id, logprob| ScoredToken { bytes: self.tokenizer.token_bytes(id).to_vec(), logprob };
            let top = logprobs.top.iter().map(|top| scored(top.token, top.logprob)).collect();
            self.untold.push(TokenLogprob { token: scored(token.id, logprobs.logprob), top });
        }
        let events = self.text.push(token.id);
        self.reasoning_tokens += usize::from(before == Place::Reasoning && self.text.place() == Place::Reasoning);
        self.tell(events, out);
    }

    /// The output is over.
    pub(super) fn finish(&mut self, end: End, out: &mut VecDeque<GenerationEvent>) -> FinishReason {
        let events = self.text.finish(end);
        self.tell(events, out);
        if let Some(stop) = self.text.stop_sequence() {
            return FinishReason::StopSequence(stop.to_owned());
        }
        match (self.finish, end) {
            (Some(dsml::FinishReason::ToolCalls), _) => FinishReason::ToolCalls,
            (Some(dsml::FinishReason::Length), _) | (None, End::Length) => FinishReason::Length,
            (Some(dsml::FinishReason::Stop), _) | (None, End::Stop) => FinishReason::Stop,
        }
    }

    /// How much damage of the calls was repaired.
    pub(super) fn recoveries(&self) -> usize {
        self.text.recoveries()
    }

    /// Whether it is within its reasoning.
    pub(super) fn is_reasoning(&self) -> bool {
        self.text.place() == Place::Reasoning
    }

    /// Token counts so far.
    pub(super) fn usage(&self, prompt_tokens: usize, cached_tokens: usize) -> Usage {
        Usage {
            prompt_tokens,
            cached_tokens,
            completion_tokens: self.completion_tokens,
            reasoning_tokens: self.reasoning_tokens,
        }
    }

    /// The turn, to be remembered; `None` if it is not worth it or the client was not given all of it.
    pub(super) fn into_turn(self, reason: &FinishReason) -> Option<SampledTurn> {
        let is_whole = match reason {
            FinishReason::Stop => self.turn.calls.is_empty(),
            FinishReason::ToolCalls => true,
            // Text after a stop sequence was sampled and not told.
            FinishReason::StopSequence(_) | FinishReason::Length => false,
        };
        (is_whole && self.all_complete).then_some(self.turn)
    }

    fn tell(&mut self, events: Vec<dsml::Event>, out: &mut VecDeque<GenerationEvent>) {
        for event in events {
            match event {
                dsml::Event::Reasoning(text) if !text.is_empty() => {
                    self.turn.reasoning.push_str(&text);
                    out.push_back(GenerationEvent::Reasoning(self.untold.tell(text)));
                }
                dsml::Event::Reasoning(_) => {}
                dsml::Event::Content(text) if !text.is_empty() => {
                    self.turn.text.push_str(&text);
                    out.push_back(GenerationEvent::Text(self.untold.tell(text)));
                }
                dsml::Event::Content(_) => {}
                dsml::Event::CallStart { index, name } => {
                    self.untold.clear();
                    let id = self.ids.call(self.call_prefix, index);
                    self.turn.calls.push(ToolCall {
                        id: Some(id.clone()),
                        name: name.clone(),
                        arguments: String::new(),
                    });
                    out.push_back(GenerationEvent::CallStart { index, id, name });
                }
                dsml::Event::Arguments { index, delta } => {
                    if let Some(call) = self.turn.calls.get_mut(index) {
                        call.arguments.push_str(&delta);
                    }
                    out.push_back(GenerationEvent::CallArguments { index, delta });
                }
                dsml::Event::CallEnd { index, complete } => {
                    self.all_complete &= complete;
                    out.push_back(GenerationEvent::CallEnd { index, complete });
                }
                dsml::Event::Finished(reason) => self.finish = Some(reason),
            }
        }
    }
}

/// Tokens with log-probabilities that wait for their text to be certain. The parser holds text back while it may be
/// markup, and drops some of it (line feeds around the reasoning); tokens go where their text goes.
#[derive(Default)]
struct Untold {
    tokens: VecDeque<TokenLogprob>,
    /// Their bytes, joined; the first token's may have been told in part.
    bytes: Vec<u8>,
    /// How many bytes of the first token are gone.
    gone: usize,
}

impl Untold {
    fn push(&mut self, token: TokenLogprob) {
        self.bytes.extend_from_slice(&token.token.bytes);
        self.tokens.push_back(token);
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// The delta of `text`, with the tokens that begin in it. Tokens before it were dropped.
    fn tell(&mut self, text: String) -> Delta {
        if self.tokens.is_empty() {
            return Delta { text, logprobs: Vec::new() };
        }
        let wanted = text.as_bytes();
        let found = self.bytes.windows(wanted.len()).position(|window| window == wanted);
        // Text that is not the tokens' bytes has a replacement for an invalid character in it: then all of them are its.
        let (start, end) = found.map_or((0, self.bytes.len()), |start| (start, start + wanted.len()));
        let mut logprobs = Vec::new();
        let mut at = 0;
        while let Some(first) = self.tokens.front() {
            let next = at + first.token.bytes.len() - self.gone;
            if at >= end {
                break;
            }
            let is_shown = next > start && self.gone == 0;
            if next > end {
                // It goes on after the text: told here, and not again.
                if is_shown {
                    logprobs.push(first.clone());
                }
                self.gone += end - at;
                at = end;
                break;
            }
            let first = self.tokens.pop_front();
            logprobs.extend(first.filter(|_| is_shown));
            self.gone = 0;
            at = next;
        }
        self.bytes.drain(..at);
        Delta { text, logprobs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn untold(tokens: &[&[u8]]) -> Untold {
        let mut untold = Untold::default();
        for bytes in tokens {
            let token = ScoredToken { bytes: bytes.to_vec(), logprob: -1.0 };
            untold.push(TokenLogprob { token, top: Vec::new() });
        }
        untold
    }

    fn told(delta: &Delta) -> Vec<&[u8]> {
        delta.logprobs.iter().map(|logprob| logprob.token.bytes.as_slice()).collect()
    }

    #[test]
    fn tokens_go_with_their_text() {
        let mut tokens = untold(&[b"\n\n", b"Hi", b" there", b"\n", b"<"]);
        assert_eq!(told(&tokens.tell("Hi".to_owned())), [b"Hi"], "dropped line feeds are not told");
        assert_eq!(told(&tokens.tell(" th".to_owned())), [b" there"]);
        assert!(told(&tokens.tell("ere".to_owned())).is_empty(), "each token is told once");
        assert_eq!(told(&tokens.tell("\n<".to_owned())), [b"\n".as_slice(), b"<"]);
        assert!(told(&tokens.tell("x".to_owned())).is_empty());
    }

    #[test]
    fn a_character_of_several_tokens_brings_them_all() {
        let mut tokens = untold(&[&[0xf0, 0x9f], &[0x98, 0x80], b"!"]);
        assert_eq!(told(&tokens.tell("😀".to_owned())), [&[0xf0, 0x9f], &[0x98, 0x80]]);
        let mut tokens = untold(&[&[0xf0, 0x9f], b"!"]);
        assert_eq!(told(&tokens.tell("\u{fffd}!".to_owned())).len(), 2);
    }
}
