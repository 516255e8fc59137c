//! A tokenizer as the arrays that model files carry: the way back from [`TokenizerParts`](super::TokenizerParts).

use super::Tokenizer;
use super::byte_symbol;

/// Types of the tokens that llama.cpp's converter marks as user-defined; all other added tokens are control tokens.
const USER_DEFINED: [&str; 6] = ["<think>", "</think>", "｜DSML｜", "<dsml:", "</dsml:", "<｜/table>｜"];

/// The arrays of GGUF metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerArrays {
    /// `tokenizer.ggml.tokens`: the spelling of each id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type` of each id: 1 normal, 3 control, 4 user-defined.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges` by rank.
    pub merges: Vec<String>,
}

impl Tokenizer {
    /// The vocabulary as arrays, from which [`Tokenizer::from_parts`] makes an equal tokenizer.
    pub fn to_arrays(&self) -> TokenizerArrays {
        let symbols: Vec<char> = (0..=255).map(byte_symbol::symbol_of).collect();
        let spelled = |id: u32| -> String {
            let bytes = self.token_bytes(id);
            match self.is_control(id) {
                true => String::from_utf8_lossy(bytes).into_owned(),
                false => bytes.iter().map(|&byte| symbols[usize::from(byte)]).collect(),
            }
        };
        let tokens: Vec<String> = (0..self.vocab_size() as u32).map(spelled).collect();
        let token_types = tokens
            .iter()
            .zip(0..)
            .map(|(token, id)| match self.is_control(id) {
                false => 1,
                true if USER_DEFINED.contains(&token.as_str()) => 4,
                true => 3,
            })
            .collect();
        let merges = self
            .merges
            .pairs_by_rank()
            .into_iter()
            .map(|(left, right)| format!("{} {}", tokens[left as usize], tokens[right as usize]))
            .collect();
        TokenizerArrays { tokens, token_types, merges }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TokenizerParts;
    use super::*;

    #[test]
    fn the_official_vocabulary_survives_the_way_out_and_in() {
        let official = Tokenizer::official().unwrap();
        let arrays = official.to_arrays();
        assert_eq!((arrays.tokens.len(), arrays.merges.len()), (129_280, 127_741));
        let count = |ty| arrays.token_types.iter().filter(|&&t| t == ty).count();
        assert_eq!((count(1), count(3), count(4)), (127_997, 1_277, 6));
        let again = Tokenizer::from_parts(TokenizerParts {
            tokens: arrays.tokens.iter().map(String::as_str),
            token_types: arrays.token_types.iter().copied(),
            merges: arrays.merges.iter().map(String::as_str),
            pre: "joyai-llm",
            model: "gpt2",
        })
        .unwrap();
        assert_eq!(again.to_arrays(), arrays);
        let text = "fn main() { println!(\"héllo, 世界 1234567\"); }\r\n\tカ・カ <｜User｜>";
        assert_eq!(again.encode(text), official.encode(text));
        assert_eq!(again.encode_with_special(text), official.encode_with_special(text));
    }
}
