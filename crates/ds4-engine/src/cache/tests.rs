use std::sync::Arc;

use ds4_model::state::PageUse;
use proptest::prelude::*;

use super::*;

const PAGE: usize = 4;
const PAGE_BYTES: usize = 1000;
const OWN_BYTES: usize = 100;

/// A state that is its tokens, in pages.
#[derive(Clone, Debug)]
struct Paged {
    len: usize,
    pages: Vec<Arc<Vec<u32>>>,
}

impl Paged {
    fn of(tokens: &[u32]) -> Self {
        Self { len: tokens.len(), pages: tokens.chunks(PAGE).map(|page| Arc::new(page.to_vec())).collect() }
    }

    fn tokens(&self) -> Vec<u32> {
        self.pages.iter().flat_map(|page| page.iter().copied()).collect()
    }

    fn push(&mut self, token: u32) {
        if self.len.is_multiple_of(PAGE) {
            self.pages.push(Arc::default());
        }
        Arc::make_mut(self.pages.last_mut().expect("a page")).push(token);
        self.len += 1;
    }
}

impl SequenceState for Paged {
    fn len(&self) -> usize {
        self.len
    }

    fn advance(&mut self, _: usize) {}

    fn fork(&self) -> Self {
        self.clone()
    }

    fn own_bytes(&self) -> usize {
        OWN_BYTES
    }

    fn page_count(&self) -> usize {
        self.pages.len()
    }

    fn page_use(&self, index: usize) -> Option<PageUse> {
        self.pages.get(index).map(|page| PageUse { id: Arc::as_ptr(page).addr(), bytes: PAGE_BYTES })
    }

    fn share_pages(&mut self, other: &Self, pages: usize) {
        for (mine, theirs) in self.pages.iter_mut().zip(&other.pages).take(pages) {
            assert_eq!(mine, theirs, "only equal pages are shared");
            *mine = Arc::clone(theirs);
        }
    }
}

fn cache(budget: Option<usize>) -> PrefixCache<Paged> {
    PrefixCache::new(budget, usize::MAX, PAGE)
}

fn store(cache: &mut PrefixCache<Paged>, tokens: &[u32]) {
    cache.store(tokens, Paged::of(tokens), None);
}

/// Looks a prompt up as a request that comes once does.
fn found(cache: &mut PrefixCache<Paged>, prompt: &[u32]) -> usize {
    let Some((state, pin)) = cache.find(prompt).state else { return 0 };
    cache.unpin(pin);
    assert_eq!(state.tokens(), prompt[..state.len]);
    state.len
}

/// Whether a state is there, without using it.
fn has(cache: &PrefixCache<Paged>, tokens: &[u32]) -> bool {
    let walk = cache.tree.walk(tokens);
    walk.path.iter().any(|&node| cache.tree.len_of(node) == tokens.len() && cache.tree.value(node).is_some())
}

fn run(first: u32, len: usize) -> Vec<u32> {
    (first..).take(len).collect()
}

#[test]
fn the_longest_proper_prefix_is_found() {
    let mut cache = cache(None);
    for tokens in [&[1, 2][..], &[1, 2, 3, 4], &[1, 9]] {
        store(&mut cache, tokens);
    }
    assert_eq!(found(&mut cache, &[1, 2, 3, 4, 5]), 4);
    assert_eq!(found(&mut cache, &[1, 2, 3, 4]), 2, "a state that is the whole prompt has no logits to give");
    assert_eq!(found(&mut cache, &[1, 2, 3]), 2);
    assert_eq!(found(&mut cache, &[1, 2, 7, 4, 5]), 2);
    assert_eq!(found(&mut cache, &[1, 2]), 0);
    assert_eq!(found(&mut cache, &[2, 2, 3]), 0);
    assert_eq!(found(&mut cache, &[]), 0);
    assert_eq!(cache.find(&[1, 2, 3, 7]).common, 3);
}

#[test]
fn pages_that_two_computed_lie_in_memory_once() {
    let mut cache = cache(None);
    let system = run(1, 10);
    store(&mut cache, &[&system[..], &[50, 51, 52, 53]].concat());
    store(&mut cache, &[&system[..], &[60, 61, 62, 63]].concat());
    let usage = cache.usage();
    // Two pages in common; the third is different, though it begins with the same tokens, as is the fourth.
    assert_eq!((usage.pages, usage.page_bytes, usage.own_bytes), (6, 6 * PAGE_BYTES, 2 * OWN_BYTES));
}

#[test]
fn two_conversations_behind_one_system_prompt_stay() {
    // Room for the system prompt's 25 pages once and twelve turns of each.
    let mut cache = cache(Some(25 * PAGE_BYTES + 60 * (PAGE_BYTES + OWN_BYTES) + 20_000));
    let system = run(1, 100);
    let mut talks = [[&system[..], &[1000]].concat(), [&system[..], &[2000]].concat()];
    for turn in 0..12 {
        for talk in &mut talks {
            let before = talk.len();
            let reused = found(&mut cache, &[&talk[..], &[7]].concat());
            assert_eq!(reused, if turn == 0 { 0 } else { before }, "turn {turn}");
            talk.extend(run(3000 + turn * 10, 7));
            store(&mut cache, talk);
        }
    }
    assert_eq!(cache.usage().evictions, 0);
}

#[test]
fn requests_that_come_once_displace_each_other() {
    let mut cache = cache(Some(40 * PAGE_BYTES));
    let talk = run(1, 80);
    store(&mut cache, &talk[..60]);
    assert_eq!(found(&mut cache, &talk), 60);
    store(&mut cache, &talk);
    assert_eq!(found(&mut cache, &[&talk[..], &[7]].concat()), 80);
    for n in 0..50 {
        let once = run(1000 * (n + 1), 4 * PAGE);
        found(&mut cache, &once);
        store(&mut cache, &once);
        // The conversation's next turn comes after a few of them.
        if n % 5 == 4 {
            assert_eq!(found(&mut cache, &[&talk[..], &[7]].concat()), 80, "after {n} others");
        }
    }
    assert!(cache.usage().evictions > 30);
    // One that nobody comes back to goes at last.
    for n in 50..80 {
        let once = run(1000 * (n + 1), 4 * PAGE);
        found(&mut cache, &once);
        store(&mut cache, &once);
    }
    assert!(!has(&cache, &talk));
}

#[test]
fn a_sessions_longest_branch_outlasts_its_side_requests() {
    let mut cache = cache(Some(30 * PAGE_BYTES));
    let session: Arc<str> = "s".into();
    let main = run(1, 60);
    cache.find(&main);
    cache.store(&main, Paged::of(&main), Some(&session));
    for n in 0..7 {
        let side = run(1000 * (n + 1), 5 * PAGE);
        found(&mut cache, &side);
        cache.store(&side, Paged::of(&side), Some(&session));
        assert!(has(&cache, &main), "after {n} others");
    }
}

#[test]
fn the_middle_of_a_conversation_goes_before_its_ends() {
    let system = run(1, 10);
    let mut cache = PrefixCache::new(None, 12, PAGE);
    store(&mut cache, &system);
    let mut talk = system.clone();
    let mut ends = Vec::new();
    for turn in 0..10 {
        talk.extend(run(100 * (turn + 1), 6));
        store(&mut cache, &talk);
        ends.push(talk.clone());
    }
    let other = run(5000, 9);
    store(&mut cache, &other);
    store(&mut cache, &run(6000, 9));
    store(&mut cache, &run(7000, 9));
    for end in &ends[6..] {
        assert!(has(&cache, end), "the latest turns stay");
    }
    assert!(has(&cache, &system) && has(&cache, &other), "so do the beginning and other conversations");
    assert!(!has(&cache, &ends[0]));
}

#[test]
fn what_a_running_sequence_started_from_stays() {
    let mut cache = cache(Some(12 * PAGE_BYTES));
    store(&mut cache, &run(1, 16));
    let (running, pin) = cache.find(&run(1, 17)).state.expect("a state");
    let held = cache.enter(&running);
    for n in 1..20 {
        store(&mut cache, &run(1000 * n, 16));
    }
    assert!(has(&cache, &run(1, 16)));
    assert!(!cache.make_room(8 * PAGE_BYTES), "it cannot be had");
    cache.leave(held);
    cache.unpin(pin);
    assert!(cache.make_room(12 * PAGE_BYTES));
    assert_eq!(cache.usage(), Usage { evictions: cache.usage().evictions, ..Usage::default() });
}

#[derive(Clone, Debug)]
enum Action {
    /// A request: its prompt, and tokens of its answer.
    Request(Vec<u32>, Vec<u32>),
    /// Running sequences compute a token.
    Step(u32),
    /// The first of them ends.
    End,
    Snapshot,
}

fn action() -> impl Strategy<Value = Action> {
    let tokens = |range| prop::collection::vec(0_u32..3, range);
    prop_oneof![
        3 => (tokens(1..20), tokens(1..6)).prop_map(|(prompt, answer)| Action::Request(prompt, answer)),
        4 => (0_u32..3).prop_map(Action::Step),
        2 => Just(Action::End),
        1 => Just(Action::Snapshot),
    ]
}

proptest! {
    /// Whatever happens, states are those of their tokens, and the account is exact and kept.
    #[test]
    fn the_account_is_exact(budget in 5_usize..40, actions in prop::collection::vec(action(), 0..60)) {
        let budget = budget * PAGE_BYTES;
        let mut cache = cache(Some(budget));
        let mut running: Vec<(Paged, Held, Option<Pin>)> = Vec::new();
        for action in actions {
            match action {
                Action::Request(prompt, answer) => {
                    let (mut state, pin) = match cache.find(&prompt).state {
                        Some((state, pin)) => (state, Some(pin)),
                        None => (Paged::of(&[]), None),
                    };
                    prop_assert!(state.len < prompt.len());
                    prop_assert_eq!(state.tokens(), &prompt[..state.len]);
                    let mut held = cache.enter(&state);
                    let before = state.len;
                    prompt[before..].iter().chain(&answer).for_each(|&token| state.push(token));
                    cache.update(&mut held, &state, before);
                    running.push((state, held, pin));
                }
                Action::Step(token) => for (state, held, _) in &mut running {
                    cache.make_room(PAGE_BYTES);
                    let before = state.len;
                    state.push(token);
                    cache.update(held, state, before);
                },
                Action::End if !running.is_empty() => {
                    let (state, held, pin) = running.remove(0);
                    cache.leave(held);
                    pin.into_iter().for_each(|pin| cache.unpin(pin));
                    let tokens = state.tokens();
                    cache.store(&tokens, state, None);
                }
                Action::Snapshot => for (state, ..) in &running {
                    cache.store_copy(&state.tokens(), state, None);
                },
                Action::End => {}
            }
            // Counted again from what is there.
            let states: Vec<&Paged> = cache
                .tree
                .with_values()
                .map(|(_, snapshot)| &snapshot.sequence)
                .chain(running.iter().map(|(state, ..)| state))
                .collect();
            let pages: std::collections::HashSet<usize> =
                states.iter().flat_map(|state| state.pages.iter().map(|page| Arc::as_ptr(page).addr())).collect();
            let usage = cache.usage();
            prop_assert_eq!(usage.pages, pages.len());
            prop_assert_eq!(usage.page_bytes, pages.len() * PAGE_BYTES);
            prop_assert_eq!(usage.own_bytes, states.len() * OWN_BYTES);
            for (node, snapshot) in cache.tree.with_values() {
                prop_assert_eq!(cache.tree.len_of(node), snapshot.sequence.len);
            }
            if running.is_empty() {
                prop_assert!(usage.bytes() <= budget, "{} of {}", usage.bytes(), budget);
            }
        }
    }
}
