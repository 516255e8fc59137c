//! The server over real connections.

mod chat;
mod completions;
mod refusals;
mod responses;
mod support;
