//! Where a model comes from: a file, or the demo model that is part of the program.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use ds4_chat::render::Profile;
use ds4_chat::tokenizer::{Tokenizer, TokenizerParts};
use ds4_gguf::{Gguf, Value};
use ds4_model::Model;
use ds4_synth::Shape;

use crate::args::ModelArgs;

/// The demo model, used where it lies in the program: nothing is copied or unpacked.
static DEMO: &[u8] = include_bytes!("../../../nano/nano.gguf");

/// What messages call the demo model.
const DEMO_LABEL: &str = "built-in demo model";

/// How the demo model's own name begins, also when it is opened as a file.
const DEMO_NAME: &str = "nano (demo model";

/// Where to get a model from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The built-in demo model.
    Demo,
    /// A GGUF file.
    File(PathBuf),
}

impl ModelSource {
    /// The file if there is one, else the demo model.
    pub fn new(file: Option<&Path>) -> ModelSource {
        file.map_or(ModelSource::Demo, |path| ModelSource::File(path.to_owned()))
    }

    /// What to call it.
    pub fn label(&self) -> String {
        match self {
            ModelSource::Demo => DEMO_LABEL.to_owned(),
            ModelSource::File(path) => path.display().to_string(),
        }
    }

    /// Opens the container; tensor data is not read.
    ///
    /// # Errors
    /// The file does not exist, cannot be read, or is not a GGUF file.
    pub fn open(&self) -> anyhow::Result<Gguf> {
        match self {
            ModelSource::Demo => Ok(Gguf::from_static(DEMO_LABEL, DEMO)?),
            ModelSource::File(path) => Gguf::open(path).map_err(|error| match error {
                ds4_gguf::Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => anyhow!(
                    "{}: there is no such file. `ds4 pull --list` names the published models; without -m, the {DEMO_LABEL} runs",
                    path.display()
                ),
                error => error.into(),
            }),
        }
    }
}

impl From<&ModelArgs> for ModelSource {
    fn from(args: &ModelArgs) -> ModelSource {
        ModelSource::new(args.model.as_deref())
    }
}

/// A model that can be talked to.
pub struct LoadedModel {
    /// The bound tensors.
    pub model: Arc<Model>,
    /// Its vocabulary.
    pub tokenizer: Arc<Tokenizer>,
}

impl LoadedModel {
    /// Opens, binds and checks a model and its tokenizer.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn open(source: &ModelSource) -> anyhow::Result<LoadedModel> {
        // The model first: of a file for another architecture, the tokenizer is not what is wrong.
        let model = Model::new(source.open()?)?;
        let tokenizer = tokenizer_of(model.gguf())?;
        check_vocabulary(&model, &tokenizer)?;
        Ok(LoadedModel { model: Arc::new(model), tokenizer: Arc::new(tokenizer) })
    }

    /// How this release was taught reasoning effort, as far as its names tell.
    pub fn profile(&self) -> Profile {
        let is_name = |key: &str| {
            matches!(key, "general.name" | "general.basename" | "general.version")
                || (key.starts_with("general.base_model.") && (key.ends_with(".name") || key.ends_with(".version")))
        };
        Profile::from_model_names(self.model.gguf().metadata().iter().filter_map(|(key, value)| match value {
            Value::Str(name) if is_name(key) => Some(name.as_str()),
            _ => None,
        }))
    }

    /// Whether this is the demo model, built in or opened as a file.
    pub fn is_demo(&self) -> bool {
        self.model.gguf().metadata().str("general.name").is_ok_and(|name| name.starts_with(DEMO_NAME))
    }
}

/// The tokenizer in a GGUF file's metadata.
///
/// # Errors
/// Metadata that is missing, or inconsistent.
pub fn tokenizer_of(gguf: &Gguf) -> anyhow::Result<Tokenizer> {
    let metadata = gguf.metadata();
    let parts = TokenizerParts {
        tokens: metadata.str_array("tokenizer.ggml.tokens")?.iter(),
        token_types: metadata.i32_array("tokenizer.ggml.token_type")?,
        merges: metadata.str_array("tokenizer.ggml.merges")?.iter(),
        pre: metadata.str("tokenizer.ggml.pre")?,
        model: metadata.str("tokenizer.ggml.model")?,
    };
    Tokenizer::from_parts(parts).with_context(|| format!("{}: the tokenizer in this file cannot be used", gguf.name()))
}

/// The tokenizer that models of a published shape have.
///
/// # Errors
/// The one that is built in cannot be used.
pub fn tokenizer_of_shape(shape: &Shape) -> anyhow::Result<Tokenizer> {
    let official = Tokenizer::official()?;
    match official.vocab_size() as u64 == shape.n_vocab {
        true => Ok(official),
        false => tokenizer_of(&ModelSource::Demo.open()?),
    }
}

/// A tokenizer must not produce ids that the model has no row for.
pub fn check_vocabulary(model: &Model, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let (tokens, rows) = (tokenizer.vocab_size(), model.config().n_vocab);
    if tokens > rows {
        bail!(
            "{}: the tokenizer has {tokens} tokens but the model only {rows} embeddings; the file was put together wrongly",
            model.gguf().name()
        );
    }
    Ok(())
}
