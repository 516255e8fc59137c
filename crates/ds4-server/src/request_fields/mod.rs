//! Reading what several APIs spell alike.

mod content;
mod history;
mod sampling;
mod thinking;
mod tools;

pub use content::{Owner, drop_billing_line, parts};
pub use history::{check_history, message_list};
pub use sampling::{MAX_TOKENS, logit_bias, sampling, stop};
pub use thinking::{ThinkingFields, thinking};
pub use tools::{AllowedTools, ToolList};
