//! The ragged batch of one forward step.

/// A run of consecutive tokens of one sequence inside a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the sequence in the slice of sequences given to the forward pass.
    pub sequence: usize,
    /// First row of the batch that belongs to the span.
    pub first_row: usize,
    /// Number of rows.
    pub len: usize,
    /// Position of the first token in its sequence.
    pub first_position: usize,
}

impl Span {
    /// The rows of the span, with the position of each.
    pub fn rows(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (first_row, first_position) = (self.first_row, self.first_position);
        (0..self.len).map(move |i| (first_row + i, first_position + i))
    }

    /// Position behind the last token.
    pub fn end_position(&self) -> usize {
        self.first_position + self.len
    }
}

/// What one forward step computes: a row is one token of one sequence.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    tokens: Vec<u32>,
    positions: Vec<usize>,
    spans: Vec<Span>,
    wanted: Vec<usize>,
}

/// Which of a span's rows need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: a prefill chunk that is not the last.
    None,
    /// The last row only.
    Last,
    /// Every row.
    All,
}

impl Rows {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `tokens` of sequence number `sequence`, the first of them at `first_position`.
    ///
    /// A sequence appears at most once in a batch; an empty run is ignored.
    pub fn push(&mut self, sequence: usize, first_position: usize, tokens: &[u32], wanted: Wanted) -> &mut Self {
        debug_assert!(self.spans.iter().all(|span| span.sequence != sequence));
        if tokens.is_empty() {
            return self;
        }
        let first_row = self.tokens.len();
        self.spans.push(Span { sequence, first_row, len: tokens.len(), first_position });
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(first_position..first_position + tokens.len());
        match wanted {
            Wanted::None => {}
            Wanted::Last => self.wanted.push(self.tokens.len() - 1),
            Wanted::All => self.wanted.extend(first_row..self.tokens.len()),
        }
        self
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Token id of each row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Position of each row in its sequence.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// The runs, in row order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Rows that need logits, ascending.
    pub fn wanted(&self) -> &[usize] {
        &self.wanted
    }
}
