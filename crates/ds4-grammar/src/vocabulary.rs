//! The tokenizer's vocabulary, as grammars see it.

use std::sync::Arc;

use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;
use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

/// Longest token that the trie takes, in bytes.
const LONGEST: usize = 1_000;

/// Most bytes of all tokens together: a node of the trie each at worst, of which it takes four million.
const MOST_BYTES: usize = 4_000_000;

/// A vocabulary in a trie of bytes.
struct Vocabulary {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

/// Puts the vocabulary of `tokenizer` in a trie.
///
/// Control tokens get a byte in front that is in no text, so they are matched by id only and never by what they spell.
pub(crate) fn vocabulary(tokenizer: Arc<Tokenizer>) -> Result<TokEnv, String> {
    let eos = tokenizer.special(Special::Eos).ok_or("it has no end-of-sentence token")?;
    let size = u32::try_from(tokenizer.vocab_size()).map_err(|_| "it is too large".to_owned())?;
    let word = |id: u32| {
        let bytes = tokenizer.token_bytes(id);
        if tokenizer.is_control(id) { [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat() } else { bytes.to_vec() }
    };
    let words: Vec<Vec<u8>> = (0..size).map(word).collect();
    if let Some(longest) = words.iter().map(Vec::len).max().filter(|&longest| longest > LONGEST) {
        return Err(format!("it has a token of {longest} bytes; at most {LONGEST} are possible"));
    }
    if words.iter().map(Vec::len).sum::<usize>() > MOST_BYTES {
        return Err(format!("its tokens have more than {MOST_BYTES} bytes together"));
    }
    let trie = TokTrie::from(&TokRxInfo::new(size, eos), &words);
    Ok(Arc::new(Vocabulary { trie, tokenizer }))
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// Where only one text may follow, its tokens are those that the model was trained on.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.tokenizer.encode(text),
            Err(_) => self.trie.greedy_tokenize(bytes),
        }
    }
}
