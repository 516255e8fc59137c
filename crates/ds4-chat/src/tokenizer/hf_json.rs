//! Reads a Hugging Face `tokenizer.json`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::Tokenizer;
use super::error::TokenizerError;
use super::parts::TokenizerParts;

/// The splits of the DeepSeek V4 pre-tokenizer, in order (see `pre_token`).
const PATTERNS: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+",
        "| ?[\\p{P}\\p{S}]+[\r\n]*",
        "|\\s*[\r\n]+",
        r"|\s+(?!\S)|\s+",
    ),
];

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    added_tokens: Vec<AddedToken<'a>>,
    #[serde(default)]
    normalizer: Option<Step<'a>>,
    pre_tokenizer: Step<'a>,
    model: Model<'a>,
}

#[derive(Deserialize)]
struct AddedToken<'a> {
    id: u32,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

/// A normalizer or pre-tokenizer; the fields that the kinds in use have.
#[derive(Deserialize)]
struct Step<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    normalizers: Vec<serde::de::IgnoredAny>,
    #[serde(default, borrow)]
    pretokenizers: Vec<Step<'a>>,
    #[serde(default)]
    pattern: Option<Pattern>,
    #[serde(default)]
    behavior: Option<String>,
    #[serde(default)]
    invert: bool,
    #[serde(default)]
    add_prefix_space: bool,
    #[serde(default)]
    use_regex: bool,
}

/// What a split searches for: `{"Regex": …}` here, or `{"String": …}`.
#[derive(Deserialize)]
struct Pattern {
    #[serde(rename = "Regex")]
    regex: Option<String>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    continuing_subword_prefix: Option<Cow<'a, str>>,
    #[serde(default)]
    end_of_word_suffix: Option<Cow<'a, str>>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Vocab<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// The vocabulary object as a list, so that no entry hides another.
struct Vocab<'a>(Vec<(Cow<'a, str>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocab<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocab<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of token ids by spelling")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some((Spelling(token), id)) = map.next_entry()? {
                    entries.push((token, id));
                }
                Ok(Vocab(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A string that is borrowed from the file if it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Spelling<'a>(#[serde(borrow)] Cow<'a, str>);

/// A merge, written as `"left right"` or as `["left", "right"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge<'a> {
    Joined(#[serde(borrow)] Cow<'a, str>),
    Pair(#[serde(borrow)] Cow<'a, str>, #[serde(borrow)] Cow<'a, str>),
}

fn unsupported(what: impl Into<String>) -> TokenizerError {
    TokenizerError::UnsupportedJson { what: what.into() }
}

/// Fails with a sentence if `found` is set to something that would change token ids.
fn refuse(found: bool, what: &str) -> Result<(), TokenizerError> {
    if found { Err(unsupported(format!("{what}, which this tokenizer does not do"))) } else { Ok(()) }
}

impl Tokenizer {
    /// Reads a `tokenizer.json` as published with the model.
    ///
    /// # Errors
    ///
    /// The file is not such JSON, describes another kind of tokenizer than DeepSeek V4's, or is inconsistent.
    pub fn from_hf_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let file: File = serde_json::from_slice(json)?;
        check_steps(&file)?;
        let model = &file.model;
        refuse(model.kind != "BPE", &format!("the model is {:?} instead of \"BPE\"", model.kind))?;
        refuse(model.dropout.is_some_and(|p| p != 0.0), "the model has dropout")?;
        refuse(model.byte_fallback, "the model has byte fallback")?;
        refuse(model.ignore_merges, "the model ignores merges for whole words")?;
        let affix = |affix: &Option<Cow<str>>| affix.as_ref().is_some_and(|affix| !affix.is_empty());
        refuse(affix(&model.continuing_subword_prefix), "the model has a continuing_subword_prefix")?;
        refuse(affix(&model.end_of_word_suffix), "the model has an end_of_word_suffix")?;

        let (tokens, token_types) = dense_tokens(&file)?;
        let merges: Vec<Cow<str>> = (model.merges.iter())
            .map(|merge| match merge {
                Merge::Joined(merge) => Cow::Borrowed(merge.as_ref()),
                Merge::Pair(left, right) => Cow::Owned(format!("{left} {right}")),
            })
            .collect();
        Self::from_parts(TokenizerParts {
            tokens,
            token_types,
            merges: merges.iter().map(Cow::as_ref),
            pre: "deepseek-v3",
            model: "gpt2",
        })
    }
}

/// Checks that text is prepared the way `pre_token` does it.
fn check_steps(file: &File) -> Result<(), TokenizerError> {
    let normalizes = |step: &Step| step.kind != "Sequence" || !step.normalizers.is_empty();
    refuse(file.normalizer.as_ref().is_some_and(normalizes), "it has a normalizer")?;

    let steps = &file.pre_tokenizer.pretokenizers;
    let splits = file.pre_tokenizer.kind == "Sequence" && steps.len() == PATTERNS.len() + 1;
    let splits = splits
        && steps.iter().zip(PATTERNS).all(|(step, expected)| {
            step.kind == "Split"
                && step.pattern.as_ref().and_then(|pattern| pattern.regex.as_deref()) == Some(expected)
                && step.behavior.as_deref() == Some("Isolated")
                && !step.invert
        });
    let bytes = steps.last().is_some_and(|step| step.kind == "ByteLevel" && !step.add_prefix_space && !step.use_regex);
    if splits && bytes {
        Ok(())
    } else {
        Err(unsupported("the pre-tokenizer is not the three splits and the byte mapping of DeepSeek V4"))
    }
}

/// The spelling and GGUF token type of every id.
fn dense_tokens<'f>(file: &'f File) -> Result<(Vec<&'f str>, Vec<i32>), TokenizerError> {
    let vocab = &file.model.vocab.0;
    let highest = vocab.iter().map(|&(_, id)| id).chain(file.added_tokens.iter().map(|token| token.id)).max();
    let size = highest.map_or(0, |id| id as usize + 1);
    if size > vocab.len() + file.added_tokens.len() {
        return Err(unsupported(format!(
            "token ids go up to {}, but there are only {} tokens and {} added tokens",
            size - 1,
            vocab.len(),
            file.added_tokens.len()
        )));
    }
    let mut tokens = vec![""; size];
    let mut types = vec![1; size];
    let mut place = |id: u32, token: &'f str, kind: i32| {
        let (old, old_kind) = (&mut tokens[id as usize], &mut types[id as usize]);
        // An added token may stand in the vocabulary, too.
        let repeated = kind == 3 && *old_kind == 1 && *old == token;
        if !old.is_empty() && !repeated {
            return Err(unsupported(format!("token id {id} is both {old:?} and {token:?}")));
        }
        (*old, *old_kind) = (token, kind);
        Ok(())
    };
    for (token, id) in vocab {
        place(*id, token, 1)?;
    }
    for token in &file.added_tokens {
        let id = token.id;
        refuse(token.single_word || token.lstrip || token.rstrip, &format!("added token {id} strips or joins words"))?;
        place(id, &token.content, 3)?;
    }
    match tokens.iter().position(|token| token.is_empty()) {
        Some(id) => Err(unsupported(format!("no token has id {id}"))),
        None => Ok((tokens, types)),
    }
}
