//! The server over real connections.

mod chat;
mod completions;
mod free_form;
mod hostile;
mod kept;
mod messages;
mod refusals;
mod responses;
mod sessions;
mod structured;
mod support;
