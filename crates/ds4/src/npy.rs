//! Writing NumPy arrays as they are computed.

use std::io::{self, Write};

/// Writes a float32 array in C order whose shape is known beforehand, a piece at a time.
pub struct NpyWriter<W> {
    out: W,
    missing: usize,
}

impl<W: Write> NpyWriter<W> {
    /// Writes the header of an array [rows, cols].
    pub fn new(mut out: W, [rows, cols]: [usize; 2]) -> io::Result<NpyWriter<W>> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "the array is too large");
        let missing = rows.checked_mul(cols).ok_or_else(too_large)?;
        // Magic, version 1.0 and length take 10 bytes; the data begins at a multiple of 64, after a line feed.
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
        let padded = (10 + header.len() + 1).next_multiple_of(64) - 11;
        header.push_str(&" ".repeat(padded - header.len()));
        header.push('\n');
        let len = u16::try_from(header.len()).map_err(|_| too_large())?;
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        Ok(NpyWriter { out, missing })
    }

    /// Appends values, row-major.
    pub fn write(&mut self, values: &[f32]) -> io::Result<()> {
        let missing = self.missing.checked_sub(values.len());
        self.missing =
            missing.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "more values than announced"))?;
        values.iter().try_for_each(|value| self.out.write_all(&value.to_le_bytes()))
    }

    /// The output, if every value was written.
    pub fn finish(self) -> io::Result<W> {
        match self.missing {
            0 => Ok(self.out),
            n => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{n} values of the array are missing"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_reads_back_as_written() {
        for cols in [1, 7, 129_280] {
            let values: Vec<f32> = (0..2 * cols).map(|i| i as f32 / 3.0).collect();
            let mut writer = NpyWriter::new(Vec::new(), [2, cols]).unwrap();
            writer.write(&values[..cols]).unwrap();
            writer.write(&values[cols..]).unwrap();
            let bytes = writer.finish().unwrap();
            assert_eq!((bytes.len() - 8 * cols) % 64, 0);
            let array = ds4_testdata::npy::parse_f32(&bytes).unwrap();
            assert_eq!((array.shape, array.data), (vec![2, cols], values));
        }
    }

    #[test]
    fn a_wrong_number_of_values_is_an_error() {
        assert!(NpyWriter::new(Vec::new(), [2, 3]).unwrap().write(&[0.0; 7]).is_err());
        let mut writer = NpyWriter::new(Vec::new(), [2, 3]).unwrap();
        writer.write(&[0.0; 5]).unwrap();
        assert!(writer.finish().is_err());
        assert!(NpyWriter::new(Vec::new(), [usize::MAX, 2]).is_err());
    }
}
