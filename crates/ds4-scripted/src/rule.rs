//! What is answered to what.

use ds4_chat::conversation::{AssistantMessage, Content, Conversation, Message, Tool, ToolCall};
use ds4_chat::render::{Effort, Ending, RenderOptions, Thinking, render};
use ds4_chat::special::{Prompt, Special};
use ds4_chat::tokenizer::Tokenizer;
use serde::Deserialize;
use serde_json::{Map, Value};

/// An answer and when it is given. As JSON: `{"last": "…", "prompt": "…", "answer": {…}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A text that the last user turn must have, which holds the results of tools, too.
    #[serde(default)]
    pub last: Option<String>,
    /// A text that the prompt must have anywhere.
    #[serde(default)]
    pub prompt: Option<String>,
    /// What is answered then.
    pub answer: Answer,
}

impl Rule {
    /// Whether it is for this prompt, whose last user turn is `last`.
    pub(crate) fn applies(&self, prompt: &str, last: &str) -> bool {
        self.last.as_ref().is_none_or(|text| last.contains(text))
            && self.prompt.as_ref().is_none_or(|text| prompt.contains(text))
    }
}

/// An assistant turn.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// The reasoning; left out where the prompt is not for thinking mode.
    pub reasoning: String,
    /// The text.
    pub text: String,
    /// The calls after it.
    pub calls: Vec<Call>,
    /// Instead of all of the above: tokens in the notation of [`Answer::spelled`].
    #[serde(skip)]
    tokens: Vec<u32>,
}

/// A tool call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Name of the tool.
    pub name: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

impl Answer {
    /// Exactly these tokens, whatever mode the prompt is for. `text` is plain but for control tokens in double braces:
    /// `{{/think}}` ends the reasoning, `{{D}}` marks tool markup.
    ///
    /// # Panics
    /// Braces that name no control token.
    pub fn spelled(tokenizer: &Tokenizer, text: &str) -> Self {
        let mut prompt = Prompt::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            prompt.text(before);
            let (name, after) = after.split_once("}}").expect("a closed name");
            prompt.control(match name {
                "D" => Special::Dsml,
                "/think" => Special::EndThink,
                other => panic!("no control token has the name {other}"),
            });
            rest = after;
        }
        prompt.text(rest);
        Self { tokens: encode(tokenizer, &prompt), ..Self::default() }
    }

    /// The tokens after the think marker, without the end of the sentence, as the model was trained to write them.
    pub fn tokens(&self, tokenizer: &Tokenizer, thinking: bool) -> Vec<u32> {
        if !self.tokens.is_empty() {
            return self.tokens.clone();
        }
        let tool_calls = self.calls.iter().map(|call| ToolCall {
            id: None,
            name: call.name.clone(),
            arguments: Value::Object(call.arguments.clone()).to_string(),
        });
        let message = AssistantMessage {
            reasoning: self.reasoning.clone(),
            content: Content::text(&self.text),
            tool_calls: tool_calls.collect(),
            ..AssistantMessage::default()
        };
        let conversation = Conversation {
            messages: vec![Message::user("?"), Message::Assistant(message)],
            // Where tools are shown, reasoning is kept.
            tools: vec![Tool::new("any", None, None)],
            ..Conversation::default()
        };
        let thinking = if thinking { Thinking::On(Effort::Low) } else { Thinking::Off };
        let options = RenderOptions { thinking, ending: Ending::History, ..RenderOptions::default() };
        let rendered = render(&conversation, &options).expect("a conversation of one turn");
        let tokens = encode(tokenizer, &rendered.prompt);
        let header = tokenizer.special(Special::Assistant);
        let start = tokens.iter().rposition(|&token| Some(token) == header).expect("a header") + 2;
        tokens[start..tokens.len() - 1].to_vec()
    }
}

fn encode(tokenizer: &Tokenizer, prompt: &Prompt) -> Vec<u32> {
    tokenizer.encode_prompt(prompt).expect("a vocabulary with all control tokens")
}
