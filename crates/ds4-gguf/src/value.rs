//! Metadata values as the file stores them.

/// One metadata value, with the exact type that the file has.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are the format's own type names
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array; all elements have one type, and arrays do not nest.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are the format's own type names
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Str(StrArray),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Type number of [`Value::Array`].
pub(crate) const ARRAY_TYPE: u32 = 9;

/// Runs `$body` with `$v` bound to the value, whichever integer type it has.
macro_rules! as_integer {
    ($value:expr, $enum:ident, $v:ident => $body:expr) => {
        match $value {
            $enum::U8($v) => Some($body),
            $enum::I8($v) => Some($body),
            $enum::U16($v) => Some($body),
            $enum::I16($v) => Some($body),
            $enum::U32($v) => Some($body),
            $enum::I32($v) => Some($body),
            $enum::U64($v) => Some($body),
            $enum::I64($v) => Some($body),
            _ => None,
        }
    };
}

impl Value {
    /// The type number that the file stores.
    pub fn type_id(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Str(_) => 8,
            Value::Array(_) => ARRAY_TYPE,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }

    /// The value if it is an integer of any width.
    pub fn as_integer(&self) -> Option<i128> {
        as_integer!(self, Value, v => i128::from(*v))
    }

    /// What this is, with its article, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::U8(_) => "an unsigned 8-bit integer",
            Value::I8(_) => "a signed 8-bit integer",
            Value::U16(_) => "an unsigned 16-bit integer",
            Value::I16(_) => "a signed 16-bit integer",
            Value::U32(_) => "an unsigned 32-bit integer",
            Value::I32(_) => "a signed 32-bit integer",
            Value::F32(_) => "a 32-bit float",
            Value::Bool(_) => "a boolean",
            Value::Str(_) => "a string",
            Value::Array(array) => array.kind(),
            Value::U64(_) => "an unsigned 64-bit integer",
            Value::I64(_) => "a signed 64-bit integer",
            Value::F64(_) => "a 64-bit float",
        }
    }
}

impl Array {
    /// The type number of the elements, as the file stores it.
    pub fn element_type_id(&self) -> u32 {
        match self {
            Array::U8(_) => 0,
            Array::I8(_) => 1,
            Array::U16(_) => 2,
            Array::I16(_) => 3,
            Array::U32(_) => 4,
            Array::I32(_) => 5,
            Array::F32(_) => 6,
            Array::Bool(_) => 7,
            Array::Str(_) => 8,
            Array::U64(_) => 10,
            Array::I64(_) => 11,
            Array::F64(_) => 12,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::Str(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements if they are integers of any width.
    pub fn integers(&self) -> Option<Box<dyn Iterator<Item = i128> + '_>> {
        fn widen<T: Copy + Into<i128>>(v: &[T]) -> Box<dyn Iterator<Item = i128> + '_> {
            Box::new(v.iter().map(|&x| x.into()))
        }
        as_integer!(self, Array, v => widen(v))
    }

    /// What this is, with its article, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Array::U8(_) => "an array of unsigned 8-bit integers",
            Array::I8(_) => "an array of signed 8-bit integers",
            Array::U16(_) => "an array of unsigned 16-bit integers",
            Array::I16(_) => "an array of signed 16-bit integers",
            Array::U32(_) => "an array of unsigned 32-bit integers",
            Array::I32(_) => "an array of signed 32-bit integers",
            Array::F32(_) => "an array of 32-bit floats",
            Array::Bool(_) => "an array of booleans",
            Array::Str(_) => "an array of strings",
            Array::U64(_) => "an array of unsigned 64-bit integers",
            Array::I64(_) => "an array of signed 64-bit integers",
            Array::F64(_) => "an array of 64-bit floats",
        }
    }
}

/// Many strings in one allocation: a vocabulary has 129 280 tokens, and one `String` each would
/// cost more than their text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StrArray {
    text: String,
    /// End of each string within `text`.
    ends: Vec<usize>,
}

impl StrArray {
    /// An array without strings.
    pub fn new() -> StrArray {
        StrArray::default()
    }

    /// Appends one string.
    pub fn push(&mut self, s: &str) {
        self.text.push_str(s);
        self.ends.push(self.text.len());
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String number `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let begin = match index.checked_sub(1) {
            Some(previous) => self.ends[previous],
            None => 0,
        };
        Some(&self.text[begin..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone + '_ {
        self.ends.iter().enumerate().map(|(i, &end)| {
            let begin = if i == 0 { 0 } else { self.ends[i - 1] };
            &self.text[begin..end]
        })
    }
}

impl<S: AsRef<str>> FromIterator<S> for StrArray {
    fn from_iter<I: IntoIterator<Item = S>>(iter: I) -> Self {
        let mut array = StrArray::new();
        for s in iter {
            array.push(s.as_ref());
        }
        array
    }
}
