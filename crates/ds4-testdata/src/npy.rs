//! NumPy's `.npy` array files, as far as the test data uses them: C order, little-endian, versions 1 to 3.

use std::ops::Range;

/// An array in C order (last dimension fastest).
#[derive(Debug, Clone, PartialEq)]
pub struct Npy<T> {
    /// Length of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` elements.
    pub data: Vec<T>,
}

impl<T> Npy<T> {
    /// Index `i` along the first dimension, as a slice of `shape[1..]` in C order.
    ///
    /// # Panics
    /// If the array has no dimension or `i` is not below `shape[0]`.
    pub fn row(&self, i: usize) -> &[T] {
        assert!(i < self.shape[0], "row {i} of {}", self.shape[0]);
        let len: usize = self.shape[1..].iter().product();
        &self.data[i * len..(i + 1) * len]
    }
}

/// A file taken apart: `descr` is NumPy's type string, such as `<f4`.
struct Raw<'a> {
    descr: &'a str,
    shape: Vec<usize>,
    data: &'a [u8],
}

/// Reads an array of float32.
///
/// # Errors
/// A sentence, if the file is damaged or holds another type.
pub fn parse_f32(file: &[u8]) -> Result<Npy<f32>, String> {
    let raw = parse(file)?;
    match raw.descr {
        "<f4" => raw.array(f32::from_le_bytes),
        other => Err(format!("holds elements of type {other}, not float32 (<f4)")),
    }
}

/// Reads an array of integers of any width that fits i64.
///
/// # Errors
/// A sentence, if the file is damaged or holds another type.
pub fn parse_i64(file: &[u8]) -> Result<Npy<i64>, String> {
    let raw = parse(file)?;
    match raw.descr {
        "|i1" => raw.array(|b| i8::from_le_bytes(b).into()),
        "<i2" => raw.array(|b| i16::from_le_bytes(b).into()),
        "<i4" => raw.array(|b| i32::from_le_bytes(b).into()),
        "<i8" => raw.array(i64::from_le_bytes),
        "|u1" => raw.array(|b| u8::from_le_bytes(b).into()),
        "<u2" => raw.array(|b| u16::from_le_bytes(b).into()),
        "<u4" => raw.array(|b| u32::from_le_bytes(b).into()),
        other => Err(format!("holds elements of type {other}, not integers that fit i64")),
    }
}

/// A file with every `step`-th row (index along the first dimension: 0, `step`, 2·`step`…) of `file`,
/// whatever its element type.
///
/// # Errors
/// A sentence, if the file is damaged or has no first dimension.
pub fn every_nth_row(file: &[u8], step: usize) -> Result<Vec<u8>, String> {
    let Raw { descr, mut shape, data } = parse(file)?;
    let rows = *shape.first().ok_or("a scalar has no rows")?;
    if rows == 0 || !data.len().is_multiple_of(rows) {
        return Err(format!("{} bytes do not make {rows} rows", data.len()));
    }
    shape[0] = rows.div_ceil(step);
    let dims: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    // NumPy pads the header with spaces and a newline so that the data starts at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.extend(std::iter::repeat_n(' ', padded - 1 - header.len()));
    header.push('\n');
    let length = u16::try_from(padded).map_err(|_| "too many dimensions".to_owned())?;

    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(length.to_le_bytes());
    out.extend(header.bytes());
    data.chunks(data.len() / rows).step_by(step).for_each(|row| out.extend(row));
    Ok(out)
}

impl Raw<'_> {
    /// The array, if the data is exactly as long as its shape says.
    fn array<const N: usize, T>(self, decode: impl Fn([u8; N]) -> T) -> Result<Npy<T>, String> {
        let elements = self.shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim));
        let (chunks, rest) = self.data.as_chunks();
        if elements != Some(chunks.len()) || !rest.is_empty() {
            let (bytes, shape) = (self.data.len(), self.shape);
            return Err(format!("holds {bytes} bytes, which is not an array of shape {shape:?}"));
        }
        Ok(Npy { data: chunks.iter().map(|bytes| decode(*bytes)).collect(), shape: self.shape })
    }
}

fn parse(file: &[u8]) -> Result<Raw<'_>, String> {
    let header = header_range(file).ok_or("is not an npy file, or its header is cut off")?;
    let text = std::str::from_utf8(&file[header.clone()]).map_err(|_| "has a binary header")?;
    if !text.contains("'fortran_order': False") {
        return Err("is in Fortran order; store it in C order".into());
    }
    let between = |open, close| {
        let (_, rest) = text.split_once(open)?;
        rest.split_once(close).map(|(inside, _)| inside)
    };
    let descr = between("'descr': '", "'").ok_or("has no simple 'descr' in its header")?;
    let shape = between("'shape': (", ")")
        .ok_or("has no 'shape' in its header")?
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty())
        .map(|dim| dim.parse().map_err(|_| format!("has the dimension '{dim}'")))
        .collect::<Result<_, _>>()?;
    Ok(Raw { descr, shape, data: &file[header.end..] })
}

/// Where the header text stands: after magic, version and a length of 2 (version 1) or 4 bytes.
fn header_range(file: &[u8]) -> Option<Range<usize>> {
    let rest = file.strip_prefix(b"\x93NUMPY")?;
    let (start, length) = match rest {
        [1, _, a, b, ..] => (10, u16::from_le_bytes([*a, *b]).into()),
        [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        _ => return None,
    };
    let end = start + length;
    (end <= file.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version-1 file as NumPy writes it.
    fn file(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        let header = format!("{text:117}\n");
        [b"\x93NUMPY\x01\x00\x76\x00", header.as_bytes(), data].concat()
    }

    #[test]
    fn shapes_of_no_one_and_two_dimensions() {
        let scalar = parse_f32(&file("<f4", "()", &1.5f32.to_le_bytes())).unwrap();
        assert_eq!(scalar, Npy { shape: vec![], data: vec![1.5] });
        let vector = parse_i64(&file("|i1", "(3,)", &[0, 127, 255])).unwrap();
        assert_eq!(vector, Npy { shape: vec![3], data: vec![0, 127, -1] });
        let matrix = parse_i64(&file("<i2", "(2, 2)", &[1, 0, 0, 1, 255, 255, 0, 128])).unwrap();
        assert_eq!(matrix, Npy { shape: vec![2, 2], data: vec![1, 256, -1, -32768] });
        assert_eq!(matrix.row(1), [-1, -32768]);
    }

    #[test]
    fn unsigned_values_stay_positive() {
        assert_eq!(parse_i64(&file("|u1", "(1,)", &[255])).unwrap().data, [255]);
        assert_eq!(parse_i64(&file("<u4", "(1,)", &[255; 4])).unwrap().data, [0xffff_ffff]);
    }

    #[test]
    fn every_nth_row_begins_with_the_first() {
        let rows: Vec<u8> = (0..14).collect();
        let kept = every_nth_row(&file("|u1", "(7, 2)", &rows), 3).unwrap();
        assert_eq!(kept.len() % 64, 6, "data starts at a multiple of 64");
        let got = parse_i64(&kept).unwrap();
        assert_eq!(got, Npy { shape: vec![3, 2], data: vec![0, 1, 6, 7, 12, 13] });
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        let good = file("<f4", "(2,)", &[0; 8]);
        assert!(parse_f32(&good).is_ok());
        assert!(parse_i64(&good).unwrap_err().contains("<f4"));
        assert!(parse_f32(&good[..good.len() - 1]).is_err(), "an element cut off");
        assert!(parse_f32(&good[..40]).is_err(), "header cut off");
        assert!(parse_f32(&file("<f4", "(3,)", &[0; 8])).is_err(), "shape larger than the data");
        assert!(parse_f32(&file("<f4", "(4294967296, 4294967296)", &[])).is_err(), "overflow");
        assert!(parse_f32(b"not an array").is_err());
    }
}
