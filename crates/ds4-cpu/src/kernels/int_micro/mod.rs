//! The inner loop of integer products: one or two [`Tile`]s of sixteen weight rows times a few activation rows.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod halves;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::isa::{Isa, Kind};
use super::panel::{Block, WORDS};
use super::tile::{ROWS, Tile};

/// Tiles that one call takes at most; they share the loads of the activations.
pub(crate) const TILES: usize = 2;

/// The products of one activation row with the rows of the tiles.
pub(crate) type Sums = [[f32; ROWS]; TILES];

/// Most activation rows one call takes, as many as the registers hold.
pub(crate) fn most_rows(isa: Isa) -> usize {
    match isa.kind() {
        Kind::Avx512 => 6,
        _ => 4,
    }
}

/// Continues the products of the tiles' weight rows with the rows of a block: `acc[r][t][o]` += weight row `o` of tile `t`
/// times activation row `r`, group by group.
///
/// # Panics
/// There are no or too many tiles or rows, or lengths differ.
pub(crate) fn multiply(isa: Isa, tiles: &[Tile], x: Block<'_>, acc: &mut [Sums]) {
    let [first, ..] = tiles else { panic!("products of at least one tile") };
    let groups = first.codes().len();
    // The vector versions read through pointers, relying on these lengths.
    assert!(tiles.len() <= TILES && x.rows == acc.len() && x.words.len() == groups * WORDS * x.rows);
    assert!(x.rows > 0 && x.rows <= most_rows(isa));
    for tile in tiles {
        assert!(tile.codes().len() == groups && tile.scales().len() == groups && tile.bias == first.bias);
        assert!(tile.minima().is_some() == first.minima().is_some());
        assert!(tile.minima().is_none_or(|m| m.factors.len() == groups && m.scales.len() == groups));
    }
    match isa.kind() {
        // SAFETY: an `Isa` exists only where the processor offers its instructions; lengths were checked.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::multiply(tiles, x, acc) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::multiply(tiles, x, acc) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => unsafe { neon::multiply(tiles, x, acc) },
        _ => scalar::multiply(tiles, x, acc),
    }
}
