//! Where a model's output starts.

/// The state that the prompt leaves the model in; rendering knows it, the parser needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// After `<think>`.
    Reasoning,
    /// Inside reasoning that the prompt began: leading newlines belong to it.
    ReasoningContinued,
    /// After `</think>`.
    #[default]
    Content,
    /// Inside an answer that the prompt began: leading newlines belong to it.
    ContentContinued,
    /// After the opening tag of a block of calls.
    Block,
    /// After the opening tag of a call to the tool of this name.
    Invoke(String),
}
