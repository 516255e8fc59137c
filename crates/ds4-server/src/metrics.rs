//! Counters for Prometheus.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use ds4_engine::{Engine, Timings};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::Api;
use crate::error::ErrorKind;
use crate::kv_metrics::KvCollector;

/// Content type of what [`Metrics::encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    api: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// What the server counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    counters: Counters,
}

#[derive(Clone, Debug)]
struct Counters {
    requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    prompt_tokens: Family<SourceLabels, Counter<u64, AtomicU64>>,
    completion_tokens: Counter<u64, AtomicU64>,
    rejected: Family<ReasonLabels, Counter<u64, AtomicU64>>,
    tool_parse_recoveries: Counter<u64, AtomicU64>,
    unanswered: Counter<u64, AtomicU64>,
    memory: Gauge<i64, AtomicI64>,
    running: Gauge<i64, AtomicI64>,
    queued: Gauge<i64, AtomicI64>,
    first_token: Histogram,
    between_tokens: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
}

impl Metrics {
    /// Counters, beside those that `engine` has of its KV cache.
    pub(crate) fn new(engine: Engine) -> Self {
        let mut metrics = Self::default();
        metrics.registry.register_collector(Box::new(KvCollector::new(engine)));
        metrics
    }
}

impl Default for Metrics {
    fn default() -> Self {
        // A demo model answers within milliseconds, a prompt of 100 000 tokens takes minutes.
        let seconds = || Histogram::new([0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]);
        let counters = Counters {
            requests: Family::default(),
            prompt_tokens: Family::default(),
            completion_tokens: Counter::default(),
            rejected: Family::default(),
            tool_parse_recoveries: Counter::default(),
            unanswered: Counter::default(),
            memory: Gauge::default(),
            running: Gauge::default(),
            queued: Gauge::default(),
            first_token: seconds(),
            between_tokens: Histogram::new([0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0]),
            queue: seconds(),
            prefill: seconds(),
            decode: seconds(),
        };
        let mut registry = Registry::with_prefix("ds4");
        let of = counters.clone();
        registry.register("requests", "Generations by API and outcome", of.requests);
        registry.register("prompt_tokens", "Tokens of prompts, by where their state came from", of.prompt_tokens);
        registry.register("completion_tokens", "Tokens sampled", of.completion_tokens);
        registry.register("rejected_requests", "Requests that were answered with an error, by reason", of.rejected);
        registry.register(
            "tool_parse_recoveries",
            "Damages of tool calls that were repaired: values that were not JSON, tags that were missing or misspelled",
            of.tool_parse_recoveries,
        );
        registry.register(
            "unanswered_turns",
            "Turns that ended within their reasoning, without an answer",
            of.unanswered,
        );
        registry.register("resident_memory_bytes", "Memory of the process, where the system tells", of.memory);
        registry.register("requests_in_flight", "Generations that run or wait", of.running);
        registry.register("queue_depth", "Generations that wait for a slot", of.queued);
        registry.register("time_to_first_token_seconds", "From the request to its first token", of.first_token);
        registry.register("inter_token_seconds", "Between two tokens of a generation", of.between_tokens);
        registry.register("queue_seconds", "Waiting for a slot, per generation", of.queue);
        registry.register("prefill_seconds", "Computing the prompt, per generation", of.prefill);
        registry.register("decode_seconds", "From the first token to the end, per generation", of.decode);
        Self { registry, counters }
    }
}

impl Metrics {
    /// All metrics in Prometheus' text format.
    pub fn encode(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.counters.memory.set(bytes);
        }
        let mut text = String::new();
        // Writing to a string fails only if an encoder does, and the labels above are plain text.
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }

    /// A request that was answered with an error.
    pub(crate) fn rejected(&self, kind: ErrorKind) {
        let reason = kind.openai_code().unwrap_or(if kind == ErrorKind::Engine { "engine" } else { "invalid_request" });
        self.counters.rejected.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// A generation that was handed to the engine.
    pub(crate) fn start(&self, api: Api) -> Running {
        self.counters.running.inc();
        self.counters.queued.inc();
        Running {
            counters: self.counters.clone(),
            api,
            since: Instant::now(),
            last_token: None,
            is_queued: true,
            outcome: "cancelled",
        }
    }
}

/// Counts one generation. Dropped before it has an outcome, it was cancelled.
#[derive(Debug)]
pub(crate) struct Running {
    counters: Counters,
    api: Api,
    since: Instant,
    last_token: Option<Instant>,
    is_queued: bool,
    outcome: &'static str,
}

impl Running {
    /// The engine did not take it.
    pub(crate) fn refused(mut self) {
        self.outcome = "refused";
    }

    /// It left the queue.
    pub(crate) fn started(&mut self, prompt_tokens: usize, cached_tokens: usize) {
        self.leave_queue();
        let count = |source, tokens: usize| {
            self.counters.prompt_tokens.get_or_create(&SourceLabels { source }).inc_by(tokens as u64);
        };
        count("cache", cached_tokens);
        count("prefill", prompt_tokens.saturating_sub(cached_tokens));
    }

    /// A token was sampled.
    pub(crate) fn token(&mut self) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => self.counters.first_token.observe(now.duration_since(self.since).as_secs_f64()),
            Some(last) => self.counters.between_tokens.observe(now.duration_since(last).as_secs_f64()),
        }
        self.counters.completion_tokens.inc();
    }

    /// It came to its end.
    pub(crate) fn finished(&mut self, timings: &Timings) {
        self.outcome = "completed";
        let seconds = |duration: Duration| duration.as_secs_f64();
        self.counters.queue.observe(seconds(timings.queued));
        self.counters.prefill.observe(seconds(timings.prefill));
        self.counters.decode.observe(seconds(timings.decode));
    }

    /// What came out of it: how much damage of its calls was repaired, and whether it ended within its reasoning.
    pub(crate) fn parsed(&mut self, recoveries: usize, ended_in_reasoning: bool) {
        self.counters.tool_parse_recoveries.inc_by(recoveries as u64);
        self.counters.unanswered.inc_by(u64::from(ended_in_reasoning));
    }

    /// It broke off.
    pub(crate) fn failed(&mut self) {
        self.outcome = "failed";
    }

    fn leave_queue(&mut self) {
        if std::mem::take(&mut self.is_queued) {
            self.counters.queued.dec();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.leave_queue();
        self.counters.running.dec();
        let labels = RequestLabels { api: self.api.name(), outcome: self.outcome };
        self.counters.requests.get_or_create(&labels).inc();
    }
}

/// Memory of this process that is in use, in bytes.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_counted_once_with_its_outcome() {
        let metrics = Metrics::default();
        metrics.start(Api::Chat).refused();
        let mut running = metrics.start(Api::Chat);
        running.started(10, 4);
        running.token();
        drop(running);
        let mut running = metrics.start(Api::Messages);
        running.started(5, 0);
        running.token();
        running.token();
        running.finished(&Timings::default());
        running.parsed(3, true);
        metrics.rejected(ErrorKind::Invalid);
        metrics.rejected(ErrorKind::Busy);
        metrics.rejected(ErrorKind::Busy);
        let text = metrics.encode();
        assert!(text.contains("ds4_requests_in_flight 1\n"), "{text}");
        assert!(text.contains("ds4_queue_depth 0\n"), "{text}");
        drop(running);
        let text = metrics.encode();
        for line in [
            r#"ds4_requests_total{api="chat",outcome="refused"} 1"#,
            r#"ds4_requests_total{api="chat",outcome="cancelled"} 1"#,
            r#"ds4_requests_total{api="messages",outcome="completed"} 1"#,
            r#"ds4_prompt_tokens_total{source="cache"} 4"#,
            r#"ds4_prompt_tokens_total{source="prefill"} 11"#,
            "ds4_completion_tokens_total 3",
            "ds4_tool_parse_recoveries_total 3",
            "ds4_unanswered_turns_total 1",
            r#"ds4_rejected_requests_total{reason="invalid_request"} 1"#,
            r#"ds4_rejected_requests_total{reason="rate_limit_exceeded"} 2"#,
            "ds4_requests_in_flight 0",
            "ds4_time_to_first_token_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }
}
