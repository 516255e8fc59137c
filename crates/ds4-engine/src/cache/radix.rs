//! A radix tree over tokens.

use std::collections::BTreeMap;

/// A node's number. It stays the same for as long as the node has a value.
pub(super) type NodeId = usize;

const ROOT: NodeId = 0;

/// Values at token sequences, found by what the sequences begin with.
///
/// A node stands for the tokens on the way to it; every node but the root has a value, or at least two children.
pub(super) struct Radix<T> {
    nodes: Vec<Node<T>>,
    free: Vec<NodeId>,
    /// Tokens of all edges.
    tokens: usize,
    values: usize,
}

struct Node<T> {
    /// The tokens from the parent to here.
    edge: Vec<u32>,
    parent: NodeId,
    /// By the first token of their edges.
    children: BTreeMap<u32, NodeId>,
    /// Tokens from the root to here.
    len: usize,
    value: Option<T>,
}

/// How far into the tree a token sequence goes.
pub(super) struct Walk {
    /// Nodes whose tokens it begins with, the root first.
    pub(super) path: Vec<NodeId>,
    /// Tokens that it shares with the tree.
    pub(super) common: usize,
    /// The node that it leads to, or into the edge of.
    pub(super) last: NodeId,
}

impl<T> Radix<T> {
    pub(super) fn new() -> Self {
        let root = Node { edge: Vec::new(), parent: ROOT, children: BTreeMap::new(), len: 0, value: None };
        Self { nodes: vec![root], free: Vec::new(), tokens: 0, values: 0 }
    }

    /// Follows `tokens` as far as the tree has them.
    pub(super) fn walk(&self, tokens: &[u32]) -> Walk {
        let mut walk = Walk { path: vec![ROOT], common: 0, last: ROOT };
        while let Some(&child) = tokens.get(walk.common).and_then(|token| self.nodes[walk.last].children.get(token)) {
            let edge = &self.nodes[child].edge;
            let common = common_len(edge, &tokens[walk.common..]);
            walk.common += common;
            walk.last = child;
            if common < edge.len() {
                break;
            }
            walk.path.push(child);
        }
        walk
    }

    /// The node for exactly `tokens`, made if there is none. It has to be given a value before anything else is asked.
    fn node_for(&mut self, tokens: &[u32]) -> NodeId {
        let walk = self.walk(tokens);
        let deepest = walk.path.last().copied().unwrap_or(ROOT);
        let branch = if walk.last == deepest { deepest } else { self.split(walk.last, walk.common) };
        if walk.common == tokens.len() {
            return branch;
        }
        let edge = tokens[walk.common..].to_vec();
        self.tokens += edge.len();
        let first = edge[0];
        let node = self.add(Node { edge, parent: branch, children: BTreeMap::new(), len: tokens.len(), value: None });
        self.nodes[branch].children.insert(first, node);
        node
    }

    /// Puts a node into the edge to `lower`, where `len` tokens lead to.
    fn split(&mut self, lower: NodeId, len: usize) -> NodeId {
        let parent = self.nodes[lower].parent;
        let at = len - self.nodes[parent].len;
        let rest = self.nodes[lower].edge.split_off(at);
        let edge = std::mem::replace(&mut self.nodes[lower].edge, rest);
        let (first, next) = (edge[0], self.nodes[lower].edge[0]);
        let upper = self.add(Node { edge, parent, children: BTreeMap::from([(next, lower)]), len, value: None });
        self.nodes[lower].parent = upper;
        self.nodes[parent].children.insert(first, upper);
        upper
    }

    fn add(&mut self, node: Node<T>) -> NodeId {
        match self.free.pop() {
            Some(id) => {
                self.nodes[id] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// Puts a value at `tokens`. Returns where, and the value before.
    pub(super) fn insert(&mut self, tokens: &[u32], value: T) -> (NodeId, Option<T>) {
        let node = self.node_for(tokens);
        let before = self.nodes[node].value.replace(value);
        self.values += usize::from(before.is_none());
        (node, before)
    }

    /// Takes a value out, and the nodes that only it needed.
    pub(super) fn remove(&mut self, node: NodeId) -> Option<T> {
        let value = self.nodes[node].value.take()?;
        self.values -= 1;
        self.tidy(node);
        Some(value)
    }

    /// Removes a node without value and children, and joins one with a single child to that.
    fn tidy(&mut self, node: NodeId) {
        if node == ROOT || self.nodes[node].value.is_some() {
            return;
        }
        let parent = self.nodes[node].parent;
        let first = self.nodes[node].edge[0];
        let mut children = self.nodes[node].children.values();
        match (children.next().copied(), children.next()) {
            (None, _) => {
                self.nodes[parent].children.remove(&first);
                self.tokens -= self.nodes[node].edge.len();
                self.release(node);
                self.tidy(parent);
            }
            (Some(child), None) => {
                let mut edge = std::mem::take(&mut self.nodes[node].edge);
                edge.append(&mut self.nodes[child].edge);
                self.nodes[child].edge = edge;
                self.nodes[child].parent = parent;
                self.nodes[parent].children.insert(first, child);
                self.release(node);
            }
            _ => {}
        }
    }

    fn release(&mut self, node: NodeId) {
        self.nodes[node] = Node { edge: Vec::new(), parent: ROOT, children: BTreeMap::new(), len: 0, value: None };
        self.free.push(node);
    }

    pub(super) fn value(&self, node: NodeId) -> Option<&T> {
        self.nodes[node].value.as_ref()
    }

    pub(super) fn value_mut(&mut self, node: NodeId) -> Option<&mut T> {
        self.nodes[node].value.as_mut()
    }

    /// Tokens from the root to a node.
    pub(super) fn len_of(&self, node: NodeId) -> usize {
        self.nodes[node].len
    }

    /// Nodes from the parent of `node` to the root.
    pub(super) fn ancestors(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        let mut next = node;
        std::iter::from_fn(move || {
            (next != ROOT).then(|| {
                next = self.nodes[next].parent;
                next
            })
        })
    }

    /// The only child of a node, if it has exactly one.
    pub(super) fn only_child(&self, node: NodeId) -> Option<NodeId> {
        let children = &self.nodes[node].children;
        if children.len() == 1 { children.values().next().copied() } else { None }
    }

    pub(super) fn is_leaf(&self, node: NodeId) -> bool {
        self.nodes[node].children.is_empty()
    }

    /// Some node with a value at or below `node`. There always is one, but below an empty root.
    pub(super) fn any_value_below(&self, mut node: NodeId) -> Option<NodeId> {
        while self.nodes[node].value.is_none() {
            node = *self.nodes[node].children.values().next()?;
        }
        Some(node)
    }

    /// All nodes with values.
    pub(super) fn with_values(&self) -> impl Iterator<Item = (NodeId, &T)> {
        self.nodes.iter().enumerate().filter_map(|(id, node)| Some((id, node.value.as_ref()?)))
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.values
    }

    /// Number of tokens that the tree stores.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }
}

fn common_len(left: &[u32], right: &[u32]) -> usize {
    // Whole blocks first: most of what is compared is equal, and long.
    const BLOCK: usize = 64;
    let blocks = left.chunks_exact(BLOCK).zip(right.chunks_exact(BLOCK)).take_while(|(left, right)| left == right);
    let equal = blocks.count() * BLOCK;
    equal + left[equal..].iter().zip(&right[equal..]).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain map from token lists to values.
        #[test]
        fn it_is_a_map_that_knows_beginnings(
            actions in prop::collection::vec((prop::collection::vec(0_u32..3, 0..9), any::<bool>()), 0..80),
            asked in prop::collection::vec(prop::collection::vec(0_u32..3, 0..12), 1..8),
        ) {
            let mut tree = Radix::new();
            let mut plain: BTreeMap<Vec<u32>, (usize, NodeId)> = BTreeMap::new();
            for (number, (tokens, insert)) in actions.into_iter().enumerate() {
                if insert {
                    let (node, before) = tree.insert(&tokens, number);
                    let expected = plain.insert(tokens.clone(), (number, node));
                    prop_assert_eq!(before, expected.map(|(number, _)| number));
                    prop_assert_eq!(tree.len_of(node), tokens.len());
                } else if let Some((number, node)) = plain.remove(&tokens) {
                    prop_assert_eq!(tree.remove(node), Some(number));
                }
                for (number, node) in plain.values() {
                    prop_assert_eq!(tree.value(*node), Some(number), "numbers of nodes stay");
                }
                prop_assert_eq!(tree.len(), plain.len());
            }
            for tokens in asked {
                let walk = tree.walk(&tokens);
                let found = walk.path.iter().rev().find_map(|&node| tree.value(node));
                let expected = (0..=tokens.len()).rev().find_map(|len| plain.get(&tokens[..len]));
                prop_assert_eq!(found, expected.map(|(number, _)| number));
                let common = plain.keys().map(|key| common_len(key, &tokens)).max().unwrap_or(0);
                prop_assert_eq!(walk.common, common);
                prop_assert_eq!(tree.any_value_below(walk.last).is_some(), !plain.is_empty());
            }
            // Every token is stored once: as many as there are different beginnings.
            let beginnings: std::collections::BTreeSet<&[u32]> =
                plain.keys().flat_map(|key| (1..=key.len()).map(|len| &key[..len])).collect();
            prop_assert_eq!(tree.tokens(), beginnings.len());
            for (tokens, (_, node)) in std::mem::take(&mut plain) {
                prop_assert!(tree.remove(node).is_some(), "{:?}", tokens);
            }
            prop_assert_eq!((tree.tokens(), tree.nodes.len() - tree.free.len()), (0, 1));
        }
    }

    #[test]
    fn long_edges_are_compared_in_blocks() {
        let long: Vec<u32> = (0..1000).collect();
        for at in [0, 1, 63, 64, 65, 127, 128, 999] {
            let mut other = long.clone();
            other[at] += 1;
            assert_eq!(common_len(&long, &other), at);
            assert_eq!(common_len(&long, &long[..at]), at);
        }
    }
}
