//! What the model writes back.

mod start;

pub use start::Start;
