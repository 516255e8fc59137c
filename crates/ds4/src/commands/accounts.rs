//! What the KV cache holds, told from time to time while `ds4 serve` runs.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use ds4_engine::{Engine, KvStats};

use crate::units::{bytes, count, counted};

/// Time between two lines. Nothing is said when nothing was asked meanwhile.
const EVERY: Duration = Duration::from_secs(60);

/// Tells what an engine's cache holds until what is returned is dropped.
pub fn tell_from_time_to_time(engine: Engine, tell: impl Fn(&str) + Send + 'static) -> Sender<()> {
    let (stop, stopped) = mpsc::channel::<()>();
    thread::spawn(move || {
        let mut told = prompts(&engine.kv_stats());
        while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            let stats = engine.kv_stats();
            if prompts(&stats) != told {
                told = prompts(&stats);
                tell(&sentence(&stats));
            }
        }
    });
    stop
}

/// Prompts so far.
fn prompts(stats: &KvStats) -> u64 {
    stats.memory_hits + stats.disk_hits + stats.misses
}

/// The accounts in a sentence.
fn sentence(stats: &KvStats) -> String {
    let of = |budget: Option<u64>| budget.map_or_else(String::new, |budget| format!(" of {}", bytes(budget)));
    let mut text = format!(
        "KV cache: {}{} in memory (pages {}, states {}, index {}; {}, {} running)",
        bytes(stats.bytes()),
        of(stats.budget),
        bytes(stats.page_bytes),
        bytes(stats.state_bytes),
        bytes(stats.index_bytes),
        counted(stats.snapshots, "snapshot"),
        stats.running,
    );
    if let Some(disk) = &stats.disk {
        text.push_str(&format!(", {}{} on disk", bytes(disk.bytes), of(Some(disk.budget))));
        if disk.queued_bytes > 0 {
            text.push_str(&format!(" and {} to be written", bytes(disk.queued_bytes)));
        }
    }
    text.push_str(&format!(
        "; of {} {} went on from memory and {} from disk, {} tokens not computed again",
        counted(prompts(stats), "prompt"),
        stats.memory_hits,
        stats.disk_hits,
        count(stats.memory_tokens + stats.disk_tokens),
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_on_the_account() {
        let mut stats = KvStats::default();
        (stats.page_bytes, stats.state_bytes, stats.index_bytes) = (3 << 20, 2 << 20, 1 << 20);
        (stats.memory_hits, stats.misses, stats.memory_tokens) = (7, 1, 1234);
        let text = sentence(&stats);
        assert!(
            text.starts_with("KV cache: 6.00 MiB in memory (pages 3.00 MiB, states 2.00 MiB, index 1.00 MiB"),
            "{text}"
        );
        assert!(
            text.ends_with("of 8 prompts 7 went on from memory and 0 from disk, 1.23 k tokens not computed again"),
            "{text}"
        );
        stats.budget = Some(1 << 30);
        stats.disk = Some(Default::default());
        assert!(sentence(&stats).contains("6.00 MiB of 1.00 GiB in memory"), "{text}");
        assert!(sentence(&stats).contains(", 0 B of 0 B on disk;"));
    }
}
