//! The inner loop of integer products: one or two [`Tile`]s of sixteen weight rows times a few activation rows.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
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
use super::panel::{Block, Layout, WORDS};
use super::tile::{ROWS, Tile};

/// Tiles that one call takes at most; they share the loads of the activations.
pub(crate) const TILES: usize = 2;

/// The products of one activation row with the rows of the tiles.
pub(crate) type Sums = [[f32; ROWS]; TILES];

/// The loop that suits an instruction set and a number of activation rows, ready to run on this thread.
pub(crate) struct Loop {
    kind: Kind,
    #[cfg(target_arch = "x86_64")]
    tiles: Option<amx::Registers>,
}

impl Loop {
    /// For `n` rows in all.
    pub fn new(isa: Isa, n: usize) -> Loop {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = n;
        Loop {
            kind: isa.kind(),
            // SAFETY: an `Isa` exists only where the processor and the system offer its instructions.
            #[cfg(target_arch = "x86_64")]
            tiles: (isa.has_tiles() && n >= amx::LEAST_ROWS).then(|| unsafe { amx::Registers::take() }),
        }
    }

    /// How it wants activation rows: as many as the registers hold at a time.
    pub fn layout(&self) -> Layout {
        #[cfg(target_arch = "x86_64")]
        if self.tiles.is_some() {
            return Layout { most: amx::MOST_ROWS, by_row: true };
        }
        Layout { most: if self.kind == Kind::Avx512 { 6 } else { 4 }, by_row: false }
    }

    /// Whether tiles have to be [made signed](Tile::make_signed).
    pub fn takes_signed(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.tiles.is_some();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Continues the products of the tiles' weight rows with the rows of a block: `acc[r][t][o]` += weight row `o` of tile `t`
    /// times activation row `r`, group by group.
    ///
    /// # Panics
    /// There are no or too many tiles or rows, lengths differ, or the tiles or the block are not as this loop wants them.
    pub fn multiply(&self, tiles: &[Tile], x: Block<'_>, acc: &mut [Sums]) {
        let [first, ..] = tiles else { panic!("products of at least one tile") };
        let (groups, layout) = (first.codes().len(), self.layout());
        // The vector versions read through pointers, relying on these lengths.
        assert!(tiles.len() <= TILES && x.words.len() == groups * WORDS * x.rows);
        assert!(x.rows == if layout.by_row { layout.most } else { acc.len() });
        assert!(!acc.is_empty() && acc.len() <= layout.most);
        assert!(!self.takes_signed() || first.bias == 0);
        for tile in tiles {
            assert!(tile.codes().len() == groups && tile.scales().len() == groups && tile.bias == first.bias);
            assert!(tile.minima().is_some() == first.minima().is_some());
            assert!(tile.minima().is_none_or(|m| m.factors.len() == groups && m.scales.len() == groups));
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(registers) = &self.tiles {
            // SAFETY: an `Isa` exists only where the processor offers its instructions; lengths were checked.
            return unsafe { registers.multiply(tiles, x, acc) };
        }
        match self.kind {
            // SAFETY: as above.
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
}
