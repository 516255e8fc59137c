//! States kept in memory for prompts that begin with the same tokens.
//!
//! A radix tree over tokens has a *snapshot*, a whole state, at some of its nodes; states share their pages, so a snapshot costs
//! its window and frontiers, and pages that no other has. A prompt continues the deepest snapshot on its way.
//! Everything in memory is on one account, running sequences included, and what was used longest ago makes way:
//!
//! 1. snapshots in the middle of one conversation that neither its latest two turns nor a branch need;
//! 2. ends of conversations. One that was continued before, or is its session's longest, counts as used [`CREDIT`] requests
//!    later than it was, so that a flood of requests that come once displaces itself and not the conversations;
//! 3. beginnings that others continue.
//!
//! A snapshot that a running sequence started from stays.

mod ledger;
mod radix;

use std::collections::HashMap;
use std::sync::Arc;

use ds4_model::state::SequenceState;

pub(crate) use ledger::Held;
use ledger::Ledger;
use radix::{NodeId, Radix};

/// Requests that a conversation counts as used later, against one that was never continued.
const CREDIT: u64 = 8;
/// Snapshots at the end of a conversation that are not given up for lack of memory before its end is: before and after
/// the answers of two turns.
const NEWEST: usize = 4;

/// The states in memory, and the account of all of them.
pub(crate) struct PrefixCache<S> {
    tree: Radix<Snapshot<S>>,
    ledger: Ledger,
    /// Most bytes of everything.
    budget: Option<usize>,
    most_snapshots: usize,
    page_tokens: usize,
    /// Requests so far.
    clock: u64,
    evictions: u64,
}

struct Snapshot<S> {
    sequence: S,
    held: Held,
    /// Request at which it, or one that continues it, was used last.
    used: u64,
    /// How often it was continued.
    uses: u64,
    /// Running sequences that started from it.
    pins: usize,
    session: Option<Arc<str>>,
}

/// A snapshot in the cache that was pinned; to be given to [`PrefixCache::unpin`].
#[derive(Debug)]
pub(crate) struct Pin(NodeId);

/// What the cache has of a prompt.
pub(crate) struct Match<S> {
    /// A copy of the longest state that leaves a token to compute.
    pub(crate) state: Option<(S, Pin)>,
    /// Tokens that the prompt shares with anything in the cache.
    pub(crate) common: usize,
}

/// What is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) page_bytes: usize,
    pub(crate) own_bytes: usize,
    pub(crate) index_bytes: usize,
    pub(crate) pages: usize,
    pub(crate) snapshots: usize,
    pub(crate) evictions: u64,
}

impl Usage {
    /// All bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.page_bytes + self.own_bytes + self.index_bytes
    }
}

impl<S: SequenceState> PrefixCache<S> {
    /// An empty cache. `budget`: most bytes of all states, running ones included; `None` for no limit.
    pub(crate) fn new(budget: Option<usize>, most_snapshots: usize, page_tokens: usize) -> Self {
        Self {
            tree: Radix::new(),
            ledger: Ledger::default(),
            budget,
            most_snapshots,
            page_tokens: page_tokens.max(1),
            clock: 0,
            evictions: 0,
        }
    }

    /// The longest state for a new request. The snapshot stays where it is, pinned: pages are shared between copies,
    /// and a second prompt may branch off at the same place.
    pub(crate) fn find(&mut self, prompt: &[u32]) -> Match<S> {
        self.clock += 1;
        let walk = self.tree.walk(prompt);
        let usable = |&&node: &&NodeId| self.tree.len_of(node) < prompt.len() && self.tree.value(node).is_some();
        let node = walk.path.iter().rev().find(usable).copied();
        let state = node.and_then(|node| {
            self.touch(node);
            let snapshot = self.tree.value_mut(node)?;
            snapshot.uses += 1;
            snapshot.pins += 1;
            Some((snapshot.sequence.fork(), Pin(node)))
        });
        Match { state, common: walk.common }
    }

    /// A running sequence no longer depends on the snapshot that it started from.
    pub(crate) fn unpin(&mut self, pin: Pin) {
        if let Some(snapshot) = self.tree.value_mut(pin.0) {
            snapshot.pins -= 1;
        }
    }

    /// The snapshot and those that it continues were used now.
    fn touch(&mut self, node: NodeId) {
        let way: Vec<NodeId> = std::iter::once(node).chain(self.tree.ancestors(node)).collect();
        for node in way {
            if let Some(snapshot) = self.tree.value_mut(node) {
                snapshot.used = self.clock;
            }
        }
    }

    /// Keeps a state. tokens: [sequence.len()].
    pub(crate) fn store(&mut self, tokens: &[u32], sequence: S, session: Option<&Arc<str>>) {
        debug_assert_eq!(tokens.len(), sequence.len());
        if self.wants(tokens) {
            self.insert(tokens, sequence, session);
        }
        self.make_room(0);
    }

    /// Keeps a copy of a running state, if there is room for what cannot be shared.
    pub(crate) fn store_copy(&mut self, tokens: &[u32], sequence: &S, session: Option<&Arc<str>>) {
        if self.wants(tokens) && self.make_room(sequence.own_bytes()) {
            self.insert(tokens, sequence.fork(), session);
            self.make_room(0);
        }
    }

    /// Whether a state is new here; one that is not counts as used.
    fn wants(&mut self, tokens: &[u32]) -> bool {
        if self.most_snapshots == 0 || tokens.is_empty() {
            return false;
        }
        let walk = self.tree.walk(tokens);
        let there = walk.path.last().copied().filter(|&node| self.tree.len_of(node) == tokens.len());
        match there.filter(|&node| self.tree.value(node).is_some()) {
            Some(node) => {
                self.touch(node);
                false
            }
            None => true,
        }
    }

    fn insert(&mut self, tokens: &[u32], mut sequence: S, session: Option<&Arc<str>>) {
        // Pages that another sequence has computed as well need not lie in memory twice.
        let walk = self.tree.walk(tokens);
        let donor = self.tree.any_value_below(walk.last).and_then(|node| self.tree.value(node));
        if let Some(donor) = donor {
            sequence.share_pages(&donor.sequence, walk.common / self.page_tokens);
        }
        let held = self.ledger.add(&sequence);
        let session = session.cloned();
        let snapshot = Snapshot { sequence, held, used: self.clock, uses: 0, pins: 0, session };
        let (node, before) = self.tree.insert(tokens, snapshot);
        if let Some(before) = before {
            self.ledger.remove(before.held);
        }
        self.touch(node);
        // A limit of numbers is for whoever wants the latest states only; they are not weighed against older ones.
        while self.tree.len() > self.most_snapshots && self.evict(Some(node)) {}
    }

    /// Removes snapshots until `bytes` more fit. False if they do not, whatever is removed.
    pub(crate) fn make_room(&mut self, bytes: usize) -> bool {
        let Some(budget) = self.budget else { return true };
        while self.usage().bytes().saturating_add(bytes) > budget {
            if !self.evict(None) {
                return false;
            }
        }
        true
    }

    fn evict(&mut self, except: Option<NodeId>) -> bool {
        let Some(victim) = self.victim(except) else { return false };
        if let Some(snapshot) = self.tree.remove(victim) {
            self.ledger.remove(snapshot.held);
            self.evictions += 1;
        }
        true
    }

    /// What is to go next.
    fn victim(&self, except: Option<NodeId>) -> Option<NodeId> {
        let mut longest: HashMap<&str, usize> = HashMap::new();
        for (node, snapshot) in self.tree.with_values() {
            if let Some(session) = &snapshot.session {
                let len = longest.entry(session).or_insert(0);
                *len = (*len).max(self.tree.len_of(node));
            }
        }
        let rank = |node: NodeId, snapshot: &Snapshot<S>| {
            let len = self.tree.len_of(node);
            let is_main = snapshot.session.as_deref().is_some_and(|session| longest.get(session) == Some(&len));
            let credit = if snapshot.uses > 0 || is_main { CREDIT } else { 0 };
            let class = match self.tree.is_leaf(node) {
                true => 1,
                false if self.is_superfluous(node) => 0,
                false => 2,
            };
            // Conversations are given up from their ends, the middle of one from its beginning.
            let order = if class == 0 { len } else { usize::MAX - len };
            (class, snapshot.used + credit, order, node)
        };
        self.tree
            .with_values()
            .filter(|&(node, snapshot)| snapshot.pins == 0 && Some(node) != except)
            .min_by_key(|&(node, snapshot)| rank(node, snapshot))
            .map(|(node, _)| node)
    }

    /// Whether a snapshot is in the middle of one conversation, neither its first nor near its end.
    fn is_superfluous(&self, node: NodeId) -> bool {
        let mut below = 0;
        let mut next = self.tree.only_child(node);
        while let Some(child) = next.filter(|_| below < NEWEST) {
            below += usize::from(self.tree.value(child).is_some());
            next = self.tree.only_child(child);
        }
        below >= NEWEST && self.tree.ancestors(node).any(|node| self.tree.value(node).is_some())
    }

    /// Counts a running sequence in.
    pub(crate) fn enter(&mut self, sequence: &S) -> Held {
        self.ledger.add(sequence)
    }

    /// A running sequence has computed more; it had `before` tokens.
    pub(crate) fn update(&mut self, held: &mut Held, sequence: &S, before: usize) {
        self.ledger.update(held, sequence, before / self.page_tokens);
    }

    /// Counts a running sequence out.
    pub(crate) fn leave(&mut self, held: Held) {
        self.ledger.remove(held);
    }

    /// What is in memory.
    pub(crate) fn usage(&self) -> Usage {
        let snapshots = self.tree.len();
        Usage {
            page_bytes: self.ledger.page_bytes(),
            own_bytes: self.ledger.own_bytes(),
            index_bytes: self.tree.tokens() * size_of::<u32>()
                + snapshots * size_of::<Snapshot<S>>()
                + self.ledger.bytes(),
            pages: self.ledger.pages(),
            snapshots,
            evictions: self.evictions,
        }
    }
}

#[cfg(test)]
mod tests;
