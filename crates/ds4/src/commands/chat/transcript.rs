//! The conversation so far, and the prompt that it makes.

use ds4_chat::conversation::{AssistantMessage, Content, Conversation, Message, Replay};
use ds4_chat::dsml::Options;
use ds4_chat::render::{BoundaryKind, Ending, Profile, RenderOptions, RenderedPrompt, Thinking, render};
use ds4_chat::special::{Piece, Prompt, Special};
use ds4_chat::tokenizer::Tokenizer;

use super::text_file::TextFile;

/// A conversation: whole turns, and the system text before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// System text.
    pub system: Option<String>,
    /// The turns, oldest first.
    pub turns: Vec<Turn>,
}

/// A message and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What was asked.
    pub message: UserMessage,
    /// What was answered.
    pub answer: Answered,
}

/// A message of the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserMessage {
    /// Files before the text.
    pub files: Vec<TextFile>,
    /// The text.
    pub text: String,
}

impl UserMessage {
    /// The message as the model sees it.
    pub fn to_text(&self) -> String {
        let mut text: String = self.files.iter().map(TextFile::in_message).collect();
        text.push_str(&self.text);
        text
    }
}

/// An answer of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// The reasoning before it.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// The tokens of both; `None` where they do not say the same as the text, or are not known.
    pub sampled: Option<Sampled>,
}

/// Tokens that the model sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Whether they begin with reasoning.
    pub thinking: bool,
    /// The tokens.
    pub tokens: Vec<u32>,
}

/// How prompts are made.
#[derive(Clone, Copy, Debug)]
pub struct PromptSettings {
    /// The checkpoint's profile.
    pub profile: Profile,
    /// Whether the next answer begins with reasoning.
    pub thinking: Thinking,
    /// Whether the reasoning of earlier answers stays in the prompt.
    pub keep_thinking: bool,
}

/// A prompt, ready for the engine.
pub struct ChatPrompt {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Where a later prompt may branch off, in tokens: the end of the last message. The answer is opened differently with
    /// and without reasoning, and reasoning is left out later on, so the states after it are of no use then.
    pub snapshot: Option<usize>,
    /// How to parse what the model writes.
    pub parser: Options,
}

impl Transcript {
    /// The prompt that asks for an answer to `message`, after all turns.
    ///
    /// # Errors
    /// The vocabulary lacks a token of the chat format.
    pub fn prompt(
        &self,
        message: &UserMessage,
        settings: &PromptSettings,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<ChatPrompt> {
        let rendered = self.render(Some(message), settings, tokenizer)?;
        let parser = rendered.parser_options();
        let ids = tokenizer.encode_prompt(&rendered.prompt)?;
        let boundary = rendered.boundaries.iter().rfind(|boundary| boundary.kind == BoundaryKind::User);
        let snapshot = match boundary {
            // What comes after it is short, so that is what is counted.
            Some(boundary) => {
                let after = joined(&rendered.prompt.pieces()[boundary.pieces..]);
                Some(ids.len() - tokenizer.encode_prompt(&after)?.len())
            }
            None => None,
        };
        Ok(ChatPrompt { ids, snapshot, parser })
    }

    /// Tokens of the turns and the system text, as they will be in the next prompt.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn tokens(&self, settings: &PromptSettings, tokenizer: &Tokenizer) -> anyhow::Result<usize> {
        if self.turns.is_empty() {
            // A conversation without messages has no rendering.
            return Ok(1 + tokenizer.encode(self.system.as_deref().unwrap_or_default()).len());
        }
        let rendered = self.render(None, settings, tokenizer)?;
        Ok(tokenizer.encode_prompt(&rendered.prompt)?.len())
    }

    fn render(
        &self,
        message: Option<&UserMessage>,
        settings: &PromptSettings,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<RenderedPrompt> {
        let end_think = tokenizer.special(Special::EndThink);
        let mut conversation = Conversation::default();
        conversation.messages.extend(self.system.as_deref().map(Message::system));
        for turn in &self.turns {
            conversation.messages.push(Message::user(turn.message.to_text()));
            conversation.messages.push(Message::Assistant(turn.answer.message(settings.keep_thinking, end_think)));
        }
        conversation.messages.extend(message.map(|message| Message::user(message.to_text())));
        let options = RenderOptions {
            profile: settings.profile,
            thinking: settings.thinking,
            drop_thinking: !settings.keep_thinking,
            ending: if message.is_some() { Ending::AssistantTurn } else { Ending::History },
            ..RenderOptions::default()
        };
        Ok(render(&conversation, &options)?)
    }
}

impl Answered {
    /// The answer as a part of the history. `end_think`: the token that ends reasoning.
    fn message(&self, keep_thinking: bool, end_think: Option<u32>) -> AssistantMessage {
        AssistantMessage {
            reasoning: if keep_thinking { self.reasoning.clone() } else { String::new() },
            content: Content::text(&self.content),
            replay: self.sampled.as_ref().and_then(|sampled| sampled.replay(keep_thinking, end_think)),
            ..AssistantMessage::default()
        }
    }
}

impl Sampled {
    /// The tokens to go on with; `None` if the reasoning was never closed.
    fn replay(&self, keep_thinking: bool, end_think: Option<u32>) -> Option<Replay> {
        if !self.thinking {
            return Some(Replay { thinking: false, tokens: self.tokens.clone() });
        }
        let end = self.tokens.iter().position(|&token| Some(token) == end_think)?;
        Some(match keep_thinking {
            true => Replay { thinking: true, tokens: self.tokens.clone() },
            false => Replay { thinking: false, tokens: self.tokens[end + 1..].to_vec() },
        })
    }
}

/// A prompt of these pieces.
fn joined(pieces: &[Piece]) -> Prompt {
    let mut prompt = Prompt::new();
    for piece in pieces {
        match piece {
            Piece::Control(special) => prompt.control(*special),
            Piece::Text(text) => prompt.text(text),
            Piece::Tokens(ids) => prompt.tokens(ids.as_slice()),
        };
    }
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_source::{ModelSource, tokenizer_of};
    use ds4_chat::render::Effort;

    fn tokenizer() -> Tokenizer {
        tokenizer_of(&ModelSource::Demo.open().unwrap()).unwrap()
    }

    fn message(text: &str) -> UserMessage {
        UserMessage { files: Vec::new(), text: text.to_owned() }
    }

    /// Settings with thinking on.
    fn settings(keep_thinking: bool) -> PromptSettings {
        PromptSettings { profile: Profile::Preview, thinking: Thinking::On(Effort::High), keep_thinking }
    }

    /// A transcript of one turn that was sampled as `reasoning </think> content`, and the prompt before it.
    fn one_turn(settings: &PromptSettings, tokenizer: &Tokenizer) -> (Transcript, ChatPrompt) {
        let mut transcript = Transcript { system: Some("Be brief.".to_owned()), turns: Vec::new() };
        let first = transcript.prompt(&message("What is 1 + 1?"), settings, tokenizer).unwrap();
        let mut tokens = tokenizer.encode("One and one.");
        tokens.push(tokenizer.special(Special::EndThink).unwrap());
        // Not how the tokenizer would cut it.
        tokens.extend("\n\n2!".chars().flat_map(|c| tokenizer.encode(&c.to_string())));
        let answer = Answered {
            reasoning: "One and one.".to_owned(),
            content: "2!".to_owned(),
            sampled: Some(Sampled { thinking: true, tokens }),
        };
        transcript.turns.push(Turn { message: message("What is 1 + 1?"), answer });
        (transcript, first)
    }

    #[test]
    fn with_reasoning_kept_the_next_prompt_continues_every_token() {
        let tokenizer = tokenizer();
        let (transcript, first) = one_turn(&settings(true), &tokenizer);
        let second = transcript.prompt(&message("And 2 + 2?"), &settings(true), &tokenizer).unwrap();
        let sampled = &transcript.turns[0].answer.sampled.as_ref().unwrap().tokens;
        assert!(second.ids.starts_with(&[first.ids.as_slice(), sampled].concat()));
    }

    #[test]
    fn without_it_the_next_prompt_branches_off_at_the_snapshot() {
        let tokenizer = tokenizer();
        let (transcript, first) = one_turn(&settings(false), &tokenizer);
        let second = transcript.prompt(&message("And 2 + 2?"), &settings(false), &tokenizer).unwrap();
        let snapshot = first.snapshot.unwrap();
        assert_eq!(first.ids.len() - snapshot, 2, "the answer's header");
        let shared = first.ids.iter().zip(&second.ids).take_while(|(a, b)| a == b).count();
        assert_eq!(shared, snapshot + 1, "the header's second token says whether reasoning follows");
        let answer = transcript.turns[0].answer.sampled.as_ref().unwrap();
        let end = answer.tokens.iter().position(|&id| Some(id) == tokenizer.special(Special::EndThink)).unwrap();
        assert!(second.ids[shared..].starts_with(&answer.tokens[end..]));
    }

    #[test]
    fn the_history_is_as_long_as_the_next_prompt_says() {
        let tokenizer = tokenizer();
        let (transcript, _) = one_turn(&settings(false), &tokenizer);
        let tokens = transcript.tokens(&settings(false), &tokenizer).unwrap();
        let next = transcript.prompt(&message("x"), &settings(false), &tokenizer).unwrap();
        // [User] x [Assistant] [<think>]
        assert_eq!(next.ids.len(), tokens + 4);
    }

    #[test]
    fn unclosed_reasoning_is_not_replayed() {
        let sampled = Sampled { thinking: true, tokens: vec![5, 6] };
        assert_eq!(sampled.replay(true, Some(7)), None);
        assert_eq!(sampled.replay(false, Some(7)), None);
    }
}
