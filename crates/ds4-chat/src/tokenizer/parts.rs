//! Builds a tokenizer from the arrays that model files carry, checking everything they say.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Tokenizer;
use super::added_tokens::AddedTokens;
use super::byte_symbol;
use super::error::TokenizerError;
use super::merge::{MAX_MERGES, MergeTable};
use super::vocabulary::{MAX_TOKEN_BYTES, MAX_TOKENS, Vocabulary};
use crate::special::Special;

/// A vocabulary as GGUF metadata has it.
///
/// `T`, `Y` and `M` are anything that iterates over the arrays in order: nothing is copied before it is checked.
#[derive(Clone, Debug)]
pub struct TokenizerParts<'a, T, Y, M> {
    /// `tokenizer.ggml.tokens`: the spelling of each id, normal tokens in byte symbols, control tokens in plain text.
    pub tokens: T,
    /// `tokenizer.ggml.token_type`: 1 (normal), 3 (control) or 4 (user-defined, treated like control), per id.
    pub token_types: Y,
    /// `tokenizer.ggml.merges`: `left right` in byte symbols, in order of rank.
    pub merges: M,
    /// `tokenizer.ggml.pre`.
    pub pre: &'a str,
    /// `tokenizer.ggml.model`.
    pub model: &'a str,
}

/// Control tokens without which no chat can be rendered. The others belong to quick tasks and reminders.
const REQUIRED: [Special; 7] =
    [Special::Bos, Special::Eos, Special::User, Special::Assistant, Special::Think, Special::EndThink, Special::Dsml];

impl Tokenizer {
    /// Builds a tokenizer from GGUF metadata (or anything shaped like it).
    ///
    /// # Errors
    ///
    /// Any inconsistency: see [`TokenizerError`].
    pub fn from_parts<'a, T, Y, M>(parts: TokenizerParts<'a, T, Y, M>) -> Result<Self, TokenizerError>
    where
        T: IntoIterator<Item = &'a str>,
        Y: IntoIterator<Item = i32>,
        M: IntoIterator<Item = &'a str>,
    {
        if parts.model != "gpt2" {
            return Err(TokenizerError::UnknownModel { found: shown(parts.model) });
        }
        if !matches!(parts.pre, "joyai-llm" | "deepseek-v3") {
            return Err(TokenizerError::UnknownPreTokenizer { found: shown(parts.pre) });
        }
        let tokens: Vec<&str> = parts.tokens.into_iter().collect();
        let types: Vec<i32> = parts.token_types.into_iter().collect();
        if tokens.len() != types.len() {
            return Err(TokenizerError::CountMismatch { tokens: tokens.len(), types: types.len() });
        }
        let vocabulary = read_tokens(&tokens, &types)?;
        let merges = read_merges(&tokens, &vocabulary, parts.merges)?;
        Self::assemble(vocabulary, merges)
    }

    /// Joins checked parts, refusing a vocabulary that chats cannot be rendered with.
    pub(super) fn assemble(vocabulary: Vocabulary, merges: MergeTable) -> Result<Self, TokenizerError> {
        if let Some(special) = REQUIRED.into_iter().find(|&special| vocabulary.special(special).is_none()) {
            return Err(TokenizerError::MissingControl { special });
        }
        let added =
            AddedTokens::new(&vocabulary).map_err(|error| TokenizerError::ControlIndex { what: error.to_string() })?;
        Ok(Self { vocabulary, merges, added, workspaces: Default::default() })
    }
}

/// Reads the tokens. Duplicates are found later, with the index that the merges need anyway.
fn read_tokens(tokens: &[&str], types: &[i32]) -> Result<Vocabulary, TokenizerError> {
    if tokens.len() > MAX_TOKENS {
        return Err(TokenizerError::TooMany { what: "tokens", limit: MAX_TOKENS });
    }
    let mut vocabulary = Vocabulary::with_capacity(tokens.len(), tokens.iter().map(|token| token.len()).sum());
    for (id, (&token, &kind)) in (0u32..).zip(tokens.iter().zip(types)) {
        if token.is_empty() {
            return Err(TokenizerError::EmptyToken { id });
        }
        match kind {
            1 => vocabulary.push_spelled(token).map_err(|symbol| TokenizerError::NotByteSymbols {
                id,
                token: shown(token),
                symbol,
            })?,
            3 | 4 => vocabulary.push_added(token),
            _ => return Err(TokenizerError::UnknownTokenType { id, token: shown(token), kind }),
        }
        let length = vocabulary.token_bytes(id).len();
        if length > MAX_TOKEN_BYTES {
            return Err(TokenizerError::TokenTooLong { id, length, limit: MAX_TOKEN_BYTES });
        }
    }
    Ok(vocabulary)
}

fn read_merges<'a>(
    tokens: &[&str],
    vocabulary: &Vocabulary,
    merges: impl IntoIterator<Item = &'a str>,
) -> Result<MergeTable, TokenizerError> {
    let mut ids: HashMap<&str, u32, RandomState> =
        HashMap::with_capacity_and_hasher(tokens.len(), RandomState::default());
    for (id, &token) in (0u32..).zip(tokens) {
        if let Some(first) = ids.insert(token, id) {
            return Err(TokenizerError::DuplicateToken { first, second: id, token: shown(token) });
        }
    }
    let normal = |spelling: &str| ids.get(spelling).copied().filter(|&id| !vocabulary.is_added(id));

    let mut byte_tokens = [0; 256];
    for (byte, id) in (0..=255).zip(&mut byte_tokens) {
        let symbol = byte_symbol::symbol_of(byte);
        *id = normal(symbol.encode_utf8(&mut [0; 4])).ok_or(TokenizerError::MissingByte { byte, symbol })?;
    }

    let mut table = MergeTable::with_capacity(byte_tokens, tokens.len());
    let mut joined = String::new();
    for (index, merge) in merges.into_iter().enumerate() {
        if index >= MAX_MERGES {
            return Err(TokenizerError::TooMany { what: "merges", limit: MAX_MERGES });
        }
        let parts =
            merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
        let (left, right) = parts.ok_or_else(|| TokenizerError::MalformedMerge { index, merge: shown(merge) })?;
        let find = |token: &str| {
            normal(token).ok_or_else(|| TokenizerError::UnknownInMerge {
                index,
                merge: shown(merge),
                token: shown(token),
            })
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        table.push(find(left)?, find(right)?, find(&joined)?).map_err(|first| TokenizerError::DuplicateMerge {
            first: first as usize,
            second: index,
            merge: shown(merge),
        })?;
    }
    Ok(table)
}

/// The beginning of a string from the file, for a message: a damaged file may have strings of any length.
fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
