//! The key/value part of a file, in file order, with typed access.

use std::collections::HashMap;

use crate::error::{Error, Quoted};
use crate::value::{Array, StrArray, Value};

/// Ordered metadata. Keys are unique; unknown keys are kept and can be read.
///
/// The typed getters accept any integer width where the number fits (files store lengths as u32 or
/// u64), tell a missing key from one of the wrong type, and name the file in their errors.
///
/// ```
/// use ds4_gguf::{Metadata, OptionalKey, Value};
///
/// let mut metadata = Metadata::new("example");
/// metadata.insert("deepseek4.block_count", Value::U64(43));
/// assert_eq!(metadata.u32("deepseek4.block_count")?, 43);
/// assert_eq!(metadata.u32("deepseek4.vocab_size").optional()?, None);
/// let error = metadata.str("deepseek4.block_count").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "example: the metadata key \"deepseek4.block_count\" should hold a string, \
///      but it holds an unsigned 64-bit integer",
/// );
/// # Ok::<(), ds4_gguf::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Metadata {
    /// The file, for messages.
    origin: String,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// Empty metadata; `origin` is what error messages call the file.
    pub fn new(origin: impl Into<String>) -> Metadata {
        Metadata { origin: origin.into(), entries: Vec::new(), index: HashMap::new() }
    }

    /// Sets `key`, at the end if it is new, in place otherwise; returns the previous value.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) -> Option<Value> {
        let key = key.into();
        if let Some(&i) = self.index.get(&key) {
            return Some(std::mem::replace(&mut self.entries[i].1, value));
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        None
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + '_ {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The raw value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Whether `key` is present.
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// An integer that fits 32 bits without sign.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`], [`Error::OutOfRange`].
    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        self.integer(key, "an unsigned 32-bit integer")
    }

    /// An integer that fits 64 bits without sign.
    ///
    /// # Errors
    /// As [`Metadata::u32`].
    pub fn u64(&self, key: &str) -> Result<u64, Error> {
        self.integer(key, "an unsigned 64-bit integer")
    }

    /// An integer that fits 32 bits with sign.
    ///
    /// # Errors
    /// As [`Metadata::u32`].
    pub fn i32(&self, key: &str) -> Result<i32, Error> {
        self.integer(key, "a signed 32-bit integer")
    }

    /// A float; a 64-bit one is rounded.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn f32(&self, key: &str) -> Result<f32, Error> {
        match self.require(key)? {
            Value::F32(v) => Ok(*v),
            Value::F64(v) => Ok(*v as f32),
            other => Err(self.wrong_type(key, "a float", other.kind())),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn bool(&self, key: &str) -> Result<bool, Error> {
        match self.require(key)? {
            Value::Bool(v) => Ok(*v),
            other => Err(self.wrong_type(key, "a boolean", other.kind())),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn str(&self, key: &str) -> Result<&str, Error> {
        match self.require(key)? {
            Value::Str(v) => Ok(v),
            other => Err(self.wrong_type(key, "a string", other.kind())),
        }
    }

    /// An array of strings, which iterates without allocating.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn str_array(&self, key: &str) -> Result<&StrArray, Error> {
        match self.require(key)? {
            Value::Array(Array::Str(v)) => Ok(v),
            other => Err(self.wrong_type(key, "an array of strings", other.kind())),
        }
    }

    /// An array of integers that fit 32 bits with sign.
    ///
    /// # Errors
    /// As [`Metadata::u32`].
    pub fn i32_array(&self, key: &str) -> Result<Vec<i32>, Error> {
        self.integer_array(key, "an array of signed 32-bit integers")
    }

    /// An array of integers that fit 32 bits without sign.
    ///
    /// # Errors
    /// As [`Metadata::u32`].
    pub fn u32_array(&self, key: &str) -> Result<Vec<u32>, Error> {
        self.integer_array(key, "an array of unsigned 32-bit integers")
    }

    /// An array of floats; 64-bit ones are rounded.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn f32_array(&self, key: &str) -> Result<Vec<f32>, Error> {
        match self.require(key)? {
            Value::Array(Array::F32(v)) => Ok(v.clone()),
            Value::Array(Array::F64(v)) => Ok(v.iter().map(|&x| x as f32).collect()),
            other => Err(self.wrong_type(key, "an array of floats", other.kind())),
        }
    }

    fn require(&self, key: &str) -> Result<&Value, Error> {
        self.get(key).ok_or_else(|| Error::MissingKey { file: self.origin.clone(), key: Quoted::new(key) })
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &'static str) -> Result<T, Error> {
        let value = self.require(key)?;
        match value.as_integer() {
            Some(v) => T::try_from(v).map_err(|_| self.out_of_range(key, v, expected)),
            None => Err(self.wrong_type(key, expected, value.kind())),
        }
    }

    fn integer_array<T: TryFrom<i128>>(&self, key: &str, expected: &'static str) -> Result<Vec<T>, Error> {
        let value = self.require(key)?;
        let integers = match value {
            Value::Array(array) => array.integers(),
            _ => None,
        };
        integers
            .ok_or_else(|| self.wrong_type(key, expected, value.kind()))?
            .map(|v| T::try_from(v).map_err(|_| self.out_of_range(key, v, expected)))
            .collect()
    }

    fn wrong_type(&self, key: &str, expected: &'static str, found: &'static str) -> Error {
        Error::WrongType { file: self.origin.clone(), key: Quoted::new(key), expected, found }
    }

    fn out_of_range(&self, key: &str, value: i128, expected: &'static str) -> Error {
        Error::OutOfRange { file: self.origin.clone(), key: Quoted::new(key), value, expected }
    }
}

/// Two sets of metadata are equal if they hold the same keys and values in the same order, whatever
/// file they came from.
impl PartialEq for Metadata {
    fn eq(&self, other: &Metadata) -> bool {
        self.entries == other.entries
    }
}

/// Turns "the key is missing" into `None` and leaves every other error alone.
pub trait OptionalKey<T> {
    /// `Ok(None)` where the key is absent.
    ///
    /// # Errors
    /// Everything but [`Error::MissingKey`] passes through.
    fn optional(self) -> Result<Option<T>, Error>;
}

impl<T> OptionalKey<T> for Result<T, Error> {
    fn optional(self) -> Result<Option<T>, Error> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(Error::MissingKey { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
