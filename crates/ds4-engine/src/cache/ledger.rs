//! What all sequences take in memory, with pages that they share counted once.

use std::collections::HashMap;

use ds4_model::state::SequenceState;

/// The account.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Holders and size of each page.
    pages: HashMap<usize, (u32, usize)>,
    page_bytes: usize,
    own_bytes: usize,
    /// Entries of all accounts.
    entries: usize,
}

/// What one sequence is accounted for.
#[derive(Default)]
pub(crate) struct Held {
    pages: Vec<usize>,
    own_bytes: usize,
}

impl Ledger {
    /// Counts a sequence in.
    pub(crate) fn add(&mut self, sequence: &impl SequenceState) -> Held {
        let mut held = Held { pages: Vec::new(), own_bytes: sequence.own_bytes() };
        self.own_bytes += held.own_bytes;
        self.take_pages(&mut held, sequence);
        held
    }

    /// A sequence has computed more, or holds other pages from number `from` on.
    pub(crate) fn update(&mut self, held: &mut Held, sequence: &impl SequenceState, from: usize) {
        for id in held.pages.split_off(from.min(held.pages.len())) {
            self.give_back(id);
        }
        self.take_pages(held, sequence);
    }

    /// Counts a sequence out.
    pub(crate) fn remove(&mut self, held: Held) {
        self.own_bytes -= held.own_bytes;
        held.pages.into_iter().for_each(|id| self.give_back(id));
    }

    fn take_pages(&mut self, held: &mut Held, sequence: &impl SequenceState) {
        for index in held.pages.len()..sequence.page_count() {
            let Some(page) = sequence.page_use(index) else { break };
            let (holders, bytes) = self.pages.entry(page.id).or_insert((0, page.bytes));
            if *holders == 0 {
                self.page_bytes += *bytes;
            }
            *holders += 1;
            held.pages.push(page.id);
            self.entries += 1;
        }
    }

    fn give_back(&mut self, id: usize) {
        self.entries -= 1;
        if let Some((holders, bytes)) = self.pages.get_mut(&id) {
            *holders -= 1;
            if *holders == 0 {
                self.page_bytes -= *bytes;
                self.pages.remove(&id);
            }
        }
    }

    /// Bytes of all pages.
    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Number of pages.
    pub(crate) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Bytes of the account itself, about.
    pub(crate) fn bytes(&self) -> usize {
        self.entries * size_of::<usize>() + self.pages.len() * size_of::<(usize, (u32, usize), u64)>()
    }

    /// Bytes of everything that is not in pages.
    pub(crate) fn own_bytes(&self) -> usize {
        self.own_bytes
    }
}
