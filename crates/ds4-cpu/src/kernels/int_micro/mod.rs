//! The inner loop of integer products: one [`Tile`] of sixteen weight rows times a few activation rows.

mod scalar;

use super::activation::QuantizedRow;
use super::isa::{Isa, Kind};
use super::tile::{ROWS, Tile};

/// Most activation rows one call takes.
pub(crate) const MAX_ROWS: usize = 8;

/// Products of the tile's sixteen weight rows with up to [`MAX_ROWS`] activation rows:
/// `out[r][o]` = weight row `o` times activation row `x[r]`.
pub(crate) fn multiply(isa: Isa, tile: &Tile, x: &[QuantizedRow<'_>], out: &mut [[f32; ROWS]]) {
    assert_eq!(x.len(), out.len());
    for row in x {
        let groups = tile.scales().len();
        assert!(row.d.len() == groups && row.q.len() == groups * 32 && row.sums.len() == groups * 2);
    }
    match isa.kind() {
        Kind::Scalar => scalar::multiply(tile, x, out),
        _ => scalar::multiply(tile, x, out),
    }
}
