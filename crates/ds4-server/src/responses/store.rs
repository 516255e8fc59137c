//! Responses that can be asked for again and continued.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ds4_chat::json::Json;
use ds4_kvstore::KvStore;
use lru::LruCache;
use serde_json::Value;

use super::disk::{Disk, Record};

/// A response with the conversation that it belongs to.
///
/// Conversations share their beginnings: each response holds its own items and a handle of the response before it. So a
/// response can still be continued when the one before it is deleted, and a long conversation is kept once.
#[derive(Debug)]
pub struct StoredResponse {
    /// The object that the client was given.
    pub response: Value,
    /// The request's own input, each item with an id.
    pub input: Vec<Arc<Json>>,
    /// What the model said, as far as it takes part in the conversation.
    pub output: Vec<Arc<Json>>,
    parent: Option<Arc<StoredResponse>>,
    /// What it is accounted for, and where.
    bytes: usize,
    account: Arc<AtomicUsize>,
    id: String,
    /// Where its record is, and its place among the records.
    disk: Option<(Arc<Disk>, u64)>,
}

impl StoredResponse {
    /// Items of the conversation before this response's output, oldest first.
    pub fn all_input(&self) -> Vec<&Arc<Json>> {
        let mut items = self.parent.as_ref().map(|parent| parent.conversation()).unwrap_or_default();
        items.extend(&self.input);
        items
    }

    /// Items of the whole conversation, oldest first.
    pub fn conversation(&self) -> Vec<&Arc<Json>> {
        let mut chain = vec![self];
        let mut next = self;
        while let Some(parent) = &next.parent {
            chain.push(parent);
            next = parent;
        }
        chain.iter().rev().flat_map(|response| response.input.iter().chain(&response.output)).collect()
    }
}

impl StoredResponse {
    /// Writes its record. `hidden`: clients cannot ask for it any more, but others continue it.
    fn write(&self, hidden: bool) {
        let Some((disk, order)) = &self.disk else { return };
        disk.put(&Record {
            id: self.id.clone(),
            order: *order,
            hidden,
            parent: self.parent.as_ref().map(|parent| parent.id.clone()),
            response: self.response.clone(),
            input: self.input.clone(),
            output: self.output.clone(),
        });
    }
}

impl Drop for StoredResponse {
    fn drop(&mut self) {
        self.account.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some((disk, _)) = &self.disk {
            disk.forget(&self.id);
        }
        // One after the other: a conversation may have more responses than the stack has room for.
        let mut next = self.parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.parent.take();
        }
    }
}

/// Responses, as many as fit; those not used for longest go first. Those that are kept on disk come back when the server starts
/// again, the latest as the last used.
#[derive(Debug)]
pub struct ResponseStore {
    responses: Mutex<LruCache<String, Arc<StoredResponse>>>,
    /// Bytes of all responses that are still held, be it as a beginning of another.
    bytes: Arc<AtomicUsize>,
    most_responses: usize,
    most_bytes: usize,
    disk: Option<Arc<Disk>>,
}

impl Drop for ResponseStore {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            disk.close();
        }
    }
}

impl ResponseStore {
    /// A store for at most so many responses and bytes.
    pub fn new(most_responses: usize, most_bytes: usize) -> Self {
        Self {
            responses: Mutex::new(LruCache::unbounded()),
            bytes: Arc::default(),
            most_responses,
            most_bytes,
            disk: None,
        }
    }

    /// The same, with records in `store`, and with what is in it already.
    pub fn kept_in(mut self, store: Option<KvStore>) -> Self {
        let Some(disk) = store.map(|store| Arc::new(Disk::new(store))) else { return self };
        let mut held: HashMap<String, Arc<StoredResponse>> = HashMap::new();
        for record in disk.load() {
            let parent = record.parent.as_ref().and_then(|parent| held.get(parent)).cloned();
            let Record { id, order, hidden, response, input, output, .. } = record;
            let stored = self.hold(&id, response, input, output, parent, Some((Arc::clone(&disk), order)));
            held.insert(id, Arc::clone(&stored));
            if !hidden {
                self.enter(stored);
            }
        }
        self.disk = Some(disk);
        self
    }

    /// Keeps a response under its id.
    pub fn insert(
        &self,
        id: &str,
        response: Value,
        input: Vec<Arc<Json>>,
        output: Vec<Arc<Json>>,
        parent: Option<Arc<StoredResponse>>,
    ) {
        let disk = self.disk.as_ref().map(|disk| (Arc::clone(disk), disk.next_order()));
        let stored = self.hold(id, response, input, output, parent, disk);
        stored.write(false);
        self.enter(stored);
    }

    fn hold(
        &self,
        id: &str,
        response: Value,
        input: Vec<Arc<Json>>,
        output: Vec<Arc<Json>>,
        parent: Option<Arc<StoredResponse>>,
        disk: Option<(Arc<Disk>, u64)>,
    ) -> Arc<StoredResponse> {
        // In memory a value takes a few times the length of its text.
        const OVERHEAD: usize = 4;
        let items: usize = input.iter().chain(&output).map(|item| text_bytes(item)).sum();
        let bytes = OVERHEAD * (items + response.to_string().len());
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let account = Arc::clone(&self.bytes);
        Arc::new(StoredResponse { response, input, output, parent, bytes, account, id: id.to_owned(), disk })
    }

    /// Lets clients ask for it, and for others no more if that is too much.
    fn enter(&self, stored: Arc<StoredResponse>) {
        let mut responses = self.lock();
        responses.put(stored.id.clone(), stored);
        while responses.len() > self.most_responses || self.bytes.load(Ordering::Relaxed) > self.most_bytes {
            match responses.pop_lru() {
                Some((_, oldest)) => release(oldest),
                None => break,
            }
        }
    }

    /// The response of this id.
    pub fn get(&self, id: &str) -> Option<Arc<StoredResponse>> {
        self.lock().get(id).cloned()
    }

    /// The response that made this call.
    pub fn with_call(&self, call_id: &str) -> Option<Arc<StoredResponse>> {
        let is_call = |item: &Arc<Json>| item.get("call_id").and_then(Json::as_str) == Some(call_id);
        let responses = self.lock();
        responses.iter().find(|(_, response)| response.output.iter().any(is_call)).map(|(_, found)| Arc::clone(found))
    }

    /// Forgets a response; whether there was one.
    pub fn remove(&self, id: &str) -> bool {
        let removed = self.lock().pop(id);
        removed.map(release).is_some()
    }

    /// The items of these ids, as far as responses with them are kept.
    pub fn items(&self, ids: &HashSet<&str>) -> HashMap<String, Arc<Json>> {
        let mut found = HashMap::new();
        if ids.is_empty() {
            return found;
        }
        for (_, response) in self.lock().iter() {
            for item in response.input.iter().chain(&response.output) {
                if let Some(id) = item.get("id").and_then(Json::as_str)
                    && ids.contains(id)
                {
                    found.insert(id.to_owned(), Arc::clone(item));
                }
            }
        }
        found
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<String, Arc<StoredResponse>>> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of a response that clients cannot ask for any more.
fn release(response: Arc<StoredResponse>) {
    // Another holds it: one that continues it, or a request that is about to.
    if Arc::strong_count(&response) > 1 {
        response.write(true);
    }
}

fn text_bytes(item: &Json) -> usize {
    item.to_string().len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(text: &str) -> Arc<Json> {
        let entries = [("id", format!("id-{text}")), ("content", text.to_owned())];
        Arc::new(Json::Object(
            entries.into_iter().map(|(name, value)| (name.to_owned(), Json::String(value))).collect(),
        ))
    }

    fn add(store: &ResponseStore, id: &str, parent: Option<&str>) {
        let parent = parent.map(|parent| store.get(parent).expect("kept"));
        let (input, output) = (vec![item(&format!("ask {id}"))], vec![item(&format!("say {id}"))]);
        store.insert(id, json!({ "id": id }), input, output, parent);
    }

    fn told(items: Vec<&Arc<Json>>) -> Vec<&str> {
        items.into_iter().filter_map(|item| item.get("content")?.as_str()).collect()
    }

    #[test]
    fn conversations_branch_and_outlive_their_beginnings() {
        let store = ResponseStore::new(10, 1 << 20);
        add(&store, "a", None);
        add(&store, "b", Some("a"));
        add(&store, "c", Some("a"));
        assert!(store.remove("a") && !store.remove("a"));
        assert!(store.get("a").is_none());
        let b = store.get("b").expect("kept");
        assert_eq!(told(b.conversation()), ["ask a", "say a", "ask b", "say b"]);
        assert_eq!(told(b.all_input()), ["ask a", "say a", "ask b"]);
        let c = store.get("c").expect("kept");
        assert_eq!(told(c.conversation()), ["ask a", "say a", "ask c", "say c"]);
        let ids = HashSet::from(["id-say b", "id-ask c", "id-nothing"]);
        assert_eq!(store.items(&ids).len(), 2);
    }

    #[test]
    fn the_store_stays_within_its_bounds() {
        let store = ResponseStore::new(3, 1 << 20);
        for index in 0..5 {
            add(&store, &index.to_string(), None);
            store.get("0");
        }
        let kept: Vec<bool> = (0..5).map(|index| store.get(&index.to_string()).is_some()).collect();
        assert_eq!(kept, [true, false, false, true, true], "what is used stays");

        let one = store.get("0").expect("kept").bytes;
        let small = ResponseStore::new(1000, 5 * one);
        add(&small, "0", None);
        for index in 1..20 {
            add(&small, &index.to_string(), Some(&(index - 1).to_string()));
            if small.get(&index.to_string()).is_none() {
                break;
            }
        }
        assert!(small.bytes.load(Ordering::Relaxed) <= 5 * one, "a beginning that a response holds counts");
    }

    #[test]
    fn a_conversation_of_any_length_can_be_dropped() {
        let store = ResponseStore::new(2, usize::MAX);
        add(&store, "0", None);
        for index in 1..200_000 {
            add(&store, &index.to_string(), Some(&(index - 1).to_string()));
        }
        assert!(store.remove("199999") && store.remove("199998"));
        assert_eq!(store.bytes.load(Ordering::Relaxed), 0);
    }
    #[test]
    fn responses_come_back_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let open = || {
            let mut options = ds4_kvstore::StoreOptions::new(folder.path(), 1 << 20);
            let warnings = Arc::clone(&warnings);
            options.warn = Arc::new(move |sentence| warnings.lock().expect("not poisoned").push(sentence));
            KvStore::open(options).expect("a usable folder")
        };
        let start = |store: &KvStore| ResponseStore::new(4, 1 << 20).kept_in(Some(store.clone()));
        {
            let store = open();
            let first = start(&store);
            for (id, parent) in [("a", None), ("b", Some("a")), ("c", Some("b")), ("gone", None)] {
                add(&first, id, parent);
            }
            // What others continue is still there for them; what nobody continues is gone from the disk as well.
            assert!(first.remove("a") && first.remove("gone"));
            let exact = Json::parse(r#"{"id": "x", "big": 12345678901234567890, "text": "\u0000 \ud83d\ude00"}"#);
            first.insert("d", json!({ "id": "d" }), vec![Arc::new(exact.expect("valid"))], Vec::new(), None);
        }
        {
            let store = open();
            let again = start(&store);
            assert!(again.get("a").is_none() && again.get("gone").is_none());
            let c = again.get("c").expect("kept");
            assert_eq!(told(c.conversation()), ["ask a", "say a", "ask b", "say b", "ask c", "say c"]);
            assert_eq!(c.response, json!({ "id": "c" }));
            let d = again.get("d").expect("kept");
            assert_eq!(
                d.input[0].to_string(),
                "{\"id\": \"x\", \"big\": 12345678901234567890, \"text\": \"\\u0000 😀\"}"
            );
            assert_eq!(again.items(&HashSet::from(["id-say b"])).len(), 1);
            // More than fit: the oldest goes, here and on the disk.
            drop((c, d));
            for id in ["e", "f"] {
                add(&again, id, None);
            }
            assert!(again.get("b").is_none());
            assert!(again.remove("c") && again.remove("e"));
            store.put_fact("responses", b"e", b"{\"order\": 1}");
            store.put_fact(
                "responses",
                b"g",
                br#"{"order":9,"hidden":false,"parent":"lost","response":{},"input":[],"output":[]}"#,
            );
        }
        assert!(warnings.lock().expect("not poisoned").is_empty());
        let store = open();
        let last = start(&store);
        assert!(["d", "f"].iter().all(|id| last.get(id).is_some()));
        assert!(["a", "b", "c", "e", "g"].iter().all(|id| last.get(id).is_none()));
        let warnings = std::mem::take(&mut *warnings.lock().expect("not poisoned"));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings[0].contains("e is damaged") && warnings[1].contains("g continues one that is lost"),
            "{warnings:?}"
        );
        store.flush();
        let names: Vec<_> = store.facts("responses").into_iter().map(|(key, _)| key).collect();
        assert_eq!(names, [b"d".to_vec(), b"f".to_vec()]);
    }
}
