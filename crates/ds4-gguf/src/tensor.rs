//! Where a tensor lies in a file and what shape it has.

use crate::TensorType;

/// Name, shape, type and place of one tensor.
///
/// `ne[0]` is the contiguous (input) dimension, so a matrix that is applied as `y = W x` with
/// `W [out, in]` has `ne = [in, out]`, and a stack of experts `ne = [in, out, experts]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Dimensions, contiguous one first; those beyond `rank` are 1.
    pub ne: [u64; 4],
    /// Number of dimensions that the file stores, 1 to 4.
    pub rank: usize,
    /// Storage type.
    pub ty: TensorType,
    /// First byte of the data, counted from the beginning of the file.
    pub offset: u64,
    /// Length of the data in bytes.
    pub size: u64,
}

impl TensorInfo {
    /// The stored dimensions, contiguous one first.
    pub fn dims(&self) -> &[u64] {
        &self.ne[..self.rank]
    }

    /// Elements in a row: `ne[0]`.
    pub fn row_len(&self) -> u64 {
        self.ne[0]
    }

    /// Rows in the whole tensor: `ne[1] * ne[2] * ne[3]`.
    pub fn n_rows(&self) -> u64 {
        self.ne[1] * self.ne[2] * self.ne[3]
    }

    /// Elements in the whole tensor.
    pub fn n_elements(&self) -> u64 {
        self.row_len() * self.n_rows()
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        self.ne[0] / self.ty.block_len() as u64 * self.ty.block_bytes() as u64
    }

    /// Bytes of one slab `[ne[0], ne[1]]`, which is one expert of a stack of experts.
    pub fn slab_bytes(&self) -> u64 {
        self.row_bytes() * self.ne[1]
    }
}

/// Size in bytes of a tensor of this shape, or `None` if a row is not a whole number of blocks or
/// a product does not fit 64 bits.
///
/// Where this is `Some`, none of the products that [`TensorInfo`] computes can wrap: the number of
/// elements is checked as well, and no partial product exceeds it because no dimension is 0.
pub(crate) fn checked_size(ty: TensorType, ne: &[u64; 4]) -> Option<u64> {
    let block_len = ty.block_len() as u64;
    if !ne[0].is_multiple_of(block_len) {
        return None;
    }
    let n_rows = ne[1].checked_mul(ne[2])?.checked_mul(ne[3])?;
    ne[0].checked_mul(n_rows)?;
    (ne[0] / block_len).checked_mul(ty.block_bytes() as u64)?.checked_mul(n_rows)
}
