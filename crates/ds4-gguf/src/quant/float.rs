//! The plain number types: F32, F16, BF16 and I32.

use half::{bf16, f16};

use crate::TensorType;

/// Decodes elements of a plain type; lengths are the caller's business.
pub(super) fn dequantize(ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    match ty {
        TensorType::F32 => convert(bytes, out, f32::from_le_bytes),
        TensorType::F16 => convert(bytes, out, |raw| f16::from_le_bytes(raw).to_f32()),
        TensorType::BF16 => convert(bytes, out, bf16_to_f32),
        TensorType::I32 => convert(bytes, out, |raw| i32::from_le_bytes(raw) as f32),
        _ => unreachable!("{ty} is a block format"),
    }
}

/// A BF16 number is the upper half of an F32; signalling NaNs keep their bits.
fn bf16_to_f32(raw: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(raw)) << 16)
}

fn convert<const N: usize>(bytes: &[u8], out: &mut [f32], from: impl Fn([u8; N]) -> f32) {
    for (raw, y) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *y = from(*raw);
    }
}

/// Encodes finite elements in a plain type; what a type cannot reach becomes its infinity (floats)
/// or its limit (I32).
pub(super) fn quantize(ty: TensorType, x: &[f32], out: &mut [u8]) {
    match ty {
        TensorType::F32 => store(x, out, f32::to_le_bytes),
        TensorType::F16 => store(x, out, |x| f16::from_f32(x).to_le_bytes()),
        TensorType::BF16 => store(x, out, |x| bf16::from_f32(x).to_le_bytes()),
        TensorType::I32 => store(x, out, |x| (x.round() as i32).to_le_bytes()),
        _ => unreachable!("{ty} is a block format"),
    }
}

fn store<const N: usize>(x: &[f32], out: &mut [u8], to: impl Fn(f32) -> [u8; N]) {
    for (x, raw) in x.iter().zip(out.as_chunks_mut::<N>().0) {
        *raw = to(*x);
    }
}

/// The first element that is not a finite number.
pub(super) fn find_bad(ty: TensorType, bytes: &[u8]) -> Option<(usize, &'static str)> {
    match ty {
        TensorType::F32 => find(bytes, |raw| f32::from_le_bytes(raw).is_finite()),
        TensorType::F16 => find(bytes, |raw| f16::from_le_bytes(raw).is_finite()),
        TensorType::BF16 => find(bytes, |raw| bf16::from_le_bytes(raw).is_finite()),
        _ => None,
    }
}

fn find<const N: usize>(bytes: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> Option<(usize, &'static str)> {
    let bad = bytes.as_chunks::<N>().0.iter().position(|raw| !is_finite(*raw));
    bad.map(|i| (i, "is infinite or not a number"))
}
