//! How one cached row lies in memory.
//!
//! Packed rows hold exactly the values that the model's own rounding leaves, so packing loses nothing more:
//! storing a row *is* rounding it.

use half::f16;

use crate::rounding::{
    INDEX_GROUP, KV_GROUP, e2m1_decode, e2m1_encode, e4m3_decode, e4m3_encode, e8m0_decode, e8m0_encode, hadamard,
    index_scale, kv_scale,
};

/// Layout of a KV row (raw or compressed): `dim` channels, the last `rope` of them rotary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvRowFormat {
    /// `dim` float32.
    Exact {
        /// Channels.
        dim: usize,
    },
    /// E4M3 codes of the first `nope` channels, one E8M0 exponent per 64 of them, the `rope` rest as f16.
    Packed {
        /// Channels without rotation.
        nope: usize,
        /// Rotary channels.
        rope: usize,
    },
}

impl KvRowFormat {
    /// Bytes of one row.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Exact { dim } => dim * 4,
            Self::Packed { nope, rope } => nope + nope / KV_GROUP + rope * 2,
        }
    }

    /// Channels of one row.
    pub const fn dim(self) -> usize {
        match self {
            Self::Exact { dim } => dim,
            Self::Packed { nope, rope } => nope + rope,
        }
    }

    /// Stores `row` [dim] into `out` [bytes], rounding it to the format.
    pub fn encode(self, row: &[f32], out: &mut [u8]) {
        match self {
            Self::Exact { .. } => encode_f32(row, out),
            Self::Packed { nope, .. } => {
                let (codes, rest) = out.split_at_mut(nope);
                let (exponents, tail) = rest.split_at_mut(nope / KV_GROUP);
                let groups = row[..nope].chunks_exact(KV_GROUP).zip(codes.chunks_exact_mut(KV_GROUP));
                for ((values, codes), exponent) in groups.zip(exponents) {
                    let scale = kv_scale(values);
                    *exponent = e8m0_encode(scale);
                    for (code, v) in codes.iter_mut().zip(values) {
                        *code = e4m3_encode(v / scale);
                    }
                }
                for (bytes, &v) in tail.chunks_exact_mut(2).zip(&row[nope..]) {
                    // A value that f16 cannot hold must not become infinite: an infinite key is NaN attention.
                    let v = v.clamp(-65504.0, 65504.0);
                    bytes.copy_from_slice(&f16::from_f32(v).to_le_bytes());
                }
            }
        }
    }

    /// Loads a stored row [bytes] into `row` [dim].
    pub fn decode(self, bytes: &[u8], row: &mut [f32]) {
        match self {
            Self::Exact { .. } => decode_f32(bytes, row),
            Self::Packed { nope, .. } => {
                let (codes, rest) = bytes.split_at(nope);
                let (exponents, tail) = rest.split_at(nope / KV_GROUP);
                let groups = row[..nope].chunks_exact_mut(KV_GROUP).zip(codes.chunks_exact(KV_GROUP));
                for ((values, codes), &exponent) in groups.zip(exponents) {
                    let scale = e8m0_decode(exponent);
                    for (v, &code) in values.iter_mut().zip(codes) {
                        *v = e4m3_decode(code) * scale;
                    }
                }
                for (v, bytes) in row[nope..].iter_mut().zip(tail.chunks_exact(2)) {
                    *v = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
                }
            }
        }
    }
}

/// Layout of an indexer row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexRowFormat {
    /// `dim` float32, not transformed.
    Exact {
        /// Channels.
        dim: usize,
    },
    /// The row after the Hadamard transform: E2M1 codes, channel 2i in the low half of byte i, then one E8M0
    /// exponent per 32 channels.
    Packed {
        /// Channels.
        dim: usize,
    },
}

impl IndexRowFormat {
    /// Bytes of one row.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Exact { dim } => dim * 4,
            Self::Packed { dim } => dim / 2 + dim / INDEX_GROUP,
        }
    }

    /// Channels of one row.
    pub const fn dim(self) -> usize {
        match self {
            Self::Exact { dim } | Self::Packed { dim } => dim,
        }
    }

    /// Stores `row` [dim] into `out` [bytes]. The packed format transforms `row` in place first.
    pub fn encode(self, row: &mut [f32], out: &mut [u8]) {
        match self {
            Self::Exact { .. } => encode_f32(row, out),
            Self::Packed { dim } => {
                hadamard(row);
                let (codes, exponents) = out.split_at_mut(dim / 2);
                let groups = row.chunks_exact(INDEX_GROUP).zip(codes.chunks_exact_mut(INDEX_GROUP / 2));
                for ((values, codes), exponent) in groups.zip(exponents) {
                    let scale = index_scale(values);
                    *exponent = e8m0_encode(scale);
                    for (code, pair) in codes.iter_mut().zip(values.chunks_exact(2)) {
                        *code = e2m1_encode(pair[0] / scale) | e2m1_encode(pair[1] / scale) << 4;
                    }
                }
            }
        }
    }

    /// Loads a stored row [bytes] into `row` [dim], still transformed if it was stored so.
    pub fn decode(self, bytes: &[u8], row: &mut [f32]) {
        match self {
            Self::Exact { .. } => decode_f32(bytes, row),
            Self::Packed { dim } => {
                let (codes, exponents) = bytes.split_at(dim / 2);
                let groups = row.chunks_exact_mut(INDEX_GROUP).zip(codes.chunks_exact(INDEX_GROUP / 2));
                for ((values, codes), &exponent) in groups.zip(exponents) {
                    let scale = e8m0_decode(exponent);
                    for (pair, &code) in values.chunks_exact_mut(2).zip(codes) {
                        pair[0] = e2m1_decode(code & 15) * scale;
                        pair[1] = e2m1_decode(code >> 4) * scale;
                    }
                }
            }
        }
    }
}

fn encode_f32(row: &[f32], out: &mut [u8]) {
    for (bytes, v) in out.chunks_exact_mut(4).zip(row) {
        bytes.copy_from_slice(&v.to_le_bytes());
    }
}

fn decode_f32(bytes: &[u8], row: &mut [f32]) {
    for (v, bytes) in row.iter_mut().zip(bytes.chunks_exact(4)) {
        *v = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
}
