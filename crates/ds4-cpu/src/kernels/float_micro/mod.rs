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
const LANES: usize = 16;

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

/// `out[r][o]` = weight row `w[o]` times activation row `x[r]`; `w` are numbers of format `ty` at any alignment.
///
/// # Panics
/// There are no or too many rows, or their lengths differ.
pub(crate) fn multiply(isa: Isa, ty: Float, w: &[&[u8]], x: &[&[f32]], out: &mut [[f32; W_ROWS]]) {
    assert!(!w.is_empty() && w.len() <= W_ROWS);
    assert!(!x.is_empty() && x.len() <= X_ROWS && x.len() == out.len());
    let cols = x[0].len();
    // The vector versions read through pointers, relying on these lengths.
    assert!(x.iter().all(|x| x.len() == cols) && w.iter().all(|w| w.len() == cols * ty.bytes()));
    match isa.kind() {
        // SAFETY: an `Isa` exists only where the processor offers its instructions; lengths were checked.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::multiply(ty, w, x, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::multiply(ty, w, x, out) },
        _ => portable::multiply(ty, w, x, out),
    }
}
