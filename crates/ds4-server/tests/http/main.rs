//! The server over real connections.

mod chat;
mod completions;
mod messages;
mod refusals;
mod responses;
mod structured;
mod support;
