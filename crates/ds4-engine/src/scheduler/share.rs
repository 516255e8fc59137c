//! How many rows of a step each sequence gets.

/// What a sequence has to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing now: its events have to be read first, or its state comes from disk.
    Blocked,
    /// The token sampled last.
    Decode,
    /// Tokens of its prompt.
    Prefill {
        /// How many.
        tokens: usize,
        /// Greater goes first.
        priority: i32,
    },
}

/// Rows for each sequence: one for each that decodes, and `budget` for prompts.
///
/// A higher priority goes first. Prompts of the same priority get equal parts, and what one does not need goes to the others: a short
/// one beside a long one is over after a step or two, instead of after the long one.
pub(super) fn share(demands: &[Demand], budget: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = demands.iter().map(|demand| usize::from(*demand == Demand::Decode)).collect();
    let mut prompts: Vec<(std::cmp::Reverse<i32>, usize, usize)> = demands
        .iter()
        .enumerate()
        .filter_map(|(index, demand)| match *demand {
            Demand::Prefill { tokens, priority } => Some((std::cmp::Reverse(priority), tokens, index)),
            _ => None,
        })
        .collect();
    // The shortest first: what it leaves is then known to the longer ones. Of equal ones the oldest.
    prompts.sort_unstable();
    let mut left = budget;
    for class in prompts.chunk_by(|a, b| a.0 == b.0) {
        for (number, &(_, tokens, index)) in class.iter().enumerate() {
            rows[index] = tokens.min(left.div_ceil(class.len() - number));
            left -= rows[index];
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefill(tokens: usize) -> Demand {
        Demand::Prefill { tokens, priority: 0 }
    }

    #[test]
    fn decoding_is_never_silenced_and_prompts_share_the_budget() {
        use Demand::{Blocked, Decode};
        let demands = [prefill(10), Decode, Blocked, prefill(100), Decode, prefill(5)];
        assert_eq!(share(&demands, 16), [6, 1, 0, 5, 1, 5]);
        assert_eq!(share(&demands, 1), [0, 1, 0, 0, 1, 1]);
        assert_eq!(share(&demands, 50), [10, 1, 0, 35, 1, 5]);
        assert_eq!(share(&demands, 1000), [10, 1, 0, 100, 1, 5]);
        assert!(share(&[], 16).is_empty());
    }

    #[test]
    fn a_higher_priority_goes_first() {
        let urgent = Demand::Prefill { tokens: 12, priority: 1 };
        assert_eq!(share(&[prefill(4), urgent, prefill(4)], 14), [1, 12, 1]);
        assert_eq!(share(&[prefill(4), urgent, prefill(4)], 8), [0, 8, 0]);
    }
}
