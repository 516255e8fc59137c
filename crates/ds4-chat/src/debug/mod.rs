//! Rendering and parsing of single JSON lines, for `ds4 debug` and for tests against recorded conversations.
//!
//! The lines are in the message format of DeepSeek's reference encoder: OpenAI-style messages, with `tools` and
//! `response_format` on a system or developer message.

mod fields;
mod parse;

mod render;

pub use fields::DebugError;
pub use parse::parse_line;

pub use render::render_line;
