//! Stored rows of the cache as numbers.

use ds4_model::rounding::KV_GROUP;
use ds4_model::state::{IndexRowFormat, KvRowFormat};

use crate::kernels::{Isa, math};

/// Loads a stored KV row into `row` [dim]: what `KvRowFormat::decode` does, many channels at a time.
pub(super) fn decode_kv(isa: Isa, format: KvRowFormat, bytes: &[u8], row: &mut [f32]) {
    match format {
        KvRowFormat::Exact { .. } => format.decode(bytes, row),
        KvRowFormat::Packed { nope, .. } => {
            let (codes, rest) = bytes.split_at(nope);
            let (exponents, tail) = rest.split_at(nope / KV_GROUP);
            math::decode_fp8(isa, codes, exponents, KV_GROUP, &mut row[..nope]);
            math::f16_to_f32(isa, tail, &mut row[nope..]);
        }
    }
}

/// Loads a stored indexer row into `row` [dim]: what `IndexRowFormat::decode` does, many channels at a time.
pub(super) fn decode_index(isa: Isa, format: IndexRowFormat, bytes: &[u8], row: &mut [f32]) {
    match format {
        IndexRowFormat::Exact { .. } => format.decode(bytes, row),
        IndexRowFormat::Packed { dim } => {
            let (codes, exponents) = bytes.split_at(dim / 2);
            math::decode_fp4(isa, codes, exponents, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code with every exponent, and every half-precision number that a row can hold.
    #[test]
    fn rows_are_those_of_the_format_on_every_instruction_set() {
        let format = KvRowFormat::Packed { nope: 256, rope: 256 };
        let (mut expected, mut actual) = (vec![0.0; 512], vec![0.0; 512]);
        for e in 0..=255u8 {
            let mut bytes: Vec<u8> = (0..=255).collect();
            bytes.extend([e, e ^ 1, 255 - e, 127]);
            let halves =
                (0..256u32).map(|i| (u32::from(e) * 256 + i) as u16).map(|h| if h & 0x7c00 == 0x7c00 { 0 } else { h });
            bytes.extend(halves.flat_map(u16::to_le_bytes));
            format.decode(&bytes, &mut expected);
            for isa in Isa::available() {
                decode_kv(isa, format, &bytes, &mut actual);
                let same =
                    expected.iter().zip(&actual).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
                assert!(same, "exponent {e} on {isa}");
            }
        }
    }

    #[test]
    fn indexer_rows_are_those_of_the_format_on_every_instruction_set() {
        let format = IndexRowFormat::Packed { dim: 512 };
        let (mut expected, mut actual) = (vec![0.0; 512], vec![0.0; 512]);
        for e in 0..=255u8 {
            let mut bytes: Vec<u8> = (0..=255).collect();
            bytes.extend((0..16).map(|i| e.wrapping_add(i)));
            format.decode(&bytes, &mut expected);
            for isa in Isa::available() {
                decode_index(isa, format, &bytes, &mut actual);
                let same =
                    expected.iter().zip(&actual).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
                assert!(same, "exponent {e} on {isa}");
            }
        }
    }
}
