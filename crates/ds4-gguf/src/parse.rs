//! From bytes to header, metadata and tensor table. Nothing here trusts a number in the file:
//! counts and lengths are held against the bytes that are left before anything is allocated, and the
//! whole header has a limit, so memory stays within a small multiple of it.

use std::collections::HashMap;

use crate::error::{Malformed, Quoted};
use crate::metadata::Metadata;
use crate::tensor::{TensorInfo, checked_size};
use crate::tensor_type::TensorType;
use crate::value::{ARRAY_TYPE, Array, StrArray, Value};

/// First four bytes of a file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is read and written.
pub(crate) const VERSION: u32 = 3;
/// Alignment of tensor data where the file does not say otherwise.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;
/// The key that says otherwise.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Most bytes of header, metadata and tensor table. The largest known ones take some 20 MB, nearly all
/// of it the vocabulary. Without a limit a sparse file, which costs nothing to make, could have
/// metadata larger than memory.
pub(crate) const MAX_HEADER: u64 = 256 << 20;

/// Fewest bytes of one key/value: empty key, type, one-byte value.
const MIN_KEY_VALUE: u64 = 8 + 4 + 1;
/// Fewest bytes of one tensor entry: empty name, rank, one dimension, type, offset.
const MIN_TENSOR_INFO: u64 = 8 + 4 + 8 + 4 + 8;

/// What a file says before its data begins.
pub(crate) struct Parsed {
    pub alignment: u32,
    pub data_start: u64,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    pub by_name: HashMap<String, usize>,
}

/// A problem and the byte it concerns.
pub(crate) type At<T> = Result<T, (u64, Malformed)>;

/// Parses the whole header of `bytes`, which is the complete file; `origin` names it in later
/// messages about metadata.
pub(crate) fn parse(bytes: &[u8], origin: &str) -> At<Parsed> {
    let mut cursor = Cursor { bytes, pos: 0 };
    check_magic(&mut cursor)?;

    let count_at = cursor.offset();
    let n_tensors = cursor.u64("the number of tensors")?;
    let n_key_values = cursor.u64("the number of metadata entries")?;
    // Both tables follow, so each alone must fit what is left.
    cursor.check_count("tensors", n_tensors, MIN_TENSOR_INFO, count_at)?;
    cursor.check_count("metadata entries", n_key_values, MIN_KEY_VALUE, count_at + 8)?;

    let (metadata, alignment) = parse_metadata(&mut cursor, n_key_values, origin)?;
    let entries = parse_tensor_entries(&mut cursor, n_tensors)?;

    let data_start = cursor.offset().next_multiple_of(u64::from(alignment));
    let (tensors, by_name) = place_tensors(entries, data_start, alignment, bytes.len() as u64)?;
    Ok(Parsed { alignment, data_start, metadata, tensors, by_name })
}

fn check_magic(cursor: &mut Cursor<'_>) -> At<()> {
    if cursor.bytes.is_empty() {
        return Err((0, Malformed::Empty));
    }
    let magic = cursor.take(4, "the magic \"GGUF\"")?;
    if magic == b"FUGG" {
        return Err((0, Malformed::BigEndian));
    }
    if magic != MAGIC {
        let found = format!("\"{}\"", magic.escape_ascii());
        return Err((0, Malformed::Magic { found }));
    }
    let version_at = cursor.offset();
    let version = cursor.u32("the version")?;
    if version == VERSION.swap_bytes() {
        return Err((version_at, Malformed::BigEndian));
    }
    if version != VERSION {
        return Err((version_at, Malformed::Version { found: version }));
    }
    Ok(())
}

fn parse_metadata(cursor: &mut Cursor<'_>, count: u64, origin: &str) -> At<(Metadata, u32)> {
    let mut metadata = Metadata::new(origin);
    let mut alignment = DEFAULT_ALIGNMENT;
    for _ in 0..count {
        let key_at = cursor.offset();
        let key = cursor.string("a metadata key")?;
        if metadata.contains(key) {
            let key = Quoted::new(key);
            return Err((key_at, Malformed::DuplicateKey { key }));
        }
        let type_at = cursor.offset();
        let type_id = cursor.u32("the type of a metadata value")?;
        let value_at = cursor.offset();
        let value = if type_id == ARRAY_TYPE {
            Value::Array(parse_array(cursor, key)?)
        } else {
            parse_scalar(cursor, key, type_id, type_at)?
        };
        if key == ALIGNMENT_KEY {
            alignment = check_alignment(&value).map_err(|problem| (value_at, problem))?;
        }
        metadata.insert(key, value);
    }
    Ok((metadata, alignment))
}

/// The alignment that this value of `general.alignment` asks for.
pub(crate) fn check_alignment(value: &Value) -> Result<u32, Malformed> {
    let found = value.as_integer().ok_or(Malformed::AlignmentType { found: value.kind() })?;
    match u32::try_from(found) {
        Ok(a) if a.is_power_of_two() && (8..=1 << 30).contains(&a) => Ok(a),
        _ => Err(Malformed::Alignment { found }),
    }
}

const VALUE: &str = "a metadata value";

fn parse_scalar(cursor: &mut Cursor<'_>, key: &str, id: u32, id_at: u64) -> At<Value> {
    Ok(match id {
        0 => Value::U8(cursor.number(VALUE, u8::from_le_bytes)?),
        1 => Value::I8(cursor.number(VALUE, i8::from_le_bytes)?),
        2 => Value::U16(cursor.number(VALUE, u16::from_le_bytes)?),
        3 => Value::I16(cursor.number(VALUE, i16::from_le_bytes)?),
        4 => Value::U32(cursor.number(VALUE, u32::from_le_bytes)?),
        5 => Value::I32(cursor.number(VALUE, i32::from_le_bytes)?),
        6 => Value::F32(cursor.number(VALUE, f32::from_le_bytes)?),
        7 => Value::Bool(cursor.bool()?),
        8 => Value::Str(cursor.string("a metadata string")?.to_owned()),
        10 => Value::U64(cursor.number(VALUE, u64::from_le_bytes)?),
        11 => Value::I64(cursor.number(VALUE, i64::from_le_bytes)?),
        12 => Value::F64(cursor.number(VALUE, f64::from_le_bytes)?),
        _ => {
            let key = Quoted::new(key);
            return Err((id_at, Malformed::ValueType { key, id }));
        }
    })
}

fn parse_array(cursor: &mut Cursor<'_>, key: &str) -> At<Array> {
    let id_at = cursor.offset();
    let id = cursor.u32("the element type of an array")?;
    let count_at = cursor.offset();
    let count = cursor.u64("the length of an array")?;
    Ok(match id {
        0 => Array::U8(cursor.numbers(count, count_at, u8::from_le_bytes)?),
        1 => Array::I8(cursor.numbers(count, count_at, i8::from_le_bytes)?),
        2 => Array::U16(cursor.numbers(count, count_at, u16::from_le_bytes)?),
        3 => Array::I16(cursor.numbers(count, count_at, i16::from_le_bytes)?),
        4 => Array::U32(cursor.numbers(count, count_at, u32::from_le_bytes)?),
        5 => Array::I32(cursor.numbers(count, count_at, i32::from_le_bytes)?),
        6 => Array::F32(cursor.numbers(count, count_at, f32::from_le_bytes)?),
        7 => {
            cursor.check_count(ELEMENTS, count, 1, count_at)?;
            Array::Bool((0..count).map(|_| cursor.bool()).collect::<Result<_, _>>()?)
        }
        8 => {
            cursor.check_count(ELEMENTS, count, 8, count_at)?;
            let mut strings = StrArray::new();
            for _ in 0..count {
                strings.push(cursor.string("a string of an array")?);
            }
            Array::Str(strings)
        }
        10 => Array::U64(cursor.numbers(count, count_at, u64::from_le_bytes)?),
        11 => Array::I64(cursor.numbers(count, count_at, i64::from_le_bytes)?),
        12 => Array::F64(cursor.numbers(count, count_at, f64::from_le_bytes)?),
        ARRAY_TYPE => {
            let key = Quoted::new(key);
            return Err((id_at, Malformed::NestedArray { key }));
        }
        _ => {
            let key = Quoted::new(key);
            return Err((id_at, Malformed::ValueType { key, id }));
        }
    })
}

const ELEMENTS: &str = "array elements";

/// A tensor entry whose place is not checked yet, because the data section's beginning is known
/// only after the last entry.
struct TensorEntry {
    info: TensorInfo,
    /// Where the entry's offset field stands in the file.
    offset_at: u64,
}

fn parse_tensor_entries(cursor: &mut Cursor<'_>, count: u64) -> At<Vec<TensorEntry>> {
    let mut entries = Vec::new();
    for _ in 0..count {
        let name = cursor.string("a tensor name")?;
        let rank_at = cursor.offset();
        let rank = cursor.u32("the rank of a tensor")?;
        if !(1..=4).contains(&rank) {
            let name = Quoted::new(name);
            return Err((rank_at, Malformed::Rank { name, rank }));
        }
        let rank = rank as usize;
        let shape_at = cursor.offset();
        let mut dims = [0u64; 4];
        for n in &mut dims[..rank] {
            *n = cursor.u64("a dimension of a tensor")?;
        }
        let ne = check_dimensions(name, &dims[..rank]).map_err(|problem| match problem {
            Malformed::Dimension { axis, .. } => (shape_at + 8 * axis as u64, problem),
            _ => (shape_at, problem),
        })?;
        let type_at = cursor.offset();
        let id = cursor.u32("the type of a tensor")?;
        let Some(ty) = TensorType::from_id(id) else {
            let name = Quoted::new(name);
            return Err((type_at, Malformed::TensorType { name, id }));
        };
        let offset_at = cursor.offset();
        let offset = cursor.u64("the data offset of a tensor")?;
        let size = size_of(name, ty, &ne, rank).map_err(|problem| (shape_at, problem))?;
        entries.push(TensorEntry { info: TensorInfo { name: name.to_owned(), ne, rank, ty, offset, size }, offset_at });
    }
    Ok(entries)
}

/// The four dimensions of a tensor, absent ones being 1, or why they are impossible. Shared with the
/// writer.
pub(crate) fn check_dimensions(name: &str, dims: &[u64]) -> Result<[u64; 4], Malformed> {
    if !(1..=4).contains(&dims.len()) {
        return Err(Malformed::Rank { name: Quoted::new(name), rank: u32::try_from(dims.len()).unwrap_or(u32::MAX) });
    }
    let mut ne = [1; 4];
    for (axis, (n, &found)) in ne.iter_mut().zip(dims).enumerate() {
        if found == 0 || i64::try_from(found).is_err() {
            let name = Quoted::new(name);
            return Err(Malformed::Dimension { name, axis, found });
        }
        *n = found;
    }
    Ok(ne)
}

/// Size in bytes of a tensor, or why its shape is impossible. Shared with the writer.
pub(crate) fn size_of(name: &str, ty: TensorType, ne: &[u64; 4], rank: usize) -> Result<u64, Malformed> {
    let block_len = ty.block_len() as u64;
    if !ne[0].is_multiple_of(block_len) {
        return Err(Malformed::PartialBlock { name: Quoted::new(name), row_len: ne[0], block_len, ty });
    }
    checked_size(ty, ne).ok_or_else(|| Malformed::TooLarge { name: Quoted::new(name), shape: ne[..rank].to_vec() })
}

/// Makes the offsets absolute and checks that all data lies inside the file. Tensors may share
/// bytes: nothing forbids it, and files with tied weights do so.
fn place_tensors(
    entries: Vec<TensorEntry>,
    data_start: u64,
    alignment: u32,
    file_len: u64,
) -> At<(Vec<TensorInfo>, HashMap<String, usize>)> {
    let alignment = u64::from(alignment);
    let mut tensors = Vec::with_capacity(entries.len());
    let mut by_name = HashMap::with_capacity(entries.len());
    for TensorEntry { mut info, offset_at } in entries {
        let name = Quoted::new(&info.name);
        if by_name.insert(info.name.clone(), tensors.len()).is_some() {
            return Err((offset_at, Malformed::DuplicateTensor { name }));
        }
        if !info.offset.is_multiple_of(alignment) {
            let offset = info.offset;
            let problem = Malformed::Misaligned { name, offset, alignment };
            return Err((offset_at, problem));
        }
        let begin = u128::from(data_start) + u128::from(info.offset);
        if begin + u128::from(info.size) > u128::from(file_len) {
            let problem = Malformed::DataPastEnd { name, begin, size: info.size, file_len };
            return Err((offset_at, problem));
        }
        // Cannot wrap: the sum is below the file's length.
        info.offset += data_start;
        tensors.push(info);
    }
    Ok((tensors, by_name))
}

/// A read position in the file.
struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    fn offset(&self) -> u64 {
        self.pos as u64
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    fn take(&mut self, n: u64, what: &'static str) -> At<&'a [u8]> {
        let left = self.left();
        if n > left {
            let problem = Malformed::Truncated { what, needed: n, left };
            return Err((self.offset(), problem));
        }
        if n > MAX_HEADER.saturating_sub(self.offset()) {
            return Err((self.offset(), Malformed::HeaderTooLarge { limit: MAX_HEADER }));
        }
        // `n` is at most a slice's length here, so the conversion keeps its value.
        let taken = &self.bytes[self.pos..self.pos + n as usize];
        self.pos += taken.len();
        Ok(taken)
    }

    /// Fails if `count` items of at least `least` bytes cannot follow, in the file or in a header.
    fn check_count(&self, what: &'static str, count: u64, least: u64, at: u64) -> At<()> {
        let left = self.left();
        if count > left / least {
            return Err((at, Malformed::Count { what, count, least, left }));
        }
        if count > MAX_HEADER.saturating_sub(self.offset()) / least {
            return Err((at, Malformed::HeaderTooLarge { limit: MAX_HEADER }));
        }
        Ok(())
    }

    fn number<T, const N: usize>(&mut self, what: &'static str, from: fn([u8; N]) -> T) -> At<T> {
        let mut raw = [0; N];
        raw.copy_from_slice(self.take(N as u64, what)?);
        Ok(from(raw))
    }

    fn numbers<T, const N: usize>(&mut self, count: u64, count_at: u64, from: fn([u8; N]) -> T) -> At<Vec<T>> {
        self.check_count(ELEMENTS, count, N as u64, count_at)?;
        let raw = self.take(count * N as u64, "an array")?;
        let (items, _) = raw.as_chunks::<N>();
        Ok(items.iter().map(|item| from(*item)).collect())
    }

    fn u32(&mut self, what: &'static str) -> At<u32> {
        self.number(what, u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> At<u64> {
        self.number(what, u64::from_le_bytes)
    }

    fn bool(&mut self) -> At<bool> {
        let at = self.offset();
        match self.number(VALUE, u8::from_le_bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err((at, Malformed::Bool { found })),
        }
    }

    fn string(&mut self, what: &'static str) -> At<&'a str> {
        let len = self.u64(what)?;
        let at = self.offset();
        let raw = self.take(len, what)?;
        std::str::from_utf8(raw).map_err(|error| {
            let bad = error.valid_up_to();
            (at, Malformed::Utf8 { what, bad })
        })
    }
}
