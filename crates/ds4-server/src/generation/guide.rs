//! Keeps a generation within the chat format, and within its constraint, while it is sampled.

use std::collections::VecDeque;

use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;
use ds4_engine::sampling::{Directive, Flow, Guide};
use ds4_grammar::TokenMatcher;

use super::constraint::Constraint;
use super::turn_text::{Place, TurnText};

/// Follows an answer on the engine thread.
///
/// - It stops where the answer ends: at a stop sequence, when the block of calls is closed, or when nothing can follow a JSON
///   text, which saves sampling the end-of-sentence token.
/// - Reasoning is free, but the marker of tool markup cannot be sampled there: a forgotten `</think>` cannot become a call, and a
///   quoted call cannot be executed. Where the answer is constrained, the turn cannot end before it.
/// - The answer follows its grammar from its first token on, if it has one.
/// - A block of calls follows the grammar of calls from its opening on: names are those of tools, tags are closed. Markup between
///   values is sampled greedily: a rare token there never improves a call.
/// - A demanded call is opened, and the turn does not end before it.
pub(super) struct TurnGuide {
    text: TurnText,
    end_think: Option<u32>,
    dsml: Option<u32>,
    /// Banned within the reasoning.
    banned_in_reasoning: Vec<u32>,
    constraint: Constraint,
    /// Tokens to be taken next, before the demanded call's grammar.
    forced: VecDeque<u32>,
    /// Where the constrained part has begun.
    matcher: Option<TokenMatcher>,
}

impl TurnGuide {
    pub(super) fn new(tokenizer: &Tokenizer, text: TurnText, constraint: Constraint) -> Self {
        let dsml = tokenizer.special(Special::Dsml);
        let mut banned_in_reasoning: Vec<u32> = dsml.into_iter().collect();
        if constraint.demand.is_some() || constraint.answer.is_some() {
            let turn_ends =
                [Special::Eos, Special::User, Special::Assistant, Special::Bos, Special::LatestReminder].into_iter();
            banned_in_reasoning.extend(turn_ends.filter_map(|special| tokenizer.special(special)));
        }
        let is_open = text.place() != Place::Reasoning;
        let mut guide = Self {
            text,
            end_think: tokenizer.special(Special::EndThink),
            dsml,
            banned_in_reasoning,
            constraint,
            forced: VecDeque::new(),
            matcher: None,
        };
        if is_open {
            guide.begin_answer();
        }
        guide
    }

    /// The reasoning is over.
    fn begin_answer(&mut self) {
        if let Some(demand) = &self.constraint.demand {
            self.forced.extend(&demand.after_reasoning);
            self.begin_demanded();
        } else if let Some(grammar) = &self.constraint.answer {
            self.matcher = Some(grammar.matcher());
        }
    }

    /// The opening of the demanded call may be written.
    fn begin_demanded(&mut self) {
        if let Some(demand) = &self.constraint.demand
            && self.forced.is_empty()
        {
            self.matcher = Some(demand.grammar.matcher());
        }
    }
}

impl Guide for TurnGuide {
    fn directive(&mut self) -> Directive<'_> {
        if let Some(&token) = self.forced.front() {
            return Directive { forced: Some(token), ..Directive::default() };
        }
        let place = self.text.place();
        let banned = if place == Place::Reasoning { &self.banned_in_reasoning } else { [].as_slice() };
        let allowed = self.matcher.as_mut().map(TokenMatcher::allowed);
        Directive { allowed, banned, greedy: place == Place::Markup, ..Directive::default() }
    }

    fn accept(&mut self, token: u32) -> Flow {
        let before = self.text.place();
        self.text.push(token);
        if self.forced.pop_front().is_some() {
            self.begin_demanded();
        } else if let Some(matcher) = &mut self.matcher {
            matcher.accept(token);
        } else if before == Place::Reasoning && Some(token) == self.end_think {
            self.begin_answer();
        } else if before == Place::Answer && Some(token) == self.dsml && self.text.place() == Place::Markup {
            self.matcher = self.constraint.calls.as_ref().map(|grammar| grammar.matcher());
        }
        let is_over = self.text.is_complete() || self.matcher.as_ref().is_some_and(TokenMatcher::is_complete);
        if is_over { Flow::Stop } else { Flow::Continue }
    }
}
