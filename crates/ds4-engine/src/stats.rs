//! What the cache of computed prefixes holds and has done.

use ds4_kvstore::StoreStats;

/// Memory and use of the KV cache, as [`Engine::kv_stats`](crate::Engine::kv_stats) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvStats {
    /// Most bytes in memory; `None` without a limit.
    pub budget: Option<u64>,
    /// Bytes of all pages in memory, those of running sequences included, shared ones once.
    pub page_bytes: u64,
    /// Bytes of windows and frontiers: of running sequences and of snapshots.
    pub state_bytes: u64,
    /// Bytes of tokens and bookkeeping.
    pub index_bytes: u64,
    /// Pages in memory.
    pub pages: u64,
    /// Snapshots in memory.
    pub snapshots: u64,
    /// Sequences running.
    pub running: u64,
    /// Snapshots that made way for others.
    pub evictions: u64,
    /// Prompts that continued a state in memory.
    pub memory_hits: u64,
    /// Prompts that continued a state from disk.
    pub disk_hits: u64,
    /// Prompts that began anew.
    pub misses: u64,
    /// Tokens of prompts that were in memory.
    pub memory_tokens: u64,
    /// Tokens of prompts that were on disk.
    pub disk_tokens: u64,
    /// The store on disk, if there is one.
    pub disk: Option<StoreStats>,
}

impl KvStats {
    /// All bytes in memory.
    pub fn bytes(&self) -> u64 {
        self.page_bytes + self.state_bytes + self.index_bytes
    }
}
