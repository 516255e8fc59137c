//! The block formats: one file each, turning blocks into the common form of a [`Tile`](super::tile::Tile).

#[cfg(target_arch = "x86_64")]
mod avx512;
pub(super) mod iq2_xxs;
pub(super) mod mxfp4;
mod q2_k;
pub(super) mod q4_k;
mod q8_0;

#[cfg(target_arch = "x86_64")]
use super::isa::Kind;
use super::isa::{Isa, per_isa};
use super::tile::{Order, ROWS, TileMut};
use ds4_gguf::TensorType;

/// Whether integer products exist for weights of type `ty`.
pub(crate) fn has_integer_product(ty: TensorType) -> bool {
    ty.is_block_format()
}

/// What is added to the codes of a format to make them unsigned.
pub(crate) fn bias(ty: TensorType) -> i32 {
    match ty {
        TensorType::Q8_0 => q8_0::BIAS,
        TensorType::IQ2_XXS => iq2_xxs::BIAS,
        TensorType::MXFP4 => mxfp4::BIAS,
        _ => 0,
    }
}

/// The order of the inputs in the tiles of a format.
pub(crate) fn order(ty: TensorType) -> Order {
    match ty {
        TensorType::IQ2_XXS => Order::Across,
        _ => Order::Along,
    }
}

/// Whether a format subtracts a minimum from every element.
pub(crate) fn has_minima(ty: TensorType) -> bool {
    matches!(ty, TensorType::Q2_K | TensorType::Q4_K)
}

/// Decodes sixteen rows of blocks.
///
/// # Panics
/// The type has no integer product (checked by the products' outer functions), or the codes are to be signed and the set of
/// instructions is not AVX-512.
pub(crate) fn load_tile(isa: Isa, ty: TensorType, rows: &[&[u8]; ROWS], tile: TileMut<'_>) {
    match isa.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => {
            let load_tile: unsafe fn(&[&[u8]; ROWS], TileMut<'_>) = match ty {
                TensorType::Q8_0 => q8_0::avx512::load_tile,
                TensorType::Q2_K if iq2_xxs::vbmi::is_offered() => q2_k::vbmi::load_tile,
                TensorType::Q2_K => q2_k::avx512::load_tile,
                TensorType::Q4_K => q4_k::avx512::load_tile,
                TensorType::IQ2_XXS if iq2_xxs::vbmi::is_offered() => iq2_xxs::vbmi::load_tile,
                TensorType::IQ2_XXS => iq2_xxs::avx512::load_tile,
                TensorType::MXFP4 => mxfp4::avx512::load_tile,
                TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::I32 => no_product(ty),
            };
            // SAFETY: an `Isa` exists only where the processor offers its instructions; those beyond were asked for.
            unsafe { load_tile(rows, tile) }
        }
        _ => match ty {
            _ if i32::from(tile.bias) != bias(ty) => unreachable!("signed codes are for AVX-512"),
            TensorType::Q8_0 => portable_q8_0(isa, rows, tile),
            TensorType::Q2_K => portable_q2_k(isa, rows, tile),
            TensorType::Q4_K => portable_q4_k(isa, rows, tile),
            TensorType::IQ2_XXS => portable_iq2_xxs(isa, rows, tile),
            TensorType::MXFP4 => portable_mxfp4(isa, rows, tile),
            TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::I32 => no_product(ty),
        },
    }
}

per_isa!(fn portable_q8_0(rows: &[&[u8]; ROWS], tile: TileMut<'_>) = q8_0::load_tile);
per_isa!(fn portable_q2_k(rows: &[&[u8]; ROWS], tile: TileMut<'_>) = q2_k::load_tile);
per_isa!(fn portable_q4_k(rows: &[&[u8]; ROWS], tile: TileMut<'_>) = q4_k::load_tile);
per_isa!(fn portable_iq2_xxs(rows: &[&[u8]; ROWS], tile: TileMut<'_>) = iq2_xxs::load_tile);
per_isa!(fn portable_mxfp4(rows: &[&[u8]; ROWS], tile: TileMut<'_>) = mxfp4::load_tile);

fn no_product(ty: TensorType) -> ! {
    unreachable!("{ty} has no integer product")
}

/// The f16 number at the start of `bytes`.
#[inline(always)]
pub(crate) fn f16_at(bytes: &[u8]) -> f32 {
    super::math::f16_bits_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
}
