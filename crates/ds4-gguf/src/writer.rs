//! Writing a GGUF file as a stream: header first, then the tensor data in order.

use std::collections::HashSet;
use std::io::{self, Write};

use crate::error::{Error, Malformed, Quoted};
use crate::metadata::Metadata;
use crate::parse::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, VERSION, check_alignment, check_dimensions, size_of};
use crate::tensor_type::TensorType;
use crate::value::{Array, StrArray, Value};

/// Where each tensor of a file to be written will lie.
///
/// [`Layout::push`] gives a tensor room of its own after the previous ones, and its data has to be
/// written. [`Layout::push_at`] lets a tensor share bytes of others; no data is written for it.
#[derive(Clone, Debug)]
pub struct Layout {
    alignment: u32,
    entries: Vec<Entry>,
    names: HashSet<String>,
    /// Length of the data section so far, a multiple of the alignment.
    data_len: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    ty: TensorType,
    dims: Vec<u64>,
    /// First byte of the data, counted from the beginning of the data section.
    offset: u64,
    size: u64,
    /// Whether the data has to be written.
    owned: bool,
}

impl Layout {
    /// An empty layout with the alignment that `metadata` asks for (`general.alignment`, else 32).
    ///
    /// # Errors
    /// [`Error::Unwritable`] if that alignment is not valid.
    pub fn new(metadata: &Metadata) -> Result<Layout, Error> {
        Ok(Layout { alignment: alignment_of(metadata)?, entries: Vec::new(), names: HashSet::new(), data_len: 0 })
    }

    /// Adds a tensor after the previous ones and returns the offset of its data in the data
    /// section. `dims`: contiguous one first, 1 to 4 of them.
    ///
    /// # Errors
    /// [`Error::Unwritable`] if the name is taken or the shape is not possible.
    pub fn push(&mut self, name: &str, ty: TensorType, dims: &[u64]) -> Result<u64, Error> {
        let offset = self.data_len;
        let mut entry = self.entry(name, ty, dims, offset)?;
        entry.owned = true;
        let end =
            offset.checked_add(entry.size).and_then(|end| end.checked_next_multiple_of(u64::from(self.alignment)));
        self.data_len =
            end.ok_or_else(|| unwritable(Malformed::TooLarge { name: Quoted::new(name), shape: dims.to_vec() }))?;
        self.add(entry);
        Ok(offset)
    }

    /// Adds a tensor whose data lies at `offset` of the data section, inside what [`Layout::push`]
    /// has laid out before.
    ///
    /// # Errors
    /// [`Error::Unwritable`] as for [`Layout::push`], and if the offset is not aligned or the data
    /// would reach beyond the tensors so far.
    pub fn push_at(&mut self, name: &str, ty: TensorType, dims: &[u64], offset: u64) -> Result<(), Error> {
        let entry = self.entry(name, ty, dims, offset)?;
        let alignment = u64::from(self.alignment);
        if !offset.is_multiple_of(alignment) {
            return Err(unwritable(Malformed::Misaligned { name: Quoted::new(name), offset, alignment }));
        }
        if u128::from(offset) + u128::from(entry.size) > u128::from(self.data_len) {
            return Err(unwritable(Malformed::DataPastEnd {
                name: Quoted::new(name),
                begin: u128::from(offset),
                size: entry.size,
                file_len: self.data_len,
            }));
        }
        self.add(entry);
        Ok(())
    }

    /// Length of the data section in bytes.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    fn entry(&self, name: &str, ty: TensorType, dims: &[u64], offset: u64) -> Result<Entry, Error> {
        if self.names.contains(name) {
            let name = Quoted::new(name);
            return Err(unwritable(Malformed::DuplicateTensor { name }));
        }
        let ne = check_dimensions(name, dims).map_err(unwritable)?;
        Ok(Entry {
            name: name.to_owned(),
            ty,
            dims: dims.to_vec(),
            offset,
            size: size_of(name, ty, &ne, dims.len()).map_err(unwritable)?,
            owned: false,
        })
    }

    fn add(&mut self, entry: Entry) {
        self.names.insert(entry.name.clone());
        self.entries.push(entry);
    }
}

fn unwritable(problem: Malformed) -> Error {
    Error::Unwritable { problem }
}

fn alignment_of(metadata: &Metadata) -> Result<u32, Error> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(value) => check_alignment(value).map_err(unwritable),
    }
}

/// Writes one file: the header on construction, then each tensor's data in the layout's order.
///
/// ```
/// use ds4_gguf::{Gguf, GgufWriter, Layout, Metadata, TensorType, Value};
///
/// let mut metadata = Metadata::new("new file");
/// metadata.insert("general.architecture", Value::Str("example".into()));
/// let mut layout = Layout::new(&metadata)?;
/// let offset = layout.push("a", TensorType::F32, &[2, 3])?;
/// layout.push_at("first_row_of_a", TensorType::F32, &[2], offset)?;
///
/// let mut writer = GgufWriter::new("new.gguf", Vec::new(), &metadata, layout)?;
/// writer.write_tensor("a", &[0; 24])?;
/// let bytes = writer.finish()?;
///
/// let gguf = Gguf::from_vec("new.gguf", bytes)?;
/// assert_eq!(gguf.require_tensor("first_row_of_a")?.size, 8);
/// # Ok::<(), ds4_gguf::Error>(())
/// ```
pub struct GgufWriter<W: Write> {
    /// The output, for messages.
    file: String,
    out: W,
    alignment: u32,
    /// Name and size of the tensors whose data is still to come, next one last.
    pending: Vec<(String, u64)>,
    /// Bytes of the next tensor that are written already.
    written: u64,
}

impl<W: Write> GgufWriter<W> {
    /// Writes header, metadata and tensor table to `out`; `file` names it in messages.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Unwritable`] if the metadata's alignment is not the layout's.
    pub fn new(file: &str, out: W, metadata: &Metadata, layout: Layout) -> Result<Self, Error> {
        let alignment = alignment_of(metadata)?;
        if alignment != layout.alignment {
            let found = i128::from(layout.alignment);
            return Err(unwritable(Malformed::Alignment { found }));
        }
        let mut writer = GgufWriter { file: file.to_owned(), out, alignment, pending: Vec::new(), written: 0 };
        let header = header(metadata, &layout);
        writer.emit(&header)?;
        writer.pad(header.len() as u64)?;
        let owned = layout.entries.into_iter().filter(|entry| entry.owned);
        writer.pending = owned.map(|entry| (entry.name, entry.size)).collect();
        writer.pending.reverse();
        Ok(writer)
    }

    /// Writes all data of the next tensor, which must be `name`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::TensorOrder`] if another tensor is next; [`Error::TensorData`] if
    /// `data` is not what the tensor needs.
    pub fn write_tensor(&mut self, name: &str, data: &[u8]) -> Result<(), Error> {
        let size = self.next_size(name)?;
        if self.written != 0 || data.len() as u64 != size {
            return Err(self.wrong_length(name, size, data));
        }
        self.write_part(name, data)
    }

    /// Writes some data of the next tensor, which must be `name`. The tensor is complete when its
    /// parts add up to its size.
    ///
    /// # Errors
    /// As [`GgufWriter::write_tensor`]; [`Error::TensorData`] if the parts become too long.
    pub fn write_part(&mut self, name: &str, part: &[u8]) -> Result<(), Error> {
        let size = self.next_size(name)?;
        if part.len() as u64 > size - self.written {
            return Err(self.wrong_length(name, size, part));
        }
        self.emit(part)?;
        self.written += part.len() as u64;
        if self.written == size {
            self.pad(size)?;
            self.pending.pop();
            self.written = 0;
        }
        Ok(())
    }

    /// Checks that all data was written, flushes, and returns the output.
    ///
    /// # Errors
    /// [`Error::TensorOrder`] if data is missing, [`Error::Io`].
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((next, _)) = self.pending.last() {
            return Err(Error::TensorOrder {
                file: self.file,
                next: Quoted::new(next).to_string(),
                found: "the end".to_owned(),
            });
        }
        self.out.flush().map_err(|e| io_error(&self.file, e))?;
        Ok(self.out)
    }

    fn next_size(&self, name: &str) -> Result<u64, Error> {
        match self.pending.last() {
            Some((next, size)) if next == name => Ok(*size),
            other => Err(Error::TensorOrder {
                file: self.file.clone(),
                next: other.map_or("nothing".to_owned(), |(n, _)| Quoted::new(n).to_string()),
                found: Quoted::new(name).to_string(),
            }),
        }
    }

    fn wrong_length(&self, name: &str, size: u64, data: &[u8]) -> Error {
        Error::TensorData {
            file: self.file.clone(),
            name: Quoted::new(name),
            size,
            given: self.written.saturating_add(data.len() as u64),
        }
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|e| io_error(&self.file, e))
    }

    /// Zero bytes from `len` up to the next multiple of the alignment.
    fn pad(&mut self, len: u64) -> Result<(), Error> {
        let mut left = len.next_multiple_of(u64::from(self.alignment)) - len;
        while left > 0 {
            let n = left.min(4096);
            self.emit(&[0; 4096][..n as usize])?;
            left -= n;
        }
        Ok(())
    }
}

fn io_error(file: &str, source: io::Error) -> Error {
    Error::Io { file: file.to_owned(), action: "write", source }
}

fn header(metadata: &Metadata, layout: &Layout) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((layout.entries.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_str(&mut out, key);
        out.extend(value.type_id().to_le_bytes());
        put_value(&mut out, value);
    }
    for entry in &layout.entries {
        put_str(&mut out, &entry.name);
        out.extend((entry.dims.len() as u32).to_le_bytes());
        out.extend(entry.dims.iter().flat_map(|n| n.to_le_bytes()));
        out.extend(entry.ty.id().to_le_bytes());
        out.extend(entry.offset.to_le_bytes());
    }
    out
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::Str(v) => put_str(out, v),
        Value::Array(array) => put_array(out, array),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.element_type_id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&x| u8::from(x))),
        Array::Str(v) => put_strings(out, v),
        Array::U64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
    }
}

fn put_strings(out: &mut Vec<u8>, strings: &StrArray) {
    for s in strings.iter() {
        put_str(out, s);
    }
}
