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
mod i8mm;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::isa::{Isa, Kind};
use super::panel::{Block, CodesLie, Layout, WORDS};
use super::tile::{ROWS, Tile};
use ds4_gguf::TensorType;

/// Tiles that one call takes at most; they share the loads of the activations.
pub(crate) const TILES: usize = 2;

/// The products of one activation row with the rows of the tiles.
pub(crate) type Sums = [[f32; ROWS]; TILES];

/// The loop that suits an instruction set and a number of activation rows, ready to run on this thread.
pub(crate) struct Loop {
    kind: Kind,
    #[cfg(target_arch = "x86_64")]
    tiles: Option<amx::Registers>,
    /// Whether products of matrices are used.
    #[cfg(target_arch = "aarch64")]
    matrices: bool,
}

impl Loop {
    /// For weights of type `ty` and `n` rows in all.
    pub fn new(isa: Isa, ty: TensorType, n: usize) -> Loop {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (ty, n);
        #[cfg(target_arch = "x86_64")]
        let tiles = isa.has_tiles() && amx::least_rows(ty).is_some_and(|least| n >= least);
        Loop {
            kind: isa.kind(),
            // SAFETY: an `Isa` exists only where the processor and the system offer its instructions.
            #[cfg(target_arch = "x86_64")]
            tiles: tiles.then(|| unsafe { amx::Registers::take(n) }),
            #[cfg(target_arch = "aarch64")]
            matrices: isa.has_matrices(),
        }
    }

    /// How it wants activation rows: as many as the registers hold at a time.
    pub fn layout(&self) -> Layout {
        #[cfg(target_arch = "x86_64")]
        if self.tiles.is_some() {
            return Layout { most: amx::MOST_ROWS, codes: CodesLie::Rows };
        }
        #[cfg(target_arch = "aarch64")]
        if self.matrices {
            return Layout { most: i8mm::MOST_ROWS, codes: CodesLie::Pairs };
        }
        Layout { most: if self.kind == Kind::Avx512 { 6 } else { 4 }, codes: CodesLie::Quads }
    }

    /// Whether it uses tile registers, and wants signed codes.
    pub fn uses_tiles(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.tiles.is_some();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Makes tiles as they are decoded what it wants.
    pub fn prepare(&self, tiles: &mut [Tile]) {
        #[cfg(target_arch = "aarch64")]
        if self.matrices {
            tiles.iter_mut().for_each(Tile::pair_quads);
        }
        #[cfg(not(target_arch = "aarch64"))]
        let _ = tiles;
    }

    /// Continues the products of the tiles' weight rows with the rows of a block: `acc[r][t][o]` += weight row `o` of tile `t`
    /// times activation row `r`, group by group. The tiles were [prepared](Self::prepare).
    ///
    /// # Panics
    /// There are no or too many tiles or rows, lengths differ, or the block is not as this loop wants it.
    pub fn multiply(&self, tiles: &[Tile], x: Block<'_>, acc: &mut [Sums]) {
        let [first, ..] = tiles else { panic!("products of at least one tile") };
        let (groups, layout) = (first.codes().len(), self.layout());
        // The vector versions read through pointers, relying on these lengths.
        assert!(tiles.len() <= TILES && x.words.len() == groups * WORDS * x.rows);
        assert!(x.rows == layout.places().unwrap_or(acc.len()));
        assert!(!acc.is_empty() && acc.len() <= layout.most);
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
        #[cfg(target_arch = "aarch64")]
        if self.matrices {
            // SAFETY: as above.
            return unsafe { i8mm::multiply(tiles, x, acc) };
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
