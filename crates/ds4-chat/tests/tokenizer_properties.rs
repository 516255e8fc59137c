//! What must hold for every text, every id sequence and every vocabulary.

use std::collections::HashMap;
use std::sync::LazyLock;

use ds4_chat::special::Special;
use ds4_chat::tokenizer::{StreamDecoder, Tokenizer, TokenizerParts};
use proptest::prelude::*;

static OFFICIAL: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::official().expect("the embedded vocabulary"));

/// Text from every corner of Unicode, with the sequences that the tokenizer treats specially.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>().prop_map(String::from),
        "[ \t\r\n]{1,4}",
        "[a-zA-Z]{1,12}",
        "[!-/:-@\\[-`{-~]{1,3}",
        "[0-9]{1,5}",
        "[一-龥ぁ-ヿ]{1,4}",
        "[\u{300}-\u{36f}\u{80}-\u{ff}\u{2000}-\u{206f}]{1,3}",
        prop::sample::select(Special::ALL.to_vec()).prop_map(|special| special.spelling().to_owned()),
        (prop::sample::select(Special::ALL.to_vec()), 0..30usize).prop_map(|(special, skip)| special
            .spelling()
            .chars()
            .skip(skip)
            .collect()),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// Merges one word the slow way, straight from the definition.
fn naive_merge(word: &str, ranks: &HashMap<(String, String), usize>) -> Vec<String> {
    let mut parts: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let pairs = parts.windows(2).enumerate();
        let ranked = pairs.filter_map(|(at, pair)| Some((*ranks.get(&(pair[0].clone(), pair[1].clone()))?, at)));
        let Some((_, at)) = ranked.min() else { return parts };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
}

/// Merges over four letters, in an order that need not make sense, as a damaged or hostile file could have it.
fn merges() -> impl Strategy<Value = Vec<(String, String)>> {
    let choices = prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..40);
    let merges = choices.prop_map(|choices| {
        let mut tokens: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
        let mut merges = Vec::new();
        for (left, right) in choices {
            let merge = (left.get(&tokens).clone(), right.get(&tokens).clone());
            let joined = format!("{}{}", merge.0, merge.1);
            if joined.len() <= 200 && !merges.contains(&merge) {
                merges.push(merge);
                if !tokens.contains(&joined) {
                    tokens.push(joined);
                }
            }
        }
        merges
    });
    merges.prop_shuffle()
}

/// A vocabulary of the bytes, what the merges make, and the required control tokens.
fn build(merges: &[(String, String)]) -> Tokenizer {
    let own = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let symbols = (0..256).filter(own).chain(256..256 + 68).filter_map(char::from_u32);
    let mut tokens: Vec<String> = symbols.map(String::from).collect();
    for (left, right) in merges {
        let joined = format!("{left}{right}");
        if !tokens.contains(&joined) {
            tokens.push(joined);
        }
    }
    let ordinary = tokens.len();
    tokens.extend(Special::ALL.iter().map(|special| special.spelling().to_owned()));
    let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    Tokenizer::from_parts(TokenizerParts {
        tokens: tokens.iter().map(String::as_str),
        token_types: (0..tokens.len()).map(|id| if id < ordinary { 1 } else { 3 }),
        merges: merges.iter().map(String::as_str),
        pre: "joyai-llm",
        model: "gpt2",
    })
    .expect("a consistent vocabulary")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn decoding_gives_back_what_was_encoded(text in text()) {
        let ids = OFFICIAL.encode(&text);
        prop_assert_eq!(OFFICIAL.decode(&ids), text.as_bytes());
        prop_assert!(!ids.iter().any(|&id| OFFICIAL.is_control(id)), "plain text never makes a control token");
        let ids = OFFICIAL.encode_with_special(&text);
        prop_assert_eq!(OFFICIAL.decode(&ids), text.as_bytes());
    }

    #[test]
    fn streaming_gives_the_text_of_the_whole(ids in prop::collection::vec(prop_oneof![0..300u32, 0..129_300u32], 0..60)) {
        let mut decoder = StreamDecoder::new(&*OFFICIAL);
        let mut streamed = String::new();
        for (count, &id) in ids.iter().enumerate() {
            streamed += &decoder.push(id);
            // What is held back is one unfinished character, nothing more.
            let so_far = OFFICIAL.decode_lossy(&ids[..=count]);
            let held = so_far.strip_prefix(streamed.as_str()).expect("a prefix of the text");
            prop_assert!(held.is_empty() || held == "\u{fffd}", "{:?} is held back", held);
        }
        streamed += &decoder.finish();
        prop_assert_eq!(streamed, OFFICIAL.decode_lossy(&ids));
    }

    #[test]
    fn any_vocabulary_merges_as_defined(merges in merges(), words in prop::collection::vec("[a-d]{1,100}", 1..6)) {
        let tokenizer = build(&merges);
        let ranks = merges.into_iter().enumerate().map(|(rank, merge)| (merge, rank)).collect();
        // Twice: the second time the short words come from the cache.
        for word in words.iter().chain(&words) {
            let encoded = tokenizer.encode(word);
            let spelled: Vec<_> = encoded.iter().map(|&id| String::from_utf8_lossy(tokenizer.token_bytes(id))).collect();
            prop_assert_eq!(spelled, naive_merge(word, &ranks), "{}", word);
        }
    }

    #[test]
    fn control_tokens_are_cut_out_leftmost_and_longest(text in text()) {
        // The slow way: at every position, the longest spelling that begins there.
        let added: Vec<(u32, &str)> = (0..OFFICIAL.vocab_size() as u32)
            .filter(|&id| OFFICIAL.is_control(id))
            .map(|id| (id, std::str::from_utf8(OFFICIAL.token_bytes(id)).expect("control tokens are text")))
            .collect();
        let (mut expected, mut plain) = (Vec::new(), 0);
        let mut at = 0;
        while at < text.len() {
            let rest = text.as_bytes()[at..].iter().as_slice();
            let here = added.iter().filter(|(_, spelling)| rest.starts_with(spelling.as_bytes()));
            match here.max_by_key(|(_, spelling)| spelling.len()) {
                Some((id, spelling)) => {
                    expected.extend(OFFICIAL.encode(&text[plain..at]));
                    expected.push(*id);
                    at += spelling.len();
                    plain = at;
                }
                None => at += 1,
            }
        }
        expected.extend(OFFICIAL.encode(&text[plain..]));
        prop_assert_eq!(OFFICIAL.encode_with_special(&text), expected);
    }
}
