//! GGUF files and the block formats of their tensors.
//!
//! [`Gguf`] opens a file by mapping it: metadata ([`Metadata`]) and tensor table ([`TensorInfo`])
//! are validated completely, tensor data is read when it is touched. [`quant`] decodes, encodes and
//! multiplies the block formats. A file is untrusted: whatever its bytes are, the result is a value
//! or an [`Error`] that names the file and the offending byte.

mod atomic_file;
mod error;
mod huge;
mod metadata;
mod parse;
pub mod quant;
mod reader;
mod source;
mod tensor;
mod tensor_type;
pub mod truncation_guard;
mod value;
mod writer;

pub use atomic_file::AtomicFile;
pub use error::{Error, Malformed, Quoted};
pub use huge::reserve_huge;
pub use metadata::{Metadata, OptionalKey};
pub use reader::{Access, Gguf};
pub use tensor::TensorInfo;
pub use tensor_type::{TensorType, UnknownTypeName};
pub use value::{Array, StrArray, Value};
pub use writer::{GgufWriter, Layout};
