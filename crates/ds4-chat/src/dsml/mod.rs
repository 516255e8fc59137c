//! What the model writes back: reasoning, an answer, and tool calls in its DSML markup.
//!
//! ```text
//! completion  = [ reasoning </think> ] answer [ block ] EOS
//! block       = "\n\n<" D "tool_calls>\n" invoke+ "</" D "tool_calls>"
//! invoke      = "<" D "invoke name=\"" name "\">\n" parameter* "\n"? "</" D "invoke>\n"
//! parameter   = "<" D "parameter name=\"" key "\" string=\"" ("true"|"false") "\">" value "</" D "parameter>\n"
//! value       = anything without "</" directly followed by D
//! ```
//!
//! `D` is the DSML *token* ([`crate::special::Special::Dsml`]). Markup exists only where the token is: the same
//! characters in ordinary tokens are text, so quoting markup, editing a parser's source and hostile documents are safe.
//! That is why [`Parser`] takes control tokens apart from text.

mod block;
mod event;
mod lenient;
mod opener;
mod output;
mod parameter;
mod parser;
mod start;
mod token_parser;

pub use event::{End, Event, FinishReason};
pub use output::{ParsedCall, ParsedOutput};
pub use parser::{Options, Parser};
pub use start::Start;
pub use token_parser::TokenParser;

/// Spelling of the DSML token where it has to be shown as text.
fn dsml() -> &'static str {
    crate::special::Special::Dsml.spelling()
}
