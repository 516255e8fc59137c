//! How many rows of a step each sequence gets.

/// What a sequence has to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing now: its events have to be read first.
    Blocked,
    /// The token sampled last.
    Decode,
    /// This many tokens of its prompt.
    Prefill(usize),
}

/// Rows for each sequence: one for each that decodes, and prompts in the order given until `budget` rows are spent.
pub(super) fn share(demands: &[Demand], budget: usize) -> Vec<usize> {
    let mut left = budget;
    let rows = demands.iter().map(|demand| match *demand {
        Demand::Blocked => 0,
        Demand::Decode => 1,
        Demand::Prefill(pending) => {
            let rows = pending.min(left);
            left -= rows;
            rows
        }
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_is_never_silenced_and_prompts_share_the_budget_in_order() {
        use Demand::*;
        let demands = [Prefill(10), Decode, Blocked, Prefill(100), Decode, Prefill(5)];
        assert_eq!(share(&demands, 16), [10, 1, 0, 6, 1, 0]);
        assert_eq!(share(&demands, 1), [1, 1, 0, 0, 1, 0]);
        assert_eq!(share(&demands, 1000), [10, 1, 0, 100, 1, 5]);
        assert!(share(&[], 16).is_empty());
    }
}
