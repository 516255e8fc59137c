//! What is asked of a row of logits when a token is sampled, and how it is summed: the same bits wherever it is computed.
//!
//! A row has a logit for each of 129 280 tokens, half a megabyte. A backend whose memory is not the host's can answer with a
//! [`Digest`] instead: the likeliest token, the weights summed in blocks, and the few tokens near the likeliest. [`Digest::of`]
//! is its definition.

pub mod softmax;

pub use softmax::{BLOCK, Softmax};

use softmax::{copy_sane, largest};

/// Most tokens of a row that a digest keeps out.
pub const MOST_BANNED: usize = 8;
/// Most tokens near the likeliest that a digest lists.
pub const MOST_CANDIDATES: usize = 1024;

/// Which digest is wanted of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DigestRequest {
    row: usize,
    banned: [u32; MOST_BANNED],
    draw: Option<DrawRequest>,
}

impl DigestRequest {
    /// A request about row number `row` of those that have logits, whose tokens `banned` count as -∞; for more than the likeliest token if
    /// `draw` says so. `None` if so many tokens are banned that the row itself is needed.
    pub fn new(row: usize, banned: &[u32], draw: Option<DrawRequest>) -> Option<Self> {
        // No vocabulary has a token of this number.
        let mut all = [u32::MAX; MOST_BANNED];
        all.get_mut(..banned.len())?.copy_from_slice(banned);
        Some(Self { row, banned: all, draw })
    }

    /// Number of the row among those that have logits.
    pub fn row(&self) -> usize {
        self.row
    }

    /// The tokens that count as -∞. Places that are not needed hold `u32::MAX`.
    pub fn banned(&self) -> &[u32; MOST_BANNED] {
        &self.banned
    }

    /// What is wanted beside the likeliest token.
    pub fn draw(&self) -> Option<DrawRequest> {
        self.draw
    }
}

/// What a digest is to hold where a token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrawRequest {
    /// Temperature, above 0.
    pub temperature: f32,
    /// Tokens so far below the likeliest one's logit are listed, if they are not too many; ≥ 0.
    pub below: f32,
}

impl DrawRequest {
    /// The logit down to which tokens are listed, if the largest is `max`.
    pub fn lowest(&self, max: f32) -> f32 {
        (max - self.below).max(f32::MIN)
    }
}

/// What sampling needs to know of a row of logits. NaN counts as -∞, +∞ as the largest number.
#[derive(Clone, Debug, PartialEq)]
pub struct Digest {
    /// The largest logit and its token, of equal ones the lowest id; `None` if there is none above -∞.
    pub likeliest: Option<(u32, f32)>,
    /// [`Softmax::block_sum`] of each [`BLOCK`] of logits, if it was asked for and there is a likeliest token.
    pub block_sums: Vec<f64>,
    /// Every token whose logit is at least [`lowest`](Self::lowest), in order of their ids.
    pub candidates: Vec<(u32, f32)>,
    /// How far down `candidates` are complete; +∞ where they were not asked for, or more than [`MOST_CANDIDATES`].
    pub lowest: f32,
}

impl Digest {
    /// The digest of a row. logits: [n_vocab], any values.
    pub fn of(logits: &[f32], request: &DigestRequest) -> Self {
        let mut work = Vec::with_capacity(logits.len());
        copy_sane(logits, &mut work);
        for &token in request.banned() {
            if let Some(logit) = work.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let likeliest = largest(&work);
        let mut digest = Self { likeliest, block_sums: Vec::new(), candidates: Vec::new(), lowest: f32::INFINITY };
        if let (Some((_, max)), Some(draw)) = (likeliest, request.draw) {
            let softmax = Softmax::new(max, f64::from(draw.temperature));
            digest.block_sums.extend(work.chunks(BLOCK).map(|block| softmax.block_sum(block)));
            let lowest = draw.lowest(max);
            let near = work.iter().enumerate().filter(|(_, logit)| **logit >= lowest);
            digest.candidates.extend(near.map(|(token, &logit)| (token as u32, logit)).take(MOST_CANDIDATES + 1));
            if digest.candidates.len() > MOST_CANDIDATES {
                digest.candidates.clear();
            } else {
                digest.lowest = lowest;
            }
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(banned: &[u32], draw: Option<DrawRequest>) -> DigestRequest {
        DigestRequest::new(0, banned, draw).expect("few banned tokens")
    }

    #[test]
    fn banned_tokens_and_unusable_numbers_are_left_out() {
        let logits = [1.0, f32::NAN, 3.0, 2.0, f32::NEG_INFINITY];
        assert_eq!(Digest::of(&logits, &request(&[], None)).likeliest, Some((2, 3.0)));
        assert_eq!(Digest::of(&logits, &request(&[2, 77], None)).likeliest, Some((3, 2.0)));
        assert_eq!(Digest::of(&logits, &request(&[0, 2, 3], None)).likeliest, None);
        let digest = Digest::of(&logits, &request(&[3], Some(DrawRequest { temperature: 1.0, below: 10.0 })));
        assert_eq!(digest.candidates, [(0, 1.0), (2, 3.0)]);
        assert_eq!(digest.lowest, -7.0);
        let sum = 1.0 + (-2.0_f64).exp();
        assert!((digest.block_sums[0] - sum).abs() < 1e-6, "{:?}", digest.block_sums);
        assert_eq!(DigestRequest::new(0, &[1; MOST_BANNED + 1], None), None);
    }

    #[test]
    fn too_many_candidates_are_none() {
        let draw = DrawRequest { temperature: 1.0, below: 1.0 };
        let digest = Digest::of(&vec![0.5; MOST_CANDIDATES + 1], &request(&[], Some(draw)));
        assert_eq!((digest.candidates.len(), digest.lowest), (0, f32::INFINITY));
        let digest = Digest::of(&vec![0.5; MOST_CANDIDATES], &request(&[], Some(draw)));
        assert_eq!((digest.candidates.len(), digest.lowest), (MOST_CANDIDATES, -0.5));
    }
}
