//! The end of a free-form tool's text.
//!
//! The text ends with `</` and the DSML token. A client's grammar may let `</` into the text as well, and its longest words
//! may run over the `</` that ends it. So the grammar of calls lets the token follow the text with or without `</`, and
//! this module decides: it may follow `text</`, and only if `text` itself is whole to the client's grammar.
//!
//! Where a text is whole and could go on with a word that is just `<`, a `</` is read as the end: the longest word counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ds4_chat::tokenizer::Tokenizer;
use llguidance::Matcher;

use crate::shape::INPUT;

/// What closes a text, before the DSML token.
const CLOSING: &[u8] = b"</";

/// The grammars of free-form tools, each by itself, and what is needed to watch over them.
pub(crate) struct Inputs {
    pub(crate) by_tool: HashMap<String, Mutex<Matcher>>,
    pub(crate) dsml: u32,
    pub(crate) tokenizer: Arc<Tokenizer>,
}

/// Follows the markup of calls.
pub(crate) struct Watch {
    inputs: Arc<Inputs>,
    /// The tool that is being called, if it is a free-form one with a grammar.
    tool: Option<String>,
    /// What was written since the last DSML token, as long as it may matter.
    since: Vec<u8>,
    text: Option<Text>,
}

/// The client's grammar alone, and how much of the text it has read.
struct Text {
    matcher: Matcher,
    read: usize,
}

impl Watch {
    /// At the beginning of a grammar, within a call of `tool` if it begins there.
    pub(crate) fn new(inputs: Arc<Inputs>, tool: Option<&str>) -> Self {
        let tool = tool.filter(|tool| inputs.by_tool.contains_key(*tool)).map(str::to_owned);
        Self { inputs, tool, since: Vec::new(), text: None }
    }

    /// The token whose place is decided here.
    pub(crate) fn dsml(&self) -> u32 {
        self.inputs.dsml
    }

    /// Takes the next token.
    pub(crate) fn accept(&mut self, token: u32) {
        if token != self.inputs.dsml {
            // Longer than any opening tag: nothing that is looked for here.
            const LONGEST_TAG: usize = 512;
            if self.tool.is_some() || self.since.len() < LONGEST_TAG {
                self.since.extend_from_slice(self.inputs.tokenizer.token_bytes(token));
            }
            return;
        }
        if let Some(tag) = self.since.strip_prefix(b"invoke name=\"") {
            let name = tag.split(|&byte| byte == b'"').next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            self.tool = self.inputs.by_tool.contains_key(&name).then_some(name);
        }
        self.since.clear();
        self.text = None;
    }

    /// Whether the DSML token may come next, as far as a text is concerned.
    pub(crate) fn may_close(&mut self) -> bool {
        let opening = format!("parameter name=\"{INPUT}\" string=\"true\">");
        let (Some(tool), Some(text)) = (&self.tool, self.since.strip_prefix(opening.as_bytes())) else { return true };
        let Some(text) = text.strip_suffix(CLOSING) else { return false };
        let Some(grammar) = self.inputs.by_tool.get(tool) else { return true };
        let state = self.text.get_or_insert_with(|| Text {
            matcher: grammar.lock().unwrap_or_else(PoisonError::into_inner).deep_clone(),
            read: 0,
        });
        let new = text.get(state.read..).unwrap_or_default();
        state.read = text.len();
        state.read_on(new)
    }
}

impl Text {
    /// Whether the text is whole after `new`.
    fn read_on(&mut self, new: &[u8]) -> bool {
        let Ok(environment) = self.matcher.tok_env() else { return false };
        let tokens = environment.tok_trie().greedy_tokenize(new);
        if !tokens.is_empty() && self.matcher.consume_tokens(&tokens).is_err() {
            return false;
        }
        self.matcher.is_accepting().unwrap_or(false)
    }
}
