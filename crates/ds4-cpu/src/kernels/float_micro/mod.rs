//! The inner loop of float products: a few weight rows times a few activation rows, sixteen accumulators each.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::isa::Kind;

/// Most weight rows one call takes.
pub(crate) const W_ROWS: usize = 8;
/// Most activation rows one call takes.
pub(crate) const X_ROWS: usize = 6;
/// Accumulators of one sum.
pub(crate) const LANES: usize = 16;

/// The accumulators of one sum: number `l` takes the elements `l, l + 16, ...`.
pub(crate) type Lanes = [f32; LANES];

/// Number formats that are converted on the way into a register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    BF16,
}

impl Float {
    pub fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::BF16 => 2,
        }
    }
}

/// Continues the sums `acc[r][o]` of weight row `w[o]` times activation row `x[r]`; `w` are numbers of format `ty` at any
/// alignment. Elements begin at lane 0, so that all but the last piece of a row have a multiple of sixteen.
///
/// # Panics
/// There are no or too many rows, or their lengths differ.
pub(crate) fn accumulate(isa: Isa, ty: Float, w: &[&[u8]], x: &[&[f32]], acc: &mut [[Lanes; W_ROWS]]) {
    assert!(!w.is_empty() && w.len() <= W_ROWS);
    assert!(!x.is_empty() && x.len() <= X_ROWS && x.len() == acc.len());
    let cols = x[0].len();
    // The vector versions read through pointers, relying on these lengths.
    assert!(x.iter().all(|x| x.len() == cols) && w.iter().all(|w| w.len() == cols * ty.bytes()));
    match isa.kind() {
        // SAFETY: an `Isa` exists only where the processor offers its instructions; lengths were checked.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::accumulate(ty, w, x, acc) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::accumulate(ty, w, x, acc) },
        _ => portable::accumulate(ty, w, x, acc),
    }
}

/// The finished sums: `out[o]` of `acc[o]`, by the fixed tree of distances 8, 4, 2, 1.
pub(crate) fn finish(isa: Isa, acc: &[Lanes; W_ROWS]) -> [f32; W_ROWS] {
    match isa.kind() {
        // SAFETY: an `Isa` exists only where the processor offers its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::finish(acc) },
        _ => acc.map(super::math::add_lanes),
    }
}
