//! Responses beyond this process: a record of each beside the KV cache.
//!
//! A record lives as long as its response is held, be it as the beginning of another one; then it is *hidden*, and no client can
//! ask for it. Records are written in one piece by the store, behind the server's back.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ds4_chat::json::{Json, quote};
use ds4_kvstore::KvStore;
use serde_json::Value;

use super::request::plain;

/// The store's space for them. Text, not tokens: it means the same to every model.
const SPACE: &str = "responses";

/// Where records are kept.
#[derive(Debug)]
pub struct Disk {
    store: KvStore,
    /// The process ends: what is dropped now is not to be forgotten.
    closing: AtomicBool,
    /// Place of the next response among all.
    next: AtomicU64,
}

/// A response as its record tells it.
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its place among all: later ones have larger numbers.
    pub order: u64,
    /// Whether clients may ask for it.
    pub hidden: bool,
    /// Id of the response that it continues.
    pub parent: Option<String>,
    /// The object that the client was given.
    pub response: Value,
    /// Items of the request.
    pub input: Vec<Arc<Json>>,
    /// Items of the answer.
    pub output: Vec<Arc<Json>>,
}

impl Disk {
    /// In this store.
    pub fn new(store: KvStore) -> Self {
        Self { store, closing: AtomicBool::new(false), next: AtomicU64::new(0) }
    }

    /// All records, oldest first. Damaged ones, and those whose beginning is lost, are forgotten.
    pub fn load(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (key, value) in self.store.facts(SPACE) {
            match Record::read(&key, &value) {
                Some(record) => records.push(record),
                None => self.lost(&String::from_utf8_lossy(&key), "is damaged"),
            }
        }
        records.sort_by_key(|record| record.order);
        let mut known = HashSet::new();
        records.retain(|record| {
            let is_whole = record.parent.as_ref().is_none_or(|parent| known.contains(parent));
            if is_whole {
                known.insert(record.id.clone());
            } else {
                self.lost(&record.id, "continues one that is lost");
            }
            is_whole
        });
        self.next.store(records.last().map_or(0, |last| last.order + 1), Ordering::Relaxed);
        records
    }

    fn lost(&self, id: &str, why: &str) {
        self.store.warn(format!("the kept response {id} {why}; it is forgotten"));
        self.store.forget_fact(SPACE, id.as_bytes());
    }

    /// The place of a new response.
    pub fn next_order(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes a record.
    pub fn put(&self, record: &Record) {
        self.store.put_fact(SPACE, record.id.as_bytes(), record.text().as_bytes());
    }

    /// Forgets a record, unless the process ends.
    pub fn forget(&self, id: &str) {
        if !self.closing.load(Ordering::Relaxed) {
            self.store.forget_fact(SPACE, id.as_bytes());
        }
    }

    /// From now on nothing is forgotten.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

impl Record {
    fn text(&self) -> String {
        let items = |items: &[Arc<Json>]| items.iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",");
        format!(
            r#"{{"order":{},"hidden":{},"parent":{},"response":{},"input":[{}],"output":[{}]}}"#,
            self.order,
            self.hidden,
            self.parent.as_deref().map_or_else(|| "null".to_owned(), quote),
            self.response,
            items(&self.input),
            items(&self.output),
        )
    }

    /// What [`text`](Self::text) wrote. Anything else is no record.
    fn read(key: &[u8], value: &[u8]) -> Option<Self> {
        let json = Json::parse(std::str::from_utf8(value).ok()?).ok()?;
        let items = |name: &str| Some(json.get(name)?.as_array()?.iter().cloned().map(Arc::new).collect());
        let Json::Number(order) = json.get("order")? else { return None };
        let parent = match json.get("parent")? {
            Json::Null => None,
            parent => Some(parent.as_str()?.to_owned()),
        };
        Some(Self {
            id: String::from_utf8(key.to_vec()).ok()?,
            order: order.parse().ok()?,
            hidden: matches!(json.get("hidden")?, Json::Bool(true)),
            parent,
            response: plain(json.get("response").filter(|response| response.as_object().is_some())?),
            input: items("input")?,
            output: items("output")?,
        })
    }
}
