//! The KV cache behind the server: whose states it keeps, and what the metrics tell of it.

use std::collections::BTreeSet;

use ds4_engine::EngineOptions;
use ds4_kvstore::{KvStore, StoreOptions};
use ds4_server::ServerConfig;
use serde_json::json;

use crate::support::{Server, options};

const BUDGET: u64 = 256 << 20;

/// A server over the demo model with a cache in memory and in `folder`.
fn server(folder: &std::path::Path) -> (Server, KvStore) {
    let store = KvStore::open(StoreOptions::new(folder, 64 << 20)).expect("a usable folder");
    let config = ServerConfig { store: Some(store.clone()), ..ServerConfig::default() };
    (Server::nano_with(config, EngineOptions { kv_ram: Some(BUDGET), ..options() }), store)
}

/// Text of more than a page that begins like no other number's.
fn text(number: usize) -> String {
    (0..150).map(|n| format!("{} ", number * 1000 + n)).collect()
}

#[test]
fn what_clients_call_their_conversations_names_their_states() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, store) = server(folder.path());
    let chat = |number| json!({ "messages": [{ "role": "user", "content": text(number) }], "max_tokens": 2 });
    let keyed = |number, key| {
        let mut body = chat(number);
        body["prompt_cache_key"] = json!(key);
        body
    };
    let response = |number| json!({ "input": text(number), "max_output_tokens": 2 });
    let keyed_response = |number, key| {
        let mut body = response(number);
        body["prompt_cache_key"] = json!(key);
        body
    };
    let claude = ("x-claude-code-session-id", "claude");
    let requests = [
        ("/v1/messages", chat(1), vec![claude], Some("claude")),
        ("/v1/messages", chat(2), vec![claude, ("x-claude-code-agent-id", "helper")], Some("claude/helper")),
        (
            "/v1/responses",
            response(3),
            vec![("thread-id", "codex-thread"), ("session-id", "codex")],
            Some("codex-thread"),
        ),
        ("/v1/chat/completions", chat(4), vec![("x-session-id", "own")], Some("own")),
        ("/v1/chat/completions", keyed(5, "chat-key"), vec![], Some("chat-key")),
        ("/v1/responses", keyed_response(6, "response-key"), vec![], Some("response-key")),
        // A header is more precise than the body.
        ("/v1/chat/completions", keyed(7, "in vain"), vec![("x-session-id", "header")], Some("header")),
        ("/v1/chat/completions", keyed(8, "no name"), vec![], None),
        ("/v1/completions", json!({ "prompt": text(9), "max_tokens": 2 }), vec![], None),
    ];
    for (path, body, headers, session) in requests {
        let known: BTreeSet<_> = store.entries().expect("an index").into_iter().map(|entry| entry.key).collect();
        let answer = server.send(path, &body.to_string(), &headers);
        assert_eq!(answer.status, 200, "{}", answer.text);
        store.flush();
        let entries = store.entries().expect("an index");
        let new: Vec<_> = entries.iter().filter(|entry| !known.contains(&entry.key)).collect();
        assert!(!new.is_empty(), "{path} {session:?}");
        assert!(new.iter().all(|entry| entry.session.as_deref() == session), "{path} {session:?} {new:?}");
    }
}

#[test]
fn the_metrics_account_for_every_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, store) = server(folder.path());
    let ask = |content: &str| {
        let body = json!({ "messages": [{ "role": "user", "content": content }], "max_tokens": 2 });
        let answer = server.post("/v1/chat/completions", &body).json();
        (answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count"), answer)
    };
    let (cold, _) = ask(&text(1));
    let (warm, _) = ask(&text(1));
    ask(&text(2));
    assert_eq!(cold, 0);
    assert!(warm >= 128, "{warm}");
    store.flush();

    let stats = server.engine.kv_stats();
    let disk = stats.disk.expect("a store");
    assert!(stats.page_bytes > 0 && stats.state_bytes > 0 && stats.index_bytes > 0, "{stats:?}");
    assert!(disk.bytes > 0 && disk.pages > 0 && disk.saved_bytes > 0, "{disk:?}");
    for (line, value) in [
        (r#"ds4_kv_memory_bytes{part="pages"}"#, stats.page_bytes),
        (r#"ds4_kv_memory_bytes{part="states"}"#, stats.state_bytes),
        (r#"ds4_kv_memory_bytes{part="index"}"#, stats.index_bytes),
        ("ds4_kv_memory_budget_bytes", BUDGET),
        ("ds4_kv_pages", stats.pages),
        ("ds4_kv_snapshots", stats.snapshots),
        ("ds4_kv_running_sequences", 0),
        (r#"ds4_kv_lookups_total{found="memory"}"#, 1),
        (r#"ds4_kv_lookups_total{found="nothing"}"#, 2),
        (r#"ds4_kv_reused_tokens_total{source="memory"}"#, warm),
        ("ds4_kv_disk_bytes", disk.bytes),
        ("ds4_kv_disk_budget_bytes", 64 << 20),
        ("ds4_kv_disk_pages", disk.pages),
        ("ds4_kv_disk_snapshots", disk.snapshots),
        ("ds4_kv_disk_queued_bytes", 0),
        ("ds4_kv_disk_written_bytes_total", disk.saved_bytes),
    ] {
        assert_eq!(server.metric(line), value as f64, "{line}");
    }
}
