//! Any bytes as a `tokenizer.json`: a vocabulary or a sentence; an accepted vocabulary decodes what it encodes.

#![no_main]

use ds4_chat::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Tokenizer::from_hf_json(bytes) {
        Ok(tokenizer) => {
            let text = "fn main() { 12345 } <think> カ\u{30FB}カ\r\n\0";
            assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text.as_bytes());
        }
        Err(error) => assert!(error.to_string().len() < 2000),
    }
});
