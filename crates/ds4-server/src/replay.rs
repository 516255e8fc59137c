//! The tokens that the model sampled for earlier turns, for when clients send these turns back.
//!
//! Clients write tool arguments anew (other spacing, escapes and number spellings), drop blank text, and some drop the
//! reasoning. Rendering what they send would give other tokens than the model chose, and everything cached from there
//! on would be lost. So a turn is kept under the ids of its calls and under an id of its own, and when one
//! of these comes back *with the same content*, the sampled tokens take the place of the rendering. A client that has
//! edited its history gets what it wrote.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ds4_chat::conversation::{AssistantMessage, Conversation, Message, Replay, ToolCall};
use ds4_chat::json::Json;
use ds4_kvstore::KvStore;
use lru::LruCache;
use serde_json::{Value, json};

/// A turn that the model sampled and a client was given.
#[derive(Clone, Debug, Default)]
pub struct SampledTurn {
    /// Whether it began with reasoning.
    pub thinking: bool,
    /// Its tokens, as [`Replay`] wants them.
    pub tokens: Vec<u32>,
    /// The reasoning that the client was given.
    pub reasoning: String,
    /// The answer that the client was given.
    pub text: String,
    /// The calls that the client was given, with their ids.
    pub calls: Vec<ToolCall>,
}

impl SampledTurn {
    fn bytes(&self) -> usize {
        let calls: usize = self.calls.iter().map(|call| call.name.len() + call.arguments.len() + 200).sum();
        self.tokens.len() * 4 + self.reasoning.len() + self.text.len() + calls + 500
    }

    fn to_json(&self) -> Value {
        let call = |call: &ToolCall| json!({ "id": call.id, "name": call.name, "arguments": call.arguments });
        json!({
            "thinking": self.thinking,
            "tokens": self.tokens,
            "reasoning": self.reasoning,
            "text": self.text,
            "calls": self.calls.iter().map(call).collect::<Vec<_>>(),
        })
    }

    /// What [`to_json`](Self::to_json) wrote. Anything else is no turn.
    fn from_json(json: &Value, n_vocab: usize) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let token = |value: &Value| u32::try_from(value.as_u64()?).ok().filter(|&token| (token as usize) < n_vocab);
        let call = |call: &Value| {
            let (name, arguments) = (text(&call["name"])?, text(&call["arguments"])?);
            Some(ToolCall { id: text(&call["id"]), name, arguments })
        };
        Some(Self {
            thinking: json["thinking"].as_bool()?,
            tokens: json["tokens"].as_array()?.iter().map(token).collect::<Option<_>>()?,
            reasoning: text(&json["reasoning"])?,
            text: text(&json["text"])?,
            calls: json["calls"].as_array()?.iter().map(call).collect::<Option<_>>()?,
        })
    }

    /// Whether `message` is this turn as a client sends it back. Blanks around the text and the reasoning do not count,
    /// and the reasoning may be missing.
    fn is_told_by(&self, message: &AssistantMessage) -> bool {
        let reasoning = message.reasoning.trim();
        (reasoning.is_empty() || reasoning == self.reasoning.trim())
            && message.content.to_text().trim() == self.text.trim()
            && message.tool_calls.len() == self.calls.len()
            && message.tool_calls.iter().zip(&self.calls).all(|(told, given)| is_same_call(told, given))
    }
}

fn is_same_call(told: &ToolCall, given: &ToolCall) -> bool {
    // Some clients' items have ids of their own; then the one by which the turn was found is enough.
    if told.name != given.name {
        return false;
    }
    match (Json::parse_python(&told.arguments), Json::parse_python(&given.arguments)) {
        (Ok(told), Ok(given)) => is_same_data(&told, &given),
        (Err(_), Err(_)) => told.arguments == given.arguments,
        _ => false,
    }
}

/// Equality of data to JavaScript: all numbers are 64-bit floats there, so `2.0` comes back as `2`, and a large integer
/// comes back rounded.
fn is_same_data(left: &Json, right: &Json) -> bool {
    match (left, right) {
        (Json::Number(left), Json::Number(right)) => {
            left == right
                || matches!((left.parse::<f64>(), right.parse::<f64>()), (Ok(left), Ok(right)) if left == right)
        }
        (Json::Array(left), Json::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same_data(left, right))
        }
        (Json::Object(left), Json::Object(right)) => {
            let others: HashMap<&str, &Json> = right.iter().map(|(key, value)| (key.as_str(), value)).collect();
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, value)| others.get(key.as_str()).is_some_and(|other| is_same_data(value, other)))
        }
        _ => left == right,
    }
}

/// Sampled turns, as many as fit; those not used for longest go first.
pub struct ReplayStore {
    inner: Mutex<Inner>,
    most_turns: usize,
    most_bytes: usize,
    kept: Option<Kept>,
}

/// Turns beyond this process.
struct Kept {
    store: KvStore,
    /// Spaces of the store's facts: turns by id, ids of turns by those of their calls. They have the model in their names, for
    /// whose tokens mean nothing to another.
    turns: String,
    calls: String,
    n_vocab: usize,
}

struct Inner {
    turns: LruCache<String, Arc<SampledTurn>>,
    /// Turn of each call id.
    calls: HashMap<String, String>,
    bytes: usize,
}

impl ReplayStore {
    /// A store for at most so many turns and bytes.
    pub fn new(most_turns: usize, most_bytes: usize) -> Self {
        let inner = Inner { turns: LruCache::unbounded(), calls: HashMap::new(), bytes: 0 };
        Self { inner: Mutex::new(inner), most_turns, most_bytes, kept: None }
    }

    /// The same, with turns kept in `store` for the model with this fingerprint and vocabulary.
    pub fn kept_in(self, store: Option<KvStore>, fingerprint: &str, n_vocab: usize) -> Self {
        let kept = store.map(|store| Kept {
            store,
            turns: format!("turns of {fingerprint}"),
            calls: format!("calls of {fingerprint}"),
            n_vocab,
        });
        Self { kept, ..self }
    }

    /// Keeps a turn under `id` and the ids of its calls.
    pub fn insert(&self, id: String, turn: SampledTurn) {
        if let Some(kept) = &self.kept {
            kept.keep(&id, &turn);
        }
        self.remember(id, turn);
    }

    fn remember(&self, id: String, turn: SampledTurn) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.bytes += turn.bytes();
        for call in &turn.calls {
            if let Some(call_id) = &call.id {
                inner.calls.insert(call_id.clone(), id.clone());
            }
        }
        if let Some(replaced) = inner.turns.put(id, Arc::new(turn)) {
            inner.forget(&replaced);
        }
        while inner.turns.len() > self.most_turns || inner.bytes > self.most_bytes {
            let Some((_, oldest)) = inner.turns.pop_lru() else { break };
            inner.forget(&oldest);
        }
    }

    /// Number of turns that are kept.
    pub fn len(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).turns.len()
    }

    /// Whether no turn is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The turn of this id, be it its own or that of one of its calls.
    pub fn get(&self, id: &str) -> Option<Arc<SampledTurn>> {
        self.remembered(id).or_else(|| {
            let (id, turn) = self.kept.as_ref()?.find(id)?;
            self.remember(id.clone(), turn);
            self.remembered(&id)
        })
    }

    fn remembered(&self, id: &str) -> Option<Arc<SampledTurn>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        let turn = inner.calls.get(id).map_or(id, String::as_str);
        inner.turns.get(turn).cloned()
    }

    /// Puts sampled tokens into the assistant messages of `conversation` that tell a kept turn. `turn_ids`: what clients
    /// sent of turns' own ids, with the index of the message. `thinking`: whether the prompt is for thinking mode; in
    /// chat mode no reasoning is shown to the model, so turns that have some are rendered.
    ///
    /// Returns the number of turns that are replayed.
    pub fn apply(&self, conversation: &mut Conversation, turn_ids: &[(usize, String)], thinking: bool) -> usize {
        let turn_ids: HashMap<usize, &str> = turn_ids.iter().map(|(index, id)| (*index, id.as_str())).collect();
        let mut replayed = 0;
        for (index, message) in conversation.messages.iter_mut().enumerate() {
            let Message::Assistant(message) = message else { continue };
            let call_id = message.tool_calls.first().and_then(|call| call.id.as_deref());
            let turn = turn_ids.get(&index).copied().into_iter().chain(call_id).find_map(|id| self.get(id));
            if let Some(turn) = turn
                && (thinking || !turn.thinking)
                && turn.is_told_by(message)
            {
                message.replay = Some(Replay { thinking: turn.thinking, tokens: turn.tokens.clone() });
                replayed += 1;
            }
        }
        replayed
    }
}

impl Kept {
    fn keep(&self, id: &str, turn: &SampledTurn) {
        self.store.put_fact(&self.turns, id.as_bytes(), turn.to_json().to_string().as_bytes());
        for call in turn.calls.iter().filter_map(|call| call.id.as_ref()) {
            self.store.put_fact(&self.calls, call.as_bytes(), id.as_bytes());
        }
    }

    /// The turn of this id or call, with its own id.
    fn find(&self, id: &str) -> Option<(String, SampledTurn)> {
        let of_call = self.store.fact(&self.calls, id.as_bytes()).and_then(|turn| String::from_utf8(turn).ok());
        let id = of_call.unwrap_or_else(|| id.to_owned());
        let json = serde_json::from_slice(&self.store.fact(&self.turns, id.as_bytes())?).ok()?;
        Some((id, SampledTurn::from_json(&json, self.n_vocab)?))
    }
}

impl Inner {
    /// Accounts for a turn that has left.
    fn forget(&mut self, turn: &SampledTurn) {
        self.bytes = self.bytes.saturating_sub(turn.bytes());
        for call_id in turn.calls.iter().filter_map(|call| call.id.as_ref()) {
            self.calls.remove(call_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use ds4_chat::conversation::Content;

    use super::*;

    fn call(id: &str, arguments: &str) -> ToolCall {
        ToolCall { id: Some(id.to_owned()), name: "f".to_owned(), arguments: arguments.to_owned() }
    }

    fn turn(id: &str, arguments: &str) -> SampledTurn {
        SampledTurn {
            thinking: true,
            tokens: vec![1, 2, 3],
            reasoning: "Hm.".to_owned(),
            text: "Well.".to_owned(),
            calls: vec![call(id, arguments)],
        }
    }

    fn told(reasoning: &str, text: &str, id: &str, arguments: &str) -> Conversation {
        let message = AssistantMessage {
            reasoning: reasoning.to_owned(),
            content: Content::text(text),
            tool_calls: vec![call(id, arguments)],
            ..AssistantMessage::default()
        };
        Conversation { messages: vec![Message::user("x"), Message::Assistant(message)], ..Conversation::default() }
    }

    #[test]
    fn a_turn_is_replayed_if_it_is_told_as_it_was_given() {
        let store = ReplayStore::new(10, 1 << 20);
        store.insert("t".to_owned(), turn("a", r#"{"x": 2.0, "y": "\u00e9", "n": 12345678901234567890}"#));
        let same = r#"{"y":"é","n":12345678901234567000,"x":2}"#;
        let cases = [
            ("Hm.", "Well.", "a", same, 1),
            ("", "Well.\n", "a", same, 1),
            ("Hm. I see.", "Well.", "a", same, 0),
            ("Hm.", "Well, no.", "a", same, 0),
            ("Hm.", "", "a", same, 0),
            ("Hm.", "Well.", "b", same, 0),
            ("Hm.", "Well.", "a", r#"{"y":"é","n":12345678901234567000,"x":3}"#, 0),
            ("Hm.", "Well.", "a", r#"{"y":"é","n":12345678901234567000}"#, 0),
            ("Hm.", "Well.", "a", "no JSON", 0),
        ];
        for (reasoning, text, id, arguments, expected) in cases {
            let mut conversation = told(reasoning, text, id, arguments);
            let replayed = store.apply(&mut conversation, &[], true);
            assert_eq!(replayed, expected, "{reasoning:?} {text:?} {id} {arguments}");
        }
        let mut conversation = told("Hm.", "Well.", "foreign", same);
        assert_eq!(store.apply(&mut conversation, &[(1, "t".to_owned())], true), 1, "found by its own id");
        assert_eq!(store.apply(&mut told("Hm.", "Well.", "a", same), &[], false), 0, "chat mode shows no reasoning");
    }

    #[test]
    fn the_store_stays_within_its_bounds() {
        let store = ReplayStore::new(3, 1 << 20);
        for index in 0..5 {
            store.insert(format!("t{index}"), turn(&format!("c{index}"), "{}"));
            store.get("c0");
        }
        assert_eq!(store.len(), 3);
        let kept: Vec<bool> = (0..5).map(|index| store.get(&format!("c{index}")).is_some()).collect();
        assert_eq!(kept, [true, false, false, true, true], "what is used stays");
        assert_eq!(store.inner.lock().expect("not poisoned").calls.len(), 3);

        let small = ReplayStore::new(100, 2 * turn("c0", "{}").bytes());
        for index in 0..5 {
            small.insert(format!("t{index}"), turn(&format!("c{index}"), "{}"));
        }
        assert_eq!(small.len(), 2);
        small.insert("huge".to_owned(), SampledTurn { tokens: vec![0; 1 << 16], ..SampledTurn::default() });
        assert!(small.is_empty(), "what does not fit at all is not kept");
        assert_eq!(small.inner.lock().expect("not poisoned").bytes, 0);
    }

    #[test]
    fn kept_turns_outlive_the_process_for_the_same_model() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || KvStore::open(ds4_kvstore::StoreOptions::new(folder.path(), 1 << 20)).expect("a usable folder");
        let turns = |store: &KvStore, fingerprint: &str, n_vocab| {
            ReplayStore::new(10, 1 << 20).kept_in(Some(store.clone()), fingerprint, n_vocab)
        };
        let turn = SampledTurn {
            thinking: true,
            tokens: vec![1, 99, 3],
            reasoning: "why".to_owned(),
            text: "so\n\u{1F600}".to_owned(),
            calls: vec![call("c", "{\"a\": 1}")],
        };
        {
            let store = open();
            turns(&store, "m", 100).insert("t".to_owned(), turn.clone());
        }
        let store = open();
        let again = turns(&store, "m", 100);
        for id in ["t", "c"] {
            let found = again.get(id).expect("kept");
            assert_eq!((&found.tokens, &found.text), (&turn.tokens, &turn.text), "{id}");
            assert_eq!(found.calls[0].arguments, turn.calls[0].arguments);
        }
        assert!(turns(&store, "other", 100).get("t").is_none(), "another model's tokens mean nothing");
        assert!(turns(&store, "m", 99).get("t").is_none(), "nor do tokens that it does not have");
    }
}
