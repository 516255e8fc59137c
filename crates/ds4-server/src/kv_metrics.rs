//! The KV cache in the metrics: what it holds at the moment of asking, and what it has done.

use std::fmt;

use ds4_engine::Engine;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Asks an engine.
#[derive(Debug)]
pub(crate) struct KvCollector(Engine);

impl KvCollector {
    pub(crate) fn new(engine: Engine) -> Self {
        Self(engine)
    }
}

/// A row of the tables below: name, help, label (name and value, or none), value.
type Row = (&'static str, &'static str, Option<(&'static str, &'static str)>, u64);

impl Collector for KvCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stats = self.0.kv_stats();
        const MEMORY: &str = "Bytes of states in memory, running ones included, shared pages once";
        const LOOKUPS: &str = "Prompts, by where the longest known beginning was";
        const REUSED: &str = "Tokens of prompts that were not computed again, by where their state was";
        let mut gauges: Vec<Row> = vec![
            ("kv_memory_bytes", MEMORY, Some(("part", "pages")), stats.page_bytes),
            ("kv_memory_bytes", MEMORY, Some(("part", "states")), stats.state_bytes),
            ("kv_memory_bytes", MEMORY, Some(("part", "index")), stats.index_bytes),
            ("kv_pages", "Pages in memory", None, stats.pages),
            ("kv_snapshots", "Snapshots in memory", None, stats.snapshots),
            ("kv_running_sequences", "Sequences that are computed", None, stats.running),
        ];
        if let Some(budget) = stats.budget {
            gauges.push(("kv_memory_budget_bytes", "Most bytes of states in memory", None, budget));
        }
        let mut counters: Vec<Row> = vec![
            ("kv_lookups", LOOKUPS, Some(("found", "memory")), stats.memory_hits),
            ("kv_lookups", LOOKUPS, Some(("found", "disk")), stats.disk_hits),
            ("kv_lookups", LOOKUPS, Some(("found", "nothing")), stats.misses),
            ("kv_reused_tokens", REUSED, Some(("source", "memory")), stats.memory_tokens),
            ("kv_reused_tokens", REUSED, Some(("source", "disk")), stats.disk_tokens),
            ("kv_evictions", "Snapshots that left memory for others", None, stats.evictions),
        ];
        if let Some(disk) = stats.disk {
            gauges.extend([
                ("kv_disk_bytes", "Bytes of pages and snapshots on disk", None, disk.bytes),
                ("kv_disk_budget_bytes", "Most bytes of them", None, disk.budget),
                ("kv_disk_pages", "Pages on disk", None, disk.pages),
                ("kv_disk_snapshots", "Snapshots on disk", None, disk.snapshots),
                ("kv_disk_queued_bytes", "Bytes that wait to be written", None, disk.queued_bytes),
            ]);
            counters.extend([
                ("kv_disk_written_bytes", "Bytes written", None, disk.saved_bytes),
                ("kv_disk_read_bytes", "Bytes read", None, disk.loaded_bytes),
                ("kv_disk_dropped", "States that were not written", None, disk.dropped),
                ("kv_disk_damaged", "States that could not be read", None, disk.damaged),
                ("kv_disk_evictions", "Snapshots that left the disk for others", None, disk.evicted),
            ]);
        }
        encode_rows(&mut encoder, &gauges, ConstGauge::<u64>::new)?;
        encode_rows(&mut encoder, &counters, ConstCounter::<u64>::new)
    }
}

/// Rows of the same name stand together and share one description.
fn encode_rows<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder,
    rows: &[Row],
    metric: impl Fn(u64) -> M,
) -> Result<(), fmt::Error> {
    for family in rows.chunk_by(|a, b| a.0 == b.0) {
        let (name, help, ..) = family[0];
        let kind = metric(0).metric_type();
        let mut descriptor = encoder.encode_descriptor(name, help, None::<&Unit>, kind)?;
        if let [(_, _, None, value)] = family {
            metric(*value).encode(descriptor)?;
            continue;
        }
        for (_, _, label, value) in family {
            let label = label.unwrap_or_default();
            metric(*value).encode(descriptor.encode_family(&[label])?)?;
        }
    }
    Ok(())
}
