//! The commands, one module each.

mod accounts;
pub mod bench;
pub mod chat;
pub mod completions;
pub mod debug;
pub mod doctor;
pub mod inspect;
pub mod kv;
pub mod man;
pub mod pull;
pub mod run;
pub mod serve;
pub mod synth;
