//! The vocabulary that a `--tokenizer` option names.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use ds4_chat::tokenizer::Tokenizer;
use ds4_gguf::Gguf;

use crate::model_source::tokenizer_of;

/// The name of the built-in vocabulary.
const OFFICIAL: &str = "v4";
/// Largest `tokenizer.json` that is read; the official one has 8 MB.
const LARGEST_JSON: u64 = 1 << 28;

/// Opens the built-in vocabulary, or that of a file, told apart by how the file begins.
///
/// # Errors
/// A file that cannot be read or holds no usable vocabulary.
pub fn open(name: &Path) -> anyhow::Result<Tokenizer> {
    if name.as_os_str() == OFFICIAL {
        return Tokenizer::official().context("the built-in vocabulary cannot be unpacked");
    }
    let shown = name.display();
    let hint = || format!("cannot read {shown}; --tokenizer takes {OFFICIAL}, a tokenizer.json or a GGUF file");
    if name.is_dir() {
        bail!("{shown} is a directory; --tokenizer takes {OFFICIAL}, a tokenizer.json or a GGUF file");
    }
    let mut file = File::open(name).with_context(hint)?;
    let mut bytes = Vec::new();
    file.by_ref().take(4).read_to_end(&mut bytes).with_context(hint)?;
    if bytes == b"GGUF" {
        return tokenizer_of(&Gguf::open(name)?);
    }
    file.take(LARGEST_JSON).read_to_end(&mut bytes).with_context(hint)?;
    if bytes.len() as u64 > LARGEST_JSON {
        bail!(
            "{shown} is larger than any tokenizer.json; --tokenizer takes {OFFICIAL}, a tokenizer.json or a GGUF file"
        );
    }
    Tokenizer::from_hf_json(&bytes).with_context(|| format!("{shown}: no usable vocabulary"))
}
