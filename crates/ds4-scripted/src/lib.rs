//! A model that says what a test wants.
//!
//! ```text
//! Script (which token comes next) -> ScriptedBackend (a ds4_model::Backend) -> engine, scheduler, parsers, server: all real
//! ```
//!
//! - [`ScriptedBackend`] computes nothing: it remembers the tokens of each sequence and asks a [`Script`] for logits.
//! - [`Answers`] is a script made of whole answers: reasoning, text and tool calls, chosen by what the prompt says.
//!   `crates/ds4-server/examples/scripted_server.rs` serves one over HTTP, so that real clients can be made to do a task.
//!
//! This crate serves tests only, so what cannot work panics with a sentence.

mod answers;
mod backend;
mod rule;

use std::path::Path;
use std::sync::Arc;

use ds4_chat::tokenizer::{Tokenizer, TokenizerParts};
use ds4_gguf::Gguf;
use ds4_model::Model;

pub use answers::Answers;
pub use backend::{Script, ScriptedBackend, Tokens};
pub use rule::{Answer, Call, Rule};

/// The model of a file, for its shape and vocabulary.
///
/// # Panics
/// The file is not a valid model.
pub fn open_model(path: impl AsRef<Path>) -> Arc<Model> {
    let path = path.as_ref();
    let gguf = Gguf::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Arc::new(Model::new(gguf).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// The tokenizer of a model.
///
/// # Panics
/// The file has no valid vocabulary.
pub fn tokenizer_of(model: &Model) -> Arc<Tokenizer> {
    let metadata = model.gguf().metadata();
    let parts = TokenizerParts {
        tokens: metadata.str_array("tokenizer.ggml.tokens").expect("tokens").iter(),
        token_types: metadata.i32_array("tokenizer.ggml.token_type").expect("token types"),
        merges: metadata.str_array("tokenizer.ggml.merges").expect("merges").iter(),
        pre: metadata.str("tokenizer.ggml.pre").expect("the name of a pre-tokenizer"),
        model: metadata.str("tokenizer.ggml.model").expect("the name of a tokenizer"),
    };
    Arc::new(Tokenizer::from_parts(parts).expect("a valid vocabulary"))
}
