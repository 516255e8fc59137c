//! Which tokens may come next: answers that follow a JSON Schema, and tool calls that are well-formed by construction.
//!
//! A [`Shape`] says what an answer, or the rest of it, must look like. [`Grammars::compile`] makes a [`Grammar`] of it, or says
//! why it cannot; a [`TokenMatcher`] then follows one generation and gives the tokens that may come next:
//!
//! ```
//! # use std::sync::Arc;
//! # use ds4_chat::{json::Json, tokenizer::Tokenizer};
//! # use ds4_grammar::{Format, Grammars, Shape};
//! # fn f(tokenizer: Arc<Tokenizer>) -> Result<(), Box<dyn std::error::Error>> {
//! let grammars = Grammars::new(Arc::clone(&tokenizer));
//! let schema = Json::parse(r#"{"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}"#)?;
//! let grammar = grammars.compile(&Shape::answer(Format { schema, strict: true }))?;
//! let mut matcher = grammar.matcher();
//! for token in tokenizer.encode(r#"{"x": 17}"#) {
//!     assert!(matcher.allowed().allows(token));
//!     matcher.accept(token);
//! }
//! assert!(matcher.is_complete());
//! # Ok(())
//! # }
//! ```
//!
//! Grammars are written in the dialect of Lark that the crate `llguidance` reads, which compiles them and computes the
//! masks. What this crate adds:
//!
//! - the vocabulary ([`Grammars`] builds it when it is first needed): control tokens are not their spelling, so
//!   nothing that a schema says lets one into a text;
//! - the grammar of DSML, the model's markup of tool calls, with the parameters of strict tools typed by their schemas;
//! - grammars that clients bring for the text of a free-form tool ([`InputGrammar`]), within the markup of its call;
//! - masks that are computed while the model is: [`TokenMatcher::accept`] hands the work to a few threads, and
//!   [`TokenMatcher::allowed`] waits only if they are not done when the logits are;
//! - bounds: what a schema may cost to compile and per token is counted in steps, not in time, so the same request is
//!   refused or served on every machine.

mod calls;
mod error;
mod grammars;
mod input;
mod mask_threads;
mod matcher;
mod parameter;
mod shape;
mod vocabulary;
mod watch;

pub use error::GrammarError;
pub use grammars::{Grammar, Grammars};
pub use matcher::TokenMatcher;
pub use shape::{Arguments, Entry, Format, INPUT, InputGrammar, Shape, Syntax, ToolShape};
