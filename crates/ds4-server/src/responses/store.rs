//! Responses that can be asked for again and continued.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ds4_chat::json::Json;
use lru::LruCache;
use serde_json::Value;

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

impl Drop for StoredResponse {
    fn drop(&mut self) {
        self.account.fetch_sub(self.bytes, Ordering::Relaxed);
        // One after the other: a conversation may have more responses than the stack has room for.
        let mut next = self.parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.parent.take();
        }
    }
}

/// Responses, as many as fit; those not used for longest go first.
#[derive(Debug)]
pub struct ResponseStore {
    responses: Mutex<LruCache<String, Arc<StoredResponse>>>,
    /// Bytes of all responses that are still held, be it as a beginning of another.
    bytes: Arc<AtomicUsize>,
    most_responses: usize,
    most_bytes: usize,
}

impl ResponseStore {
    /// A store for at most so many responses and bytes.
    pub fn new(most_responses: usize, most_bytes: usize) -> Self {
        Self { responses: Mutex::new(LruCache::unbounded()), bytes: Arc::default(), most_responses, most_bytes }
    }

    /// Keeps a response under its id.
    pub fn insert(
        &self,
        id: String,
        response: Value,
        input: Vec<Arc<Json>>,
        output: Vec<Arc<Json>>,
        parent: Option<Arc<StoredResponse>>,
    ) {
        // In memory a value takes a few times the length of its text.
        const OVERHEAD: usize = 4;
        let items: usize = input.iter().chain(&output).map(|item| text_bytes(item)).sum();
        let bytes = OVERHEAD * (items + response.to_string().len());
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let account = Arc::clone(&self.bytes);
        let stored = Arc::new(StoredResponse { response, input, output, parent, bytes, account });
        let mut responses = self.lock();
        responses.put(id, stored);
        while responses.len() > self.most_responses || self.bytes.load(Ordering::Relaxed) > self.most_bytes {
            if responses.pop_lru().is_none() {
                break;
            }
        }
    }

    /// The response of this id.
    pub fn get(&self, id: &str) -> Option<Arc<StoredResponse>> {
        self.lock().get(id).cloned()
    }

    /// Forgets a response; whether there was one.
    pub fn remove(&self, id: &str) -> bool {
        self.lock().pop(id).is_some()
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
        store.insert(id.to_owned(), json!({ "id": id }), input, output, parent);
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
}
