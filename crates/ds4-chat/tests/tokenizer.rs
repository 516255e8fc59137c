//! The official tokenizer against golden vectors of the reference implementation.

use std::sync::{Arc, LazyLock};

use ds4_chat::special::{Prompt, Special};
use ds4_chat::tokenizer::{StreamDecoder, Tokenizer, TokenizerError};
use serde_json::Value;

static OFFICIAL: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::official().expect("the embedded vocabulary"));

fn cases(rel: &str) -> Vec<Value> {
    let mut file = ds4_testdata::json(rel);
    let Value::Array(cases) = file["cases"].take() else { panic!("{rel} has no cases") };
    assert!(!cases.is_empty());
    cases
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list of ids").iter();
    ids.map(|id| u32::try_from(id.as_u64().expect("an id")).expect("an id")).collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits")).collect()
}

#[test]
fn encodes_like_the_reference() {
    for case in cases("tokenizer/tokenize.json") {
        let (name, input) = (text(&case["id"]), text(&case["text"]));
        let expected = ids(&case["ids"]);
        assert_eq!(OFFICIAL.encode(input), expected, "{name}: {input:?}");
        assert_eq!(OFFICIAL.decode(&expected), input.as_bytes(), "{name}");
        let with_special = case.get("ids_special").map_or(expected, ids);
        assert_eq!(OFFICIAL.encode_with_special(input), with_special, "{name}, control tokens honoured: {input:?}");
    }
}

#[test]
fn encodes_large_inputs_like_the_reference() {
    for case in cases("tokenizer/tokenize_big.json") {
        let name = text(&case["id"]);
        let input = match case.get("text") {
            Some(whole) => text(whole).to_owned(),
            None => text(&case["unit"]).repeat(case["repeat"].as_u64().expect("a count") as usize),
        };
        let encoded = OFFICIAL.encode(&input);
        assert_eq!(encoded.len() as u64, case["n_ids"].as_u64().expect("a count"), "{name}");
        assert!(encoded.starts_with(&ids(&case["head"])), "{name}");
        assert!(encoded.ends_with(&ids(&case["tail"])), "{name}");
        let bytes: Vec<u8> = encoded.iter().flat_map(|id| id.to_le_bytes()).collect();
        assert_eq!(sha256(&bytes), text(&case["ids_u32le_sha256"]), "{name}");
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn decodes_like_the_reference() {
    for case in cases("tokenizer/decode.json") {
        let (name, input) = (text(&case["id"]), ids(&case["ids"]));
        assert_eq!(OFFICIAL.decode(&input), unhex(text(&case["bytes_hex"])), "{name}");
        assert_eq!(OFFICIAL.decode_lossy(&input), text(&case["lossy"]), "{name}");
        let mut decoder = StreamDecoder::new(&*OFFICIAL);
        let steps = case["stream"].as_array().expect("a step per id");
        assert_eq!(steps.len(), input.len(), "{name}");
        for (&id, expected) in input.iter().zip(steps) {
            assert_eq!(decoder.push(id), text(expected), "{name}, after {id}");
        }
        assert_eq!(decoder.finish(), text(&case["stream_flush"]), "{name}");
        assert_eq!(decoder.finish(), "", "{name}: nothing is left");
    }
}

#[test]
fn control_tokens_have_their_published_ids() {
    let expected = [
        (Special::Bos, 0),
        (Special::Eos, 1),
        (Special::User, 128_803),
        (Special::Assistant, 128_804),
        (Special::Think, 128_821),
        (Special::EndThink, 128_822),
        (Special::Dsml, 128_825),
        (Special::LatestReminder, 128_828),
        (Special::Action, 128_829),
        (Special::Query, 128_830),
        (Special::Authority, 128_831),
        (Special::Domain, 128_832),
        (Special::Title, 128_836),
        (Special::ReadUrl, 128_845),
    ];
    assert_eq!(expected.map(|(special, _)| special), Special::ALL);
    for (special, id) in expected {
        assert_eq!(OFFICIAL.special(special), Some(id));
        assert_eq!(OFFICIAL.special_of(id), Some(special));
        assert_eq!(OFFICIAL.token_bytes(id), special.spelling().as_bytes());
    }
    assert_eq!(OFFICIAL.vocab_size(), 129_280);
    let control = (0..OFFICIAL.vocab_size() as u32).filter(|&id| OFFICIAL.is_control(id)).count();
    assert_eq!(control, 1283);
    assert_eq!(OFFICIAL.special_of(2), None);
    assert!(OFFICIAL.is_control(2) && !OFFICIAL.is_control(3) && !OFFICIAL.is_control(129_280));
}

#[test]
fn prompts_keep_control_tokens_and_look_alikes_apart() {
    let mut prompt = Prompt::new();
    prompt.control(Special::Bos).text("<｜User").text("｜>").control(Special::User).text("a b").tokens([5, 128_822]);
    let encoded = OFFICIAL.encode_prompt(&prompt).unwrap();
    assert_eq!(encoded, [&[0, 30, 28217, 6756, 28217, 32, 128_803], &*OFFICIAL.encode("a b"), &[5, 128_822]].concat());
}

#[test]
fn replayed_ids_outside_the_vocabulary_are_refused() {
    let mut prompt = Prompt::new();
    prompt.text("x").tokens([5, 129_280]);
    let error = OFFICIAL.encode_prompt(&prompt).unwrap_err();
    assert!(matches!(error, TokenizerError::IdNotInVocabulary { id: 129_280, size: 129_280 }), "{error}");
}

#[test]
fn ids_outside_the_vocabulary_decode_to_nothing() {
    assert_eq!(OFFICIAL.token_bytes(u32::MAX), b"");
    assert_eq!(OFFICIAL.decode(&[129_280, 90, u32::MAX]), b"x");
    assert_eq!(StreamDecoder::new(&*OFFICIAL).push(u32::MAX), "");
}

#[test]
fn the_embedded_vocabulary_is_the_published_one() {
    let published = Tokenizer::from_hf_json(&ds4_testdata::bytes("tokenizer/tokenizer.json")).unwrap();
    assert_eq!(published.vocab_size(), OFFICIAL.vocab_size());
    for id in 0..published.vocab_size() as u32 {
        assert_eq!(published.token_bytes(id), OFFICIAL.token_bytes(id), "token {id}");
        assert_eq!(published.is_control(id), OFFICIAL.is_control(id), "token {id}");
    }
    for case in cases("tokenizer/tokenize.json") {
        assert_eq!(published.encode(text(&case["text"])), ids(&case["ids"]), "{}", case["id"]);
    }
}

#[test]
fn calls_from_several_threads_give_the_same_ids() {
    let tokenizer = Arc::new(Tokenizer::official().unwrap());
    let cases = Arc::new(cases("tokenizer/tokenize.json"));
    let threads: Vec<_> = (0..4)
        .map(|start| {
            let (tokenizer, cases) = (Arc::clone(&tokenizer), Arc::clone(&cases));
            std::thread::spawn(move || {
                for case in cases.iter().cycle().skip(start * 50).take(cases.len()) {
                    assert_eq!(tokenizer.encode(text(&case["text"])), ids(&case["ids"]), "{}", case["id"]);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
