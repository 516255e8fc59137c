//! Following texts through grammars, token by token with the model's own vocabulary.

#![allow(dead_code)] // each test binary uses some of it

use std::sync::{Arc, LazyLock};

use ds4_chat::json::Json;
use ds4_chat::special::{Prompt, Special};
use ds4_chat::tokenizer::Tokenizer;
use ds4_grammar::{Grammar, Grammars};

pub static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::official().expect("the embedded vocabulary")));
pub static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| Grammars::new(Arc::clone(&TOKENIZER)));

pub fn schema(text: &str) -> Json {
    Json::parse(text).expect(text)
}

/// Tokens of a text in which `{D}` is the DSML token.
pub fn tokens(text: &str) -> Vec<u32> {
    let mut prompt = Prompt::new();
    for (index, part) in text.split("{D}").enumerate() {
        if index > 0 {
            prompt.control(Special::Dsml);
        }
        prompt.text(part);
    }
    TOKENIZER.encode_prompt(&prompt).expect("a known control token")
}

/// Whether the grammar lets `text` pass, and how it ends: `Ok` if the grammar may end there, `Err` with what was left where not.
pub fn follow(grammar: &Grammar, text: &str) -> Result<(), String> {
    let mut matcher = grammar.matcher();
    let tokens = tokens(text);
    for (index, &token) in tokens.iter().enumerate() {
        if !matcher.allowed().allows(token) {
            return Err(TOKENIZER.decode_lossy(&tokens[index..]));
        }
        matcher.accept(token);
        assert_eq!(matcher.failure(), None, "{text}");
    }
    let eos = TOKENIZER.special(Special::Eos).expect("always there");
    if matcher.is_complete() || matcher.allowed().allows(eos) { Ok(()) } else { Err(String::new()) }
}

#[track_caller]
pub fn passes(grammar: &Grammar, text: &str) {
    assert_eq!(follow(grammar, text), Ok(()), "{text}");
}

#[track_caller]
pub fn stops(grammar: &Grammar, text: &str) {
    assert!(follow(grammar, text).is_err(), "{text}");
}
