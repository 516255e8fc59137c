//! What somebody outside the sampler has to say about the next token: the seam for constrained decoding.

use super::TokenMask;

/// What the next token may be. The default leaves everything to the sampling parameters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Directive<'a> {
    /// Take this token, whatever the logits and the rest of the directive say.
    pub forced: Option<u32>,
    /// Take one of these tokens.
    pub allowed: Option<&'a TokenMask>,
    /// Take none of these tokens.
    pub banned: &'a [u32],
    /// Take the likeliest of what is left, whatever the temperature. For structure (tool markup, JSON syntax) between
    /// values that are sampled.
    pub greedy: bool,
}

/// Whether a generation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Sample the next token.
    Continue,
    /// The answer is complete: the generation finishes as if the token had been a stop token.
    Stop,
}

/// Follows a generation on the engine thread, between the token that was sampled and the one to sample next.
///
/// A guide belongs to one generation. It sees every token in order and must be quick: all generations wait for it.
pub trait Guide: Send {
    /// What the next token may be.
    fn directive(&mut self) -> Directive<'_>;

    /// Takes notice of a sampled token.
    fn accept(&mut self, token: u32) -> Flow;
}
