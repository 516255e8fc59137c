//! The result of rendering, and the writer that collects it.

use crate::dsml::{Options, Start};
use crate::special::{Piece, Prompt};

/// A prompt, and what the engine must know to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedPrompt {
    /// The prompt.
    pub prompt: Prompt,
    /// Places worth a snapshot, in order: a later prompt of the same conversation is likely to agree up to there.
    pub boundaries: Vec<Boundary>,
    /// Where the model's output starts.
    pub start: Start,
    /// Whether tools are shown, so that calls may come.
    pub shows_tools: bool,
    /// What to append to the model's output right after `</think>`, as if it had written it: the opening of a forced
    /// tool call in thinking mode. (In chat mode the prompt ends with it.)
    pub after_reasoning: Option<Prompt>,
}

impl RenderedPrompt {
    /// How to parse the model's output, with the optional behaviour off.
    pub fn parser_options(&self) -> Options {
        Options { start: self.start.clone(), tools: self.shows_tools, ..Options::default() }
    }
}

/// A place between two pieces of a prompt. What follows it starts with a control token or is the end, so the tokens
/// before it do not depend on what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Number of pieces before it.
    pub pieces: usize,
    /// What ends here.
    pub kind: BoundaryKind,
}

/// What ends at a [`Boundary`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundaryKind {
    /// System text, tools and response format: common to all conversations of one client.
    System,
    /// A user turn or a reminder, before the assistant turn is opened.
    User,
    /// An assistant turn.
    Assistant,
}

/// Collects a prompt; while muted, what is written is dropped.
#[derive(Default)]
pub(super) struct Writer {
    prompt: Prompt,
    dropped: Prompt,
    muted: bool,
    boundaries: Vec<(Boundary, Option<usize>)>,
}

impl Writer {
    pub(super) fn mute(&mut self, muted: bool) {
        self.muted = muted;
    }

    pub(super) fn is_muted(&self) -> bool {
        self.muted
    }

    /// Where to write.
    pub(super) fn out(&mut self) -> &mut Prompt {
        if self.muted {
            self.dropped = Prompt::new();
            return &mut self.dropped;
        }
        &mut self.prompt
    }

    /// Notes that something ends here.
    pub(super) fn boundary(&mut self, kind: BoundaryKind) {
        if !self.muted {
            let pieces = self.prompt.pieces().len();
            self.boundaries.push((Boundary { pieces, kind }, self.text_len(pieces)));
        }
    }

    /// Length of the last of `pieces` pieces if it is text.
    fn text_len(&self, pieces: usize) -> Option<usize> {
        match self.prompt.pieces().get(pieces.checked_sub(1)?)? {
            Piece::Text(text) => Some(text.len()),
            _ => None,
        }
    }

    pub(super) fn finish(self) -> (Prompt, Vec<Boundary>) {
        // A text piece that grew afterwards has its boundary inside, where tokens may not be cut.
        let kept = self.boundaries.iter().filter(|(boundary, len)| self.text_len(boundary.pieces) == *len);
        let boundaries = kept.map(|(boundary, _)| *boundary).collect();
        (self.prompt, boundaries)
    }
}
