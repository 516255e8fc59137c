//! The inner loop of integer products: one [`Tile`] of sixteen weight rows times a few activation rows.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::activation::{GROUP, QuantizedRow};
use super::isa::{Isa, Kind};
use super::tile::{ROWS, Tile};

/// Most activation rows one call takes.
pub(crate) const MAX_ROWS: usize = 8;

/// Continues the products of the tile's sixteen weight rows with up to [`MAX_ROWS`] activation rows:
/// `acc[r][o]` += weight row `o` times activation row `x[r]`, group by group.
///
/// # Panics
/// `x` is empty or too long, or its rows do not have the tile's length.
pub(crate) fn multiply(isa: Isa, tile: &Tile, x: &[QuantizedRow<'_>], acc: &mut [[f32; ROWS]]) {
    assert!(!x.is_empty() && x.len() <= MAX_ROWS && x.len() == acc.len());
    let groups = tile.codes().len();
    // The vector versions read through pointers, relying on these lengths.
    assert!(tile.scales().len() == groups);
    assert!(tile.minima().is_none_or(|m| m.factors.len() == groups && m.scales.len() == groups));
    for x in x {
        assert!(x.q.len() == groups * GROUP && x.d.len() == groups && x.sums.len() == groups * 2);
    }
    match isa.kind() {
        // SAFETY: an `Isa` exists only where the processor offers its instructions; lengths were checked.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::multiply(tile, x, acc) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::multiply(tile, x, acc) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => unsafe { neon::multiply(tile, x, acc) },
        _ => scalar::multiply(tile, x, acc),
    }
}
