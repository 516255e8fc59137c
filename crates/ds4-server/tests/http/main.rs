//! The server over real connections.

mod chat;
mod completions;
mod hostile;
mod messages;
mod refusals;
mod responses;
mod structured;
mod support;
