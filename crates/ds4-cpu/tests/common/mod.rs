//! Random operands for kernel tests, the same on every run.
#![allow(dead_code)] // Each test binary uses some of it.

use ds4_gguf::TensorType;

pub const BLOCK_TYPES: [TensorType; 5] =
    [TensorType::Q8_0, TensorType::Q2_K, TensorType::Q4_K, TensorType::IQ2_XXS, TensorType::MXFP4];

/// xorshift64*: reproducible, and good enough to shake arithmetic.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.u64() >> 33) as usize % n
    }

    /// In -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.u64() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Roughly normal, with an outlier now and then, as activations are.
    pub fn activations(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| {
                let x = self.unit() + self.unit() + self.unit();
                if self.below(50) == 0 { x * 20.0 } else { x }
            })
            .collect()
    }

    /// Any bytes, with the scale fields replaced by moderate numbers.
    pub fn weights(&mut self, ty: TensorType, rows: usize, cols: usize) -> Vec<u8> {
        let n_blocks = rows * cols / ty.block_len();
        let mut bytes: Vec<u8> = (0..n_blocks * ty.block_bytes()).map(|_| self.u64() as u8).collect();
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            let mut half = |at: usize, random: &mut Random| {
                let scale = half::f16::from_f32(random.unit() * 0.1);
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            };
            match ty {
                TensorType::Q8_0 | TensorType::IQ2_XXS | TensorType::F16 => half(0, self),
                TensorType::Q4_K => {
                    half(0, self);
                    half(2, self);
                }
                TensorType::Q2_K => {
                    half(80, self);
                    half(82, self);
                }
                TensorType::MXFP4 => block[0] = 110 + self.below(20) as u8,
                TensorType::F32 => block.copy_from_slice(&self.unit().to_le_bytes()),
                TensorType::BF16 => block.copy_from_slice(&self.unit().to_le_bytes()[2..]),
                TensorType::I32 => {}
            }
        }
        bytes
    }
}

/// Bits of every number, with all NaNs alike.
pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }).collect()
}
