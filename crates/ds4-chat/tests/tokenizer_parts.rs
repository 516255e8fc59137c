//! Building tokenizers from model metadata and from `tokenizer.json`, and refusing what is inconsistent.

use ds4_chat::special::Special;
use ds4_chat::tokenizer::{Tokenizer, TokenizerError, TokenizerParts};
use serde_json::{Value, json};

/// A small vocabulary: the bytes, a few merges, the required control tokens.
#[derive(Clone)]
struct Small {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
    pre: &'static str,
    model: &'static str,
}

const REQUIRED: [Special; 7] =
    [Special::Bos, Special::Eos, Special::User, Special::Assistant, Special::Think, Special::EndThink, Special::Dsml];

impl Small {
    fn new() -> Self {
        let own = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let symbols = (0..256).filter(own).chain(256..256 + 68).filter_map(char::from_u32);
        let mut tokens: Vec<String> = symbols.map(String::from).collect();
        let merges = ["a b", "ab c", "Ġ a"];
        tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
        let mut types = vec![1; tokens.len()];
        tokens.extend(REQUIRED.iter().map(|special| special.spelling().to_owned()));
        types.resize(tokens.len(), 3);
        Self { tokens, types, merges: merges.map(String::from).to_vec(), pre: "joyai-llm", model: "gpt2" }
    }

    fn id(&self, token: &str) -> u32 {
        self.tokens.iter().position(|other| other == token).expect("a token") as u32
    }

    fn build(&self) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_parts(TokenizerParts {
            tokens: self.tokens.iter().map(String::as_str),
            token_types: self.types.iter().copied(),
            merges: self.merges.iter().map(String::as_str),
            pre: self.pre,
            model: self.model,
        })
    }

    /// The message that a changed copy is refused with.
    fn refused(&self, change: impl FnOnce(&mut Small)) -> String {
        let mut changed = self.clone();
        change(&mut changed);
        changed.build().expect_err("an inconsistent vocabulary").to_string()
    }

    /// The same vocabulary as `tokenizer.json`.
    fn json(&self) -> Value {
        let ids = || (0u32..).zip(self.tokens.iter().zip(&self.types));
        let vocab: serde_json::Map<_, _> =
            ids().filter(|(_, (_, kind))| **kind == 1).map(|(id, (token, _))| (token.clone(), json!(id))).collect();
        let added: Vec<Value> = ids()
            .filter(|(_, (_, kind))| **kind != 1)
            .map(|(id, (token, _))| json!({"id": id, "content": token, "special": true, "normalized": false}))
            .collect();
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let third = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+\
                     | ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
        json!({
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": []},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                split(r"\p{N}{1,3}"),
                split("[一-龥\u{3040}-ゟ゠-ヿ]+"),
                split(third),
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "model": {"type": "BPE", "dropout": null, "byte_fallback": false, "vocab": vocab, "merges": self.merges},
        })
    }
}

fn from_json(json: &Value) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_hf_json(json.to_string().as_bytes())
}

#[test]
fn a_small_vocabulary_encodes_and_decodes() {
    let small = Small::new();
    let tokenizer = small.build().unwrap();
    assert_eq!(tokenizer.vocab_size(), small.tokens.len());
    // The lowest rank goes first: "ab" is merged before "Ġa" could be.
    let ids = ["abc", "Ġ", "ab"].map(|token| small.id(token));
    assert_eq!(tokenizer.encode("abc ab"), ids);
    assert_eq!(tokenizer.decode(&ids), b"abc ab");
    assert_eq!(tokenizer.encode(" ac"), ["Ġa", "c"].map(|token| small.id(token)));
    assert_eq!(tokenizer.special(Special::Think), Some(small.id("<think>")));
    assert_eq!(tokenizer.special(Special::Action), None);
    assert_eq!(tokenizer.encode_with_special("a<think>"), [small.id("a"), small.id("<think>")]);
    assert_eq!(tokenizer.encode("<think>").len(), 7);
}

#[test]
fn of_control_tokens_that_begin_alike_the_longest_is_found() {
    let mut small = Small::new();
    for token in ["<a", "<a>", "<a><b"] {
        small.tokens.push(token.to_owned());
        small.types.push(3);
    }
    let tokenizer = small.build().unwrap();
    let [short, long, longest] = ["<a", "<a>", "<a><b"].map(|token| small.id(token));
    let encoded = tokenizer.encode_with_special("<a<a><a><b<a><a");
    assert_eq!(encoded, [short, long, longest, long, short]);
}

#[test]
fn optional_control_tokens_that_are_missing_are_an_error_of_the_prompt() {
    let tokenizer = Small::new().build().unwrap();
    let mut prompt = ds4_chat::special::Prompt::new();
    prompt.control(Special::Bos).text("x").control(Special::Title);
    let error = tokenizer.encode_prompt(&prompt).unwrap_err();
    assert!(matches!(error, TokenizerError::ControlNotInVocabulary { special: Special::Title }), "{error}");
}

#[test]
fn user_defined_tokens_are_control_tokens() {
    let mut small = Small::new();
    let think = small.id("<think>") as usize;
    small.types[think] = 4;
    assert!(small.build().unwrap().is_control(think as u32));
}

#[test]
fn both_names_of_the_pre_tokenizer_are_known() {
    let mut small = Small::new();
    small.pre = "deepseek-v3";
    assert!(small.build().is_ok());
    let message = small.refused(|small| small.pre = "llama-bpe");
    assert!(message.contains("\"llama-bpe\"") && message.contains("joyai-llm"), "{message}");
    let message = small.refused(|small| small.model = "llama");
    assert!(message.contains("\"llama\"") && message.contains("gpt2"), "{message}");
}

#[test]
fn inconsistent_tokens_are_refused_with_their_id() {
    let small = Small::new();
    let count = small.tokens.len();

    let message = small.refused(|small| small.types.truncate(10));
    assert!(message.contains(&format!("{count} tokens but 10 token types")), "{message}");
    let message = small.refused(|small| small.tokens[5].clear());
    assert_eq!(message, "token 5 is empty");
    let message = small.refused(|small| small.types[7] = 6);
    assert!(message.contains("token 7 (\"(\") has type 6"), "{message}");
    let message = small.refused(|small| small.tokens[256] = "a中".to_owned());
    assert!(message.contains("token 256") && message.contains('中'), "{message}");
    let message = small.refused(|small| small.tokens[256] = "abc".to_owned());
    assert!(message.contains("tokens 256 and 257 are both spelled \"abc\""), "{message}");
    let message = small.refused(|small| small.tokens[32] = "zz".to_owned());
    assert!(message.contains("no token for byte 0x41 (spelled 'A')"), "{message}");
    let message = small.refused(|small| small.types[32] = 3);
    assert!(message.contains("no token for byte 0x41"), "{message}");
    let message = small.refused(|small| small.tokens[256] = "x".repeat(65_536));
    assert!(message.contains("token 256 is 65536 bytes long"), "{message}");
}

#[test]
fn missing_control_tokens_are_refused() {
    let small = Small::new();
    for special in REQUIRED {
        let id = small.id(special.spelling()) as usize;
        let message = small.refused(|small| small.tokens[id] = "<other>".to_owned());
        assert!(message.contains(&format!("no control token {:?}", special.spelling())), "{message}");
    }
    // Spelled right, but typed as an ordinary token.
    let think = small.id("<think>") as usize;
    let message = small.refused(|small| small.types[think] = 1);
    assert!(message.contains("no control token \"<think>\""), "{message}");
}

#[test]
fn messages_show_only_the_beginning_of_a_long_string() {
    let message = Small::new().refused(|small| small.merges[0] = "é".repeat(1_000_000));
    assert!(message.contains("ééé…") && message.len() < 400, "{} bytes", message.len());
}

#[test]
fn inconsistent_merges_are_refused_with_their_index() {
    let small = Small::new();
    let merge = |text: &str| {
        let text = text.to_owned();
        small.refused(|small| small.merges[1] = text)
    };
    for malformed in ["ab", "ab c d", "ab  c", " abc", "abc ", ""] {
        let message = merge(malformed);
        assert!(message.starts_with(&format!("merge 1 ({malformed:?}) is not two tokens")), "{message}");
    }
    assert!(merge("xy c").contains("merge 1 (\"xy c\") refers to \"xy\""), "left");
    assert!(merge("c xy").contains("merge 1 (\"c xy\") refers to \"xy\""), "right");
    assert!(merge("c d").contains("merge 1 (\"c d\") refers to \"cd\""), "joined");
    assert!(merge("<think> c").contains("refers to \"<think>\""), "control token");
    assert!(merge("a b").contains("merges 0 and 1 are both \"a b\""), "twice");
}

#[test]
fn two_merges_may_make_the_same_token() {
    let mut small = Small::new();
    small.tokens.push("bc".to_owned());
    small.types.push(1);
    small.merges.extend(["b c".to_owned(), "a bc".to_owned()]);
    let tokenizer = small.build().unwrap();
    assert_eq!(tokenizer.encode("abc"), [small.id("abc")]);
}

#[test]
fn tokenizer_json_gives_the_same_tokenizer() {
    let small = Small::new();
    let tokenizer = from_json(&small.json()).unwrap();
    assert_eq!(tokenizer.vocab_size(), small.tokens.len());
    assert_eq!(tokenizer.encode("abc ab"), small.build().unwrap().encode("abc ab"));

    // Merges as pairs, and control tokens listed in the vocabulary, too.
    let mut json = small.json();
    let pairs: Vec<Value> = small.merges.iter().map(|merge| merge.split(' ').collect()).collect();
    json["model"]["merges"] = pairs.into();
    json["model"]["vocab"]["<think>"] = small.id("<think>").into();
    let tokenizer = from_json(&json).unwrap();
    assert_eq!(tokenizer.encode("abc ab"), small.build().unwrap().encode("abc ab"));
    assert!(tokenizer.is_control(small.id("<think>")));
}

#[test]
fn tokenizer_json_of_another_kind_is_refused() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 14] = [
        ("BPE", |json| json["model"]["type"] = "Unigram".into()),
        ("dropout", |json| json["model"]["dropout"] = 0.1.into()),
        ("byte fallback", |json| json["model"]["byte_fallback"] = true.into()),
        ("ignores merges", |json| json["model"]["ignore_merges"] = true.into()),
        ("end_of_word_suffix", |json| json["model"]["end_of_word_suffix"] = "</w>".into()),
        ("normalizer", |json| json["normalizer"] = json!({"type": "NFC"})),
        ("pre-tokenizer", |json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}".into()),
        ("pre-tokenizer", |json| json["pre_tokenizer"]["pretokenizers"][1]["behavior"] = "Removed".into()),
        ("pre-tokenizer", |json| json["pre_tokenizer"]["pretokenizers"][3]["add_prefix_space"] = true.into()),
        ("pre-tokenizer", |json| json["pre_tokenizer"] = json!({"type": "ByteLevel", "use_regex": true})),
        ("strips", |json| json["added_tokens"][0]["lstrip"] = true.into()),
        ("is both", |json| json["added_tokens"][0]["id"] = 3.into()),
        ("no token has id 256", |json| json["model"]["vocab"]["ab"] = 257.into()),
        ("there are only", |json| json["model"]["vocab"]["ab"] = u32::MAX.into()),
    ];
    for (expected, change) in changes {
        let mut json = Small::new().json();
        change(&mut json);
        let message = from_json(&json).unwrap_err().to_string();
        assert!(message.contains(expected) || message.contains("is both"), "{expected}: {message}");
    }
}

#[test]
fn tokenizer_json_that_is_damaged_is_refused() {
    let whole = Small::new().json().to_string();
    for length in (0..whole.len()).step_by(97) {
        let Some(cut) = whole.get(..length) else { continue };
        assert!(matches!(Tokenizer::from_hf_json(cut.as_bytes()), Err(TokenizerError::Json(_))), "cut at {length}");
    }
    // One token twice with different ids: a map would silently keep one of them.
    let twice = whole.replacen("\"vocab\":{", "\"vocab\":{\"a\":300,", 1);
    assert!(Tokenizer::from_hf_json(twice.as_bytes()).is_err());
}

/// The published vocabulary as llama.cpp's converter writes it gives the tokenizer that is embedded.
#[test]
fn the_published_vocabulary_as_gguf_metadata_is_the_embedded_one() {
    let json = ds4_testdata::json("tokenizer/tokenizer.json");
    let official = Tokenizer::official().unwrap();
    let mut tokens = vec![""; official.vocab_size()];
    let mut types = vec![1; tokens.len()];
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize] = token;
    }
    for token in json["added_tokens"].as_array().unwrap() {
        let id = token["id"].as_u64().unwrap() as usize;
        tokens[id] = token["content"].as_str().unwrap();
        types[id] = if token["special"] == true { 3 } else { 4 };
    }
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(|merge| merge.as_str().unwrap());
    let parts = TokenizerParts { tokens, token_types: types, merges, pre: "joyai-llm", model: "gpt2" };
    let tokenizer = Tokenizer::from_parts(parts).unwrap();
    for case in ds4_testdata::json("tokenizer/tokenize.json")["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text), official.encode(text), "{text:?}");
        assert_eq!(tokenizer.encode_with_special(text), official.encode_with_special(text), "{text:?}");
    }
}
