//! Everything between a conversation and token ids: the tokenizer, the DeepSeek V4 prompt format, and the
//! streaming parser for what the model writes back.

pub mod special;
pub mod tokenizer;
