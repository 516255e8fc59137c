//! What can be wrong with a GGUF file, said to the person who has it in hand.

use std::fmt;
use std::io;

use crate::tensor_type::supported_with_ids;

/// Any failure to open, read or interpret a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("{file}: cannot {action}: {source}")]
    Io {
        /// The file as the user named it.
        file: String,
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },

    /// The path leads to a directory, a pipe or a device.
    #[error("{file}: this is {kind}, not a file. Give the path of a GGUF file")]
    NotAFile {
        /// The path as the user named it.
        file: String,
        /// What it is instead, with its article.
        kind: &'static str,
    },

    /// The bytes do not follow the format.
    #[error("{file}: at byte {offset}: {problem}")]
    Malformed {
        /// The file as the user named it.
        file: String,
        /// Where the offending field begins.
        offset: u64,
        /// What is wrong there.
        problem: Malformed,
    },

    /// A metadata key that is needed is absent.
    #[error("{file}: the metadata key {key} is missing")]
    MissingKey {
        /// The file as the user named it.
        file: String,
        /// The key.
        key: Quoted,
    },

    /// A metadata key holds a value of another type.
    #[error("{file}: the metadata key {key} should hold {expected}, but it holds {found}")]
    WrongType {
        /// The file as the user named it.
        file: String,
        /// The key.
        key: Quoted,
        /// What the caller asked for, with its article.
        expected: &'static str,
        /// What the file has, with its article.
        found: &'static str,
    },

    /// A metadata key holds an integer that the wanted type cannot represent.
    #[error("{file}: the metadata key {key} holds {value}, which does not fit {expected}")]
    OutOfRange {
        /// The file as the user named it.
        file: String,
        /// The key.
        key: Quoted,
        /// The stored number.
        value: i128,
        /// The type that the caller asked for, with its article.
        expected: &'static str,
    },

    /// A tensor that is needed is absent.
    #[error("{file}: the tensor {name} is missing")]
    MissingTensor {
        /// The file as the user named it.
        file: String,
        /// The tensor's name.
        name: Quoted,
    },

    /// The file became shorter after it was opened.
    #[error(
        "{file}: the file became shorter while it was in use ({was} bytes when it was opened, \
         {now} now). Start again with a complete file"
    )]
    Shrunk {
        /// The file as the user named it.
        file: String,
        /// Length in bytes when the file was opened.
        was: u64,
        /// Length in bytes now.
        now: u64,
    },

    /// A file that is to be written would not be a valid one.
    #[error("the file to be written would not be valid: {problem}")]
    Unwritable {
        /// What a reader would object to.
        problem: Malformed,
    },

    /// Tensor data was given in another order than the file's, or not at all.
    #[error("{file}: the next data to be written is that of {next}, but {found} was given")]
    TensorOrder {
        /// The output's name.
        file: String,
        /// The tensor whose turn it is, or "nothing".
        next: String,
        /// The tensor that was given, or "the end".
        found: String,
    },

    /// Tensor data of the wrong length was given.
    #[error("{file}: the tensor {name} takes {size} bytes, but {given} were given")]
    TensorData {
        /// The output's name.
        file: String,
        /// The tensor's name.
        name: Quoted,
        /// Bytes that it takes.
        size: u64,
        /// Bytes that were given.
        given: u64,
    },
}

/// How a file departs from the format. Every sentence says what was found and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// No bytes at all.
    #[error("the file is empty; a GGUF file begins with the four bytes \"GGUF\"")]
    Empty,
    /// The first four bytes are not the magic.
    #[error("this is not a GGUF file: it begins with {found} where the four bytes \"GGUF\" were expected")]
    Magic {
        /// The four bytes, as readable text.
        found: String,
    },
    /// Byte order of another machine family.
    #[error(
        "this is a big-endian GGUF file; only little-endian files are supported. \
         Convert it on the machine that made it"
    )]
    BigEndian,
    /// A version other than 3.
    #[error("GGUF version {found} is not supported; version 3 was expected")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The file ends before a field does.
    #[error(
        "the file ends inside {what}: {needed} bytes are needed and {left} are left. \
         The download or copy may be incomplete"
    )]
    Truncated {
        /// The field that is cut off.
        what: &'static str,
        /// Bytes that the field takes.
        needed: u64,
        /// Bytes from the field's beginning to the end of the file.
        left: u64,
    },
    /// Metadata and tensor table beyond every measure.
    #[error(
        "metadata and tensor table would take more than {limit} bytes, which no model needs; \
         the file is damaged"
    )]
    HeaderTooLarge {
        /// The most that is read, in bytes.
        limit: u64,
    },
    /// A count that the rest of the file could not hold.
    #[error(
        "the file announces {count} {what}, which take at least {least} bytes each, but only \
         {left} bytes are left"
    )]
    Count {
        /// What is counted, in the plural.
        what: &'static str,
        /// The announced number.
        count: u64,
        /// The fewest bytes that one of them takes.
        least: u64,
        /// Bytes left in the file.
        left: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not valid UTF-8 (its first bad byte is number {bad})")]
    Utf8 {
        /// The text in question.
        what: &'static str,
        /// Offset of the first invalid byte within the text.
        bad: usize,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("a boolean is stored as 0 or 1, but this byte is {found}")]
    Bool {
        /// The byte.
        found: u8,
    },
    /// A metadata key that occurs twice.
    #[error("the metadata key {key} occurs a second time")]
    DuplicateKey {
        /// The key.
        key: Quoted,
    },
    /// An unknown metadata value type.
    #[error("the metadata key {key} has the unknown value type {id}; the types are 0 to 12")]
    ValueType {
        /// The key.
        key: Quoted,
        /// The type number in the file.
        id: u32,
    },
    /// An array of arrays.
    #[error(
        "the metadata key {key} holds an array of arrays, which is not supported; \
         arrays of numbers, booleans or strings are"
    )]
    NestedArray {
        /// The key.
        key: Quoted,
    },
    /// `general.alignment` is not an integer.
    #[error("general.alignment should hold an integer, but it holds {found}")]
    AlignmentType {
        /// What the file has, with its article.
        found: &'static str,
    },
    /// An unusable alignment.
    #[error("general.alignment is {found}; a power of two from 8 to 2^30 was expected")]
    Alignment {
        /// The value in the file.
        found: i128,
    },
    /// Two tensors of one name.
    #[error("the tensor {name} occurs a second time")]
    DuplicateTensor {
        /// The name.
        name: Quoted,
    },
    /// A rank that is not 1 to 4.
    #[error("the tensor {name} has {rank} dimensions; 1 to 4 were expected")]
    Rank {
        /// The tensor's name.
        name: Quoted,
        /// The rank in the file.
        rank: u32,
    },
    /// A dimension of zero or beyond 2^63 - 1.
    #[error("dimension {axis} of the tensor {name} is {found}; 1 to 2^63 - 1 was expected")]
    Dimension {
        /// The tensor's name.
        name: Quoted,
        /// Which dimension, from 0.
        axis: usize,
        /// The value in the file.
        found: u64,
    },
    /// A shape whose size in bytes does not fit 64 bits.
    #[error("the tensor {name} of shape {shape:?} would be larger than any file")]
    TooLarge {
        /// The tensor's name.
        name: Quoted,
        /// The dimensions, contiguous one first.
        shape: Vec<u64>,
    },
    /// An unsupported storage type.
    #[error(
        "the tensor {name} has the type number {id}, which is not supported; the supported types \
         are {}",
        supported_with_ids()
    )]
    TensorType {
        /// The tensor's name.
        name: Quoted,
        /// The type number in the file.
        id: u32,
    },
    /// A row that is not a whole number of blocks.
    #[error(
        "rows of the tensor {name} have {row_len} elements, which is not a multiple of the \
         {block_len} elements of a {ty} block"
    )]
    PartialBlock {
        /// The tensor's name.
        name: Quoted,
        /// Elements per row in the file.
        row_len: u64,
        /// Elements per block.
        block_len: u64,
        /// The storage type.
        ty: crate::TensorType,
    },
    /// A data offset that breaks the alignment.
    #[error(
        "the data offset {offset} of the tensor {name} is not a multiple of the alignment \
         {alignment}"
    )]
    Misaligned {
        /// The tensor's name.
        name: Quoted,
        /// The offset in the file, relative to the data section.
        offset: u64,
        /// The alignment of this file.
        alignment: u64,
    },
    /// Tensor data beyond the end of the file.
    #[error(
        "the data of the tensor {name} should lie at {size} bytes from byte {begin}, but the file \
         has only {file_len} bytes. The download or copy may be incomplete"
    )]
    DataPastEnd {
        /// The tensor's name.
        name: Quoted,
        /// First byte of the data (128 bits, because a broken offset may wrap 64).
        begin: u128,
        /// Length of the data in bytes.
        size: u64,
        /// Length of the file in bytes.
        file_len: u64,
    },
}

/// Text from a file, safe to show: quoted, control characters escaped, cut after 80 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    const MAX_CHARS: usize = 80;

    /// Keeps the beginning of `text`.
    pub fn new(text: &str) -> Quoted {
        let mut shown: String = text.chars().take(Self::MAX_CHARS).flat_map(char::escape_debug).collect();
        if text.chars().nth(Self::MAX_CHARS).is_some() {
            shown.push('…');
        }
        Quoted(shown)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}
