//! Reading what several APIs spell alike.

mod content;
mod sampling;
mod thinking;
mod tools;

pub use content::{part, parts, without_billing_line};
pub use sampling::{MAX_TOKENS, logit_bias, sampling, stop};
pub use thinking::{ThinkingFields, thinking};
pub use tools::ToolList;
