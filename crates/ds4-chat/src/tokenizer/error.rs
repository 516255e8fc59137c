//! What can be wrong with a vocabulary.

use crate::special::Special;

/// Why a vocabulary cannot be used. Every message names the entry at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file says that it is for another kind of tokenizer.
    #[error("the tokenizer model is {found:?}, but only \"gpt2\" (byte-level BPE) is supported")]
    UnknownModel {
        /// The model as written in the file.
        found: String,
    },
    /// The file asks for another way of cutting text into words.
    #[error(
        "the pre-tokenizer is {found:?}, but only \"joyai-llm\" and \"deepseek-v3\" are supported; \
         the file is not a DeepSeek V4 model, or its converter wrote an unknown name"
    )]
    UnknownPreTokenizer {
        /// The pre-tokenizer as written in the file.
        found: String,
    },
    /// Tokens and token types are parallel arrays of different length.
    #[error("the vocabulary has {tokens} tokens but {types} token types; the file is damaged or badly converted")]
    CountMismatch {
        /// Length of the token array.
        tokens: usize,
        /// Length of the token type array.
        types: usize,
    },
    /// More entries than token ids or merge ranks can number.
    #[error("the vocabulary has more than {limit} {what}; no DeepSeek V4 vocabulary is that large")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The most that is supported.
        limit: usize,
    },
    /// A token type that a byte-level vocabulary has no use for.
    #[error("token {id} ({token:?}) has type {kind}; expected 1 (normal), 3 (control) or 4 (user-defined)")]
    UnknownTokenType {
        /// Token id.
        id: u32,
        /// Spelling in the file.
        token: String,
        /// Type in the file.
        kind: i32,
    },
    /// A token without a single byte.
    #[error("token {id} is empty")]
    EmptyToken {
        /// Token id.
        id: u32,
    },
    /// A token longer than any real one.
    #[error("token {id} is {length} bytes long; the longest supported is {limit}")]
    TokenTooLong {
        /// Token id.
        id: u32,
        /// Its length in bytes.
        length: usize,
        /// The longest supported.
        limit: usize,
    },
    /// A normal token with a character that stands for no byte.
    #[error("token {id} ({token:?}) contains {symbol:?}, which is not a byte symbol; is its type really \"normal\"?")]
    NotByteSymbols {
        /// Token id.
        id: u32,
        /// Spelling in the file.
        token: String,
        /// The first offending character.
        symbol: char,
    },
    /// Two ids with one spelling.
    #[error("tokens {first} and {second} are both spelled {token:?}")]
    DuplicateToken {
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
        /// Their spelling.
        token: String,
    },
    /// A byte that no token stands for: some text could not be encoded.
    #[error("the vocabulary has no token for byte 0x{byte:02x} (spelled {symbol:?})")]
    MissingByte {
        /// The byte.
        byte: u8,
        /// Its expected spelling.
        symbol: char,
    },
    /// A merge that is not two tokens with one space between them.
    #[error("merge {index} ({merge:?}) is not two tokens separated by one space")]
    MalformedMerge {
        /// Position in the merge list.
        index: usize,
        /// The merge as written.
        merge: String,
    },
    /// A merge of something that is not a normal token, or into something that is not.
    #[error("merge {index} ({merge:?}) refers to {token:?}, which is not a normal token of the vocabulary")]
    UnknownInMerge {
        /// Position in the merge list.
        index: usize,
        /// The merge as written.
        merge: String,
        /// The spelling that was not found.
        token: String,
    },
    /// The same pair twice: its rank would be ambiguous.
    #[error("merges {first} and {second} are both {merge:?}")]
    DuplicateMerge {
        /// The earlier position.
        first: usize,
        /// The later position.
        second: usize,
        /// The merge as written.
        merge: String,
    },
    /// A chat marker that every DeepSeek V4 vocabulary has.
    #[error(
        "the vocabulary has no control token {:?}, without which chats cannot be rendered; \
         the file is not a DeepSeek V4 chat model, or its converter dropped the token's type",
        special.spelling()
    )]
    MissingControl {
        /// The missing token.
        special: Special,
    },
    /// The control tokens' spellings are too much to search for.
    #[error("the control tokens' spellings cannot be indexed ({what}); no DeepSeek V4 vocabulary has that many")]
    ControlIndex {
        /// What the index says.
        what: String,
    },
    /// A prompt uses an optional control token that this vocabulary lacks.
    #[error("this model's vocabulary has no token {:?}, which the prompt needs", special.spelling())]
    ControlNotInVocabulary {
        /// The missing token.
        special: Special,
    },
    /// A prompt replays a token id that this vocabulary does not have.
    #[error(
        "the prompt replays token id {id}, but this model's vocabulary has only {size} tokens; was it stored for another model?"
    )]
    IdNotInVocabulary {
        /// The id.
        id: u32,
        /// Number of tokens in the vocabulary.
        size: usize,
    },
    /// `tokenizer.json` is not the JSON that it should be.
    #[error("tokenizer.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// `tokenizer.json` describes something else than this tokenizer.
    #[error("tokenizer.json: {what}")]
    UnsupportedJson {
        /// What is different and what was expected.
        what: String,
    },
    /// The vocabulary embedded in the program cannot be decoded: the program itself is damaged.
    #[error("the embedded vocabulary is damaged: {what}")]
    DamagedEmbedded {
        /// What failed.
        what: String,
    },
}
