//! What the store's tests share: states whose every byte follows from the tokens, so that a wrong one shows.
#![allow(dead_code)] // Each including test uses its own part.

pub mod power;

use std::sync::{Arc, Mutex};

use ds4_kvstore::{Chain, Identity, KvStore, Loaded, Prefixes, Save, StoreOptions};

pub const PAGE: usize = 4;

pub fn identity(detail: &str) -> Identity {
    Identity { label: "test model".to_owned(), detail: detail.to_owned(), page_tokens: PAGE }
}

/// Bytes that only these tokens give.
fn bytes_of(kind: u8, tokens: &[u32], len: usize) -> Vec<u8> {
    let mut hash = tokens.iter().fold(u64::from(kind) + 1, |hash, &token| {
        (hash ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    });
    (0..len)
        .map(|_| {
            hash = hash.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (hash >> 56) as u8
        })
        .collect()
}

pub fn page(tokens: &[u32], number: usize) -> Vec<u8> {
    bytes_of(b'p', &tokens[..(number + 1) * PAGE], 300)
}

pub fn tail(tokens: &[u32]) -> Vec<u8> {
    bytes_of(b's', tokens, 77)
}

pub fn chain(prefixes: &Prefixes, tokens: &[u32]) -> Chain {
    let mut chain = prefixes.chain();
    chain.extend(tokens);
    chain
}

/// What an engine does with a state after `tokens`: saves the pages that are not stored yet, and a snapshot.
pub fn save(prefixes: &Prefixes, tokens: &[u32]) -> bool {
    let chain = chain(prefixes, tokens);
    let first_page = prefixes.stored_pages(&chain);
    let save = Save {
        first_page,
        parent: chain.parent_of(first_page),
        tokens: tokens[first_page * PAGE..].to_vec(),
        pages: (first_page..chain.keys().len()).map(|number| page(tokens, number).into()).collect(),
        snapshot: Some(tail(tokens).into()),
        session: Some("s".to_owned()),
    };
    prefixes.save(save)
}

/// The longest stored prefix of `prompt`, checked byte by byte.
pub fn restored(prefixes: &Prefixes, prompt: &[u32]) -> usize {
    let Some(Loaded { tokens, pages, tail: found }) = prefixes.restore(&chain(prefixes, prompt), prompt, 0) else {
        return 0;
    };
    assert!(tokens < prompt.len(), "at least one token is left to compute");
    assert_eq!(pages.len(), tokens / PAGE);
    for (number, found) in pages.iter().enumerate() {
        assert!(*found == page(prompt, number), "page {number} is another's");
    }
    assert!(found == tail(&prompt[..tokens]), "the snapshot is another's");
    tokens
}

/// Warnings, collected.
#[derive(Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub fn options(&self, mut options: StoreOptions) -> StoreOptions {
        let list = Arc::clone(&self.0);
        options.warn = Arc::new(move |sentence| list.lock().expect("no panic").push(sentence));
        options
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

pub fn prefixes(store: &KvStore) -> Prefixes {
    store.prefixes(&identity("weights 1")).expect("a usable index")
}

/// Tokens `first`, `first + 1`, …
pub fn run(first: u32, len: usize) -> Vec<u32> {
    (first..).take(len).collect()
}
