//! The random numbers that tokens are drawn with.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers that is the same on every machine and in every version: ChaCha8 keyed with the seed.
#[derive(Clone, Debug)]
pub(super) struct RandomStream(ChaCha8Rng);

impl RandomStream {
    /// The stream of a seed: the key is the seed as 8 little-endian bytes, then zeros.
    pub(super) fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// The next number, uniform in [0, 1) in steps of 2⁻⁵³.
    pub(super) fn next_unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

/// Draws a seed from the operating system. It is below 2⁵³, so that it survives being sent as a JSON number.
///
/// # Errors
/// The operating system has no random numbers to give.
pub fn random_seed() -> Result<u64, getrandom::Error> {
    Ok(getrandom::u64()? >> 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first keystream block of ChaCha8 with an all-zero key and nonce (a published test vector) begins with
    /// these bytes. A generator that stops giving them changes the answer to every seed.
    #[test]
    fn the_stream_of_seed_zero_is_the_chacha8_keystream() {
        let keystream: [u8; 16] =
            [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6, 0x7f, 0x5b, 0xb8, 0xe8, 0x1f, 0x09, 0xa5, 0xa1];
        let mut stream = RandomStream::new(0);
        for bytes in keystream.chunks_exact(8) {
            let word = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            assert_eq!(stream.next_unit(), (word >> 11) as f64 / 9_007_199_254_740_992.0);
        }
    }

    #[test]
    fn seeds_give_different_streams_of_units() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in [0, 1, 1 << 32, u64::MAX] {
            let mut stream = RandomStream::new(seed);
            for _ in 0..100 {
                let unit = stream.next_unit();
                assert!((0.0..1.0).contains(&unit));
                seen.insert(unit.to_bits());
            }
        }
        assert_eq!(seen.len(), 400);
    }

    #[test]
    fn random_seeds_fit_a_json_number() {
        let seed = random_seed().expect("an operating system with random numbers");
        assert!(seed < 1 << 53);
    }
}
