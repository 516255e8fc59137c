//! Keeps a generation within the chat format while it is sampled.

use std::collections::VecDeque;

use ds4_chat::dsml::Event;
use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;
use ds4_engine::sampling::{Directive, Flow, Guide, TokenMask};

use super::turn_text::{Place, TurnText};

/// Follows an answer on the engine thread.
///
/// - It stops where the answer ends: at a stop sequence, or when the block of calls is closed, which saves sampling the
///   end-of-sentence token.
/// - Within the reasoning the marker of tool markup cannot be sampled: a forgotten `</think>` cannot become a call, and a
///   quoted call cannot be executed.
/// - Markup between values is sampled greedily: a rare token there breaks a call and never improves one.
/// - A demanded call is opened with the name of a tool that exists, and the turn does not end before it.
pub(super) struct TurnGuide {
    text: TurnText,
    end_think: Option<u32>,
    /// Tokens that end a turn.
    turn_ends: Vec<u32>,
    /// Banned within the reasoning.
    banned_in_reasoning: Vec<u32>,
    demand: Option<DemandedCall>,
    /// Whether the demanded call has been written.
    is_fulfilled: bool,
    /// Tokens to be taken next.
    forced: VecDeque<u32>,
    /// How much of the name is written, where one is being chosen.
    naming: Option<usize>,
    mask: TokenMask,
    n_vocab: usize,
}

/// A call that the request demands.
#[derive(Clone, Debug, Default)]
pub(super) struct DemandedCall {
    /// What to write right after the reasoning. Empty if the prompt opens the call.
    after_reasoning: Vec<u32>,
    /// What to write before the name of a tool. Empty if the opening names one.
    before_name: Vec<u32>,
    /// The ways to go on with a name, of which one is to be taken.
    names: Vec<Vec<u32>>,
}

impl DemandedCall {
    /// A call of one of `tools`, or of the one that the opening names if there are none. `after_reasoning` is the opening
    /// where the prompt does not have it.
    pub(super) fn new<'a>(
        tokenizer: &Tokenizer,
        after_reasoning: Vec<u32>,
        tools: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let way = |name: &str| tokenizer.encode(&format!("invoke name=\"{name}\">\n"));
        let names: Vec<Vec<u32>> = tools.into_iter().map(way).collect();
        let mut before_name = Vec::new();
        if !names.is_empty() {
            before_name = tokenizer.encode("<");
            before_name.extend(tokenizer.special(Special::Dsml));
        }
        Self { after_reasoning, before_name, names }
    }
}

impl TurnGuide {
    pub(super) fn new(tokenizer: &Tokenizer, text: TurnText, demand: Option<DemandedCall>) -> Self {
        let turn_ends: Vec<u32> =
            [Special::Eos, Special::User, Special::Assistant, Special::Bos, Special::LatestReminder]
                .into_iter()
                .filter_map(|special| tokenizer.special(special))
                .collect();
        let mut banned_in_reasoning: Vec<u32> = tokenizer.special(Special::Dsml).into_iter().collect();
        if demand.is_some() {
            banned_in_reasoning.extend(&turn_ends);
        }
        let is_open = text.place() != Place::Reasoning;
        let mut guide = Self {
            text,
            end_think: tokenizer.special(Special::EndThink),
            turn_ends,
            banned_in_reasoning,
            demand,
            is_fulfilled: false,
            forced: VecDeque::new(),
            naming: None,
            mask: TokenMask::none(0),
            n_vocab: tokenizer.vocab_size(),
        };
        if is_open {
            guide.open_call();
        }
        guide
    }

    /// Writes the rest of the opening of a demanded call.
    fn open_call(&mut self) {
        let Some(demand) = &self.demand else { return };
        self.forced.extend(&demand.after_reasoning);
        self.forced.extend(&demand.before_name);
        self.naming = (!demand.names.is_empty()).then_some(0);
    }

    /// Takes notice of a token of the name.
    fn name_token(&mut self, token: u32) {
        let (Some(demand), Some(at)) = (&mut self.demand, self.naming) else { return };
        demand.names.retain(|way| way.get(at) == Some(&token));
        // No way is the beginning of another: each ends with the only quotation mark after the name.
        let is_written = demand.names.iter().all(|way| way.len() == at + 1);
        self.naming = (!is_written).then_some(at + 1);
    }
}

impl Guide for TurnGuide {
    fn directive(&mut self) -> Directive<'_> {
        if let Some(&token) = self.forced.front() {
            return Directive { forced: Some(token), ..Directive::default() };
        }
        if let (Some(demand), Some(at)) = (&self.demand, self.naming) {
            self.mask = TokenMask::none(self.n_vocab);
            for way in &demand.names {
                if let Some(&token) = way.get(at) {
                    self.mask.allow(token);
                }
            }
            return Directive { allowed: Some(&self.mask), ..Directive::default() };
        }
        let place = self.text.place();
        let banned = match place {
            Place::Reasoning => &self.banned_in_reasoning,
            _ if self.demand.is_some() && !self.is_fulfilled => &self.turn_ends,
            _ => [].as_slice(),
        };
        Directive { banned, greedy: place == Place::Markup, ..Directive::default() }
    }

    fn accept(&mut self, token: u32) -> Flow {
        if self.forced.pop_front().is_none() {
            self.name_token(token);
        }
        let was_reasoning = self.text.place() == Place::Reasoning;
        for event in self.text.push(token) {
            self.is_fulfilled |= matches!(event, Event::CallEnd { complete: true, .. });
        }
        if self.text.is_complete() {
            return Flow::Stop;
        }
        if was_reasoning && Some(token) == self.end_think {
            self.open_call();
        }
        Flow::Continue
    }
}
