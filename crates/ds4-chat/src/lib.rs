//! Everything between a conversation and token ids: the tokenizer, the DeepSeek V4 prompt format, and the
//! streaming parser for what the model writes back.

pub mod conversation;
pub mod debug;
pub mod dsml;
pub mod json;
pub mod render;
pub mod special;
pub mod tokenizer;
