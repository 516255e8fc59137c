//! What can be wrong with a model file or a saved state, in sentences.

/// Why a model, a batch or a saved state was refused.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The container itself is not right.
    #[error(transparent)]
    Gguf(#[from] ds4_gguf::Error),

    /// The file holds another kind of model.
    #[error(
        "{file}: this is a {found:?} model; ds4 runs DeepSeek V4 only (general.architecture = \"deepseek4\"). \
         Get one with `ds4 pull`, or leave -m out to use the built-in demo model"
    )]
    Architecture {
        /// The file.
        file: String,
        /// Its `general.architecture`.
        found: String,
    },

    /// A metadata value that no DeepSeek V4 model has.
    #[error("{file}: {key} is {found}, expected {expected}")]
    Metadata {
        /// The file.
        file: String,
        /// The metadata key.
        key: String,
        /// The value, as text.
        found: String,
        /// What is accepted.
        expected: String,
    },

    /// A tensor is not there.
    #[error(
        "{file}: tensor {name} is missing; a model of this shape ({layers} layers) needs it. The file is incomplete or made for another engine"
    )]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// `block_count` of the file.
        layers: usize,
    },

    /// A tensor has another shape than the metadata says.
    #[error(
        "{file}: tensor {name} (data at byte {offset}) has shape {found:?}, expected {expected:?} from the file's metadata"
    )]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Where its data begins.
        offset: u64,
        /// Its `ne`.
        found: Vec<u64>,
        /// The `ne` that its role has.
        expected: Vec<u64>,
    },

    /// A tensor has a type that its role cannot have.
    #[error(
        "{file}: tensor {name} (data at byte {offset}) has type {found}, which this tensor cannot have; expected one of {expected}"
    )]
    Type {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Where its data begins.
        offset: u64,
        /// Its type.
        found: String,
        /// The accepted types.
        expected: String,
    },

    /// A token's hash routing names an expert that does not exist.
    #[error(
        "{file}: tensor {name}: entry {index} (byte {offset}) names expert {found}, but the model has experts 0 to {last}"
    )]
    ExpertId {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Which entry.
        index: usize,
        /// Where in the file.
        offset: u64,
        /// The expert id.
        found: i32,
        /// The largest valid id.
        last: usize,
    },

    /// A token id outside the vocabulary.
    #[error("token id {token} is outside the model's vocabulary of {vocab} tokens")]
    Token {
        /// The id.
        token: u32,
        /// Vocabulary size.
        vocab: usize,
    },

    /// A saved sequence state that cannot be used.
    #[error("saved state: {0}; it is ignored and the prompt has to be computed again")]
    State(String),

    /// The backend's device failed.
    #[error("{0}")]
    Device(String),
}
