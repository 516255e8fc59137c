//! Weight matrices as they lie in the model file, and the choice of rows they are applied to.

use ds4_gguf::TensorType;
use std::ops::Range;

/// Why bytes cannot be read as a weight matrix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MatrixError {
    /// A row is not a whole number of blocks.
    #[error("rows of {cols} elements cannot be stored as {ty}, whose blocks have {block} elements")]
    Cols {
        /// Storage type.
        ty: TensorType,
        /// Elements per row.
        cols: usize,
        /// Elements per block.
        block: usize,
    },
    /// Too few or too many bytes.
    #[error("a {rows} x {cols} matrix stored as {ty} has {expected} bytes, not {actual}")]
    Size {
        /// Storage type.
        ty: TensorType,
        /// Number of rows.
        rows: usize,
        /// Elements per row.
        cols: usize,
        /// Bytes it should have.
        expected: usize,
        /// Bytes there are.
        actual: usize,
    },
    /// Integers and the like are tables, not matrices.
    #[error("tensors of type {0} are tables and cannot be multiplied with")]
    Type(TensorType),
}

/// A weight matrix `[rows (outputs), cols (inputs)]`: row-major blocks along the inputs, at any
/// alignment, borrowed from the model file.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    ty: TensorType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A matrix over `data`, which holds exactly `rows` rows of `cols` elements stored as `ty`.
    ///
    /// # Errors
    /// `ty` is not a weight type, `cols` is not a multiple of its block, or the size is wrong.
    pub fn new(ty: TensorType, rows: usize, cols: usize, data: &'a [u8]) -> Result<Matrix<'a>, MatrixError> {
        if ty == TensorType::I32 {
            return Err(MatrixError::Type(ty));
        }
        let block = ty.block_len();
        if cols == 0 || !cols.is_multiple_of(block) {
            return Err(MatrixError::Cols { ty, cols, block });
        }
        let row_bytes = (cols / block).saturating_mul(ty.block_bytes());
        let expected = row_bytes.saturating_mul(rows);
        if expected != data.len() {
            return Err(MatrixError::Size { ty, rows, cols, expected, actual: data.len() });
        }
        Ok(Matrix { ty, rows, cols, row_bytes, data })
    }

    /// A float32 matrix `[data.len() / cols, cols]` over numbers in memory, for products between
    /// activations (attention scores).
    ///
    /// # Panics
    /// `cols` is 0 or does not divide the length.
    pub fn from_f32(data: &'a [f32], cols: usize) -> Matrix<'a> {
        assert!(cols > 0 && data.len().is_multiple_of(cols), "{} values in rows of {cols}", data.len());
        Matrix {
            ty: TensorType::F32,
            rows: data.len() / cols,
            cols,
            row_bytes: cols * 4,
            data: bytemuck::cast_slice(data),
        }
    }

    /// Storage type.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements per row (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes per row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The bytes of all rows, one after the other.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.data
    }

    /// The bytes of row `row`.
    ///
    /// # Panics
    /// There is no such row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    /// The bytes `part` of sixteen rows from `first`; past `end`, row `end - 1` is repeated so that kernels
    /// that work on sixteen rows side by side always have sixteen to read.
    pub(crate) fn sixteen_rows(&self, first: usize, end: usize, part: Range<usize>) -> [&'a [u8]; 16] {
        assert!(first < end && end <= self.rows && part.start <= part.end && part.end <= self.row_bytes);
        let mut rows = [&self.data[..0]; 16];
        for (i, row) in rows.iter_mut().enumerate() {
            let at = (first + i).min(end - 1) * self.row_bytes;
            *row = &self.data[at + part.start..at + part.end];
        }
        rows
    }
}

/// Which activation rows a product reads and which output rows it writes.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Activation row `i` gives output row `i`, for all of them.
    All,
    /// The same for `len` rows from `first` on.
    Range {
        /// The first row.
        first: usize,
        /// How many.
        len: usize,
    },
    /// The `i`-th result is that of activation row `input[i]` and goes to output row `output[i]`: the
    /// tokens routed to one expert. Lists have equal length; `output` has no number twice.
    Map {
        /// Activation rows.
        input: &'a [u32],
        /// Output rows.
        output: &'a [u32],
    },
}

impl<'a> Rows<'a> {
    /// Results `part` of these, of which there are as many.
    ///
    /// # Panics
    /// A list does not have that many.
    pub fn part(self, part: Range<usize>) -> Rows<'a> {
        match self {
            Rows::All => Rows::Range { first: part.start, len: part.len() },
            Rows::Range { first, len } => {
                assert!(part.start <= part.end && part.end <= len, "results {part:?} of {len}");
                Rows::Range { first: first + part.start, len: part.len() }
            }
            Rows::Map { input, output } => Rows::Map { input: &input[part.clone()], output: &output[part] },
        }
    }

    /// Number of results, checked against the arrays they index.
    ///
    /// # Panics
    /// The lists differ in length, or an index lies outside its array.
    pub(crate) fn check(&self, n_input: usize, n_output: usize) -> usize {
        match self {
            Rows::All => {
                assert!(n_input <= n_output, "{n_input} activation rows, room for {n_output} results");
                n_input
            }
            Rows::Range { first, len } => {
                let end = first.saturating_add(*len);
                assert!(end <= n_input && end <= n_output, "rows to {end} of {n_input}, room for {n_output}");
                *len
            }
            Rows::Map { input, output } => {
                assert_eq!(input.len(), output.len(), "activation and output row lists differ in length");
                assert!(
                    input.iter().all(|&row| (row as usize) < n_input),
                    "an activation row index is not below {n_input}"
                );
                assert!(
                    output.iter().all(|&row| (row as usize) < n_output),
                    "an output row index is not below {n_output}"
                );
                input.len()
            }
        }
    }

    /// Activation row and output row of result `i`.
    #[inline]
    pub(crate) fn get(&self, i: usize) -> (usize, usize) {
        match self {
            Rows::All => (i, i),
            Rows::Range { first, .. } => (first + i, first + i),
            Rows::Map { input, output } => (input[i] as usize, output[i] as usize),
        }
    }
}
