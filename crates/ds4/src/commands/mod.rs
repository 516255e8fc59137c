//! The commands, one module each.

pub mod bench;
pub mod debug;
pub mod inspect;
pub mod run;
pub mod synth;
