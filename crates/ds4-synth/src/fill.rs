//! Random blocks of every storage type.

use std::sync::LazyLock;

use ds4_gguf::TensorType;
use twox_hash::XxHash3_64;

use crate::shape::{Content, TensorSpec};

/// Bytes made at a time, about.
const PART: usize = 4 << 20;

/// Makes tensors' data, part by part.
pub(crate) struct Filler {
    n_expert: u64,
    part: Vec<u8>,
}

impl Filler {
    pub fn new(n_expert: u64) -> Self {
        Self { n_expert, part: Vec::new() }
    }

    /// Calls `write` with successive parts of the tensor's data.
    pub fn fill<E>(
        &mut self,
        spec: &TensorSpec,
        seed: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut random = Random(XxHash3_64::oneshot_with_seed(seed, spec.name.as_bytes()) | 1);
        let block = match spec.content {
            Content::Experts => spec.dims[0] as usize * 4,
            _ => spec.ty.block_bytes(),
        };
        let mut left = spec.bytes() as usize;
        while left > 0 {
            let size = left.min(PART / block * block);
            self.part.resize(size, 0);
            match spec.content {
                Content::Constant(value) => fill_pattern(&mut self.part, &value.to_le_bytes()),
                Content::Experts => self.fill_experts(block, &mut random),
                Content::Weights => fill_weights(spec, &mut random, &mut self.part),
            }
            write(&self.part)?;
            left -= size;
        }
        Ok(())
    }

    /// Rows of different expert ids: a random first one and a random odd step through the experts.
    fn fill_experts(&mut self, row: usize, random: &mut Random) {
        for ids in self.part.chunks_exact_mut(row) {
            let (first, step) = (random.next() % self.n_expert, (random.next() % self.n_expert) | 1);
            for (i, id) in ids.chunks_exact_mut(4).enumerate() {
                // An odd step visits all of a power of two; elsewhere consecutive ids are always different.
                let step = if self.n_expert.is_power_of_two() { step } else { 1 };
                let expert = (first + i as u64 * step) % self.n_expert;
                id.copy_from_slice(&(expert as u32).to_le_bytes());
            }
        }
    }
}

/// Random weights with a standard deviation of about `1 / sqrt(inputs)`, so that outputs are as large as inputs.
fn fill_weights(spec: &TensorSpec, random: &mut Random, out: &mut [u8]) {
    let unit = 1.0 / (spec.dims[0] as f32).sqrt();
    random.fill(out);
    // (block bytes, offset of a scale in it, its value in units): the scale that gives random codes unit deviation.
    let scales: &[(usize, f32)] = match spec.ty {
        TensorType::Q8_0 => &[(0, 1.0 / 74.0)],
        TensorType::IQ2_XXS => &[(0, 1.0 / 57.0)],
        TensorType::Q2_K => &[(80, 1.0 / 13.0), (82, 1.5 / 13.0)],
        TensorType::Q4_K => &[(0, 1.0 / 250.0), (2, 7.5 / 250.0)],
        TensorType::MXFP4 => {
            // Codes have deviation 2.9; the exponent is the nearest power of two.
            let exponent = (127.0 + (unit / 2.9).log2().round()) as u8;
            out.chunks_exact_mut(17).for_each(|block| block[0] = exponent);
            return;
        }
        TensorType::F16 | TensorType::BF16 | TensorType::F32 | TensorType::I32 => {
            debug_assert_eq!(spec.ty, TensorType::F16, "matrices outside block formats are made as F16");
            let table = &*UNIFORM_F16;
            // A power of two, so that it only moves the exponent of the tabled values.
            let shift = (unit.log2().round() as i32).clamp(-10, 0);
            for value in out.chunks_exact_mut(2) {
                let bits = table[usize::from(value[0])];
                let scaled = if bits & 0x7C00 > ((-shift) as u16) << 10 { bits - (((-shift) as u16) << 10) } else { 0 };
                value.copy_from_slice(&scaled.to_le_bytes());
            }
            return;
        }
    };
    for block in out.chunks_exact_mut(spec.ty.block_bytes()) {
        for &(offset, scale) in scales {
            block[offset..offset + 2].copy_from_slice(&f16_bits(scale * unit).to_le_bytes());
        }
    }
}

/// 256 values evenly spread over ±sqrt(3), which is unit deviation.
static UNIFORM_F16: LazyLock<[u16; 256]> =
    LazyLock::new(|| std::array::from_fn(|i| f16_bits((i as f32 - 127.5) / 127.5 * 3f32.sqrt())));

/// The f16 bits of a normal number, rounded toward zero.
fn f16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let exponent = ((bits >> 23) & 0xFF) as i32 - 127 + 15;
    let sign = (bits >> 16 & 0x8000) as u16;
    match exponent {
        1..=30 => sign | (exponent as u16) << 10 | (bits >> 13 & 0x3FF) as u16,
        // Below the normal range: subnormals, in steps of 2^-24.
        ..1 => sign | (x.abs() * 2f32.powi(24)) as u16,
        _ => sign | 0x7BFF,
    }
}

fn fill_pattern(out: &mut [u8], pattern: &[u8]) {
    out.chunks_exact_mut(pattern.len()).for_each(|value| value.copy_from_slice(pattern));
}

/// Xorshift: fast and good enough for weights that mean nothing.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, out: &mut [u8]) {
        let (words, rest) = out.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        let last = self.next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}
