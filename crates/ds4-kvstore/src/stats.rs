//! What a store has done, and what it holds.

/// Counters since it was opened, and what there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Most bytes of all files.
    pub budget: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Pages stored.
    pub pages: u64,
    /// Snapshots stored.
    pub snapshots: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    /// Bytes written.
    pub saved_bytes: u64,
    /// Saves that were not written: the queue was full, the disk failed, or they did not fit.
    pub dropped: u64,
    /// Prefixes read.
    pub loads: u64,
    /// Bytes read.
    pub loaded_bytes: u64,
    /// Prefixes that could not be read.
    pub damaged: u64,
    /// Snapshots removed to stay within the budget.
    pub evicted: u64,
}
