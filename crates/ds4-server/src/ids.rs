//! Ids that nobody can guess.

use std::sync::{Mutex, PoisonError};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Random characters of an id: 20 of 62 kinds are 119 bits.
const LENGTH: usize = 20;

/// A source of ids: who knows some of them cannot tell others. Ids of tool calls are keys to sampled text
/// ([`crate::replay`]), and clients of one server need not trust each other.
pub struct IdSource(Mutex<ChaCha20Rng>);

impl IdSource {
    /// A source with a key from the operating system.
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self(Mutex::new(ChaCha20Rng::from_seed(key))))
    }

    /// A new id: `prefix` and 20 random letters and digits.
    pub fn next(&self, prefix: &str) -> String {
        let mut random = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut id = String::with_capacity(prefix.len() + LENGTH);
        id.push_str(prefix);
        while id.len() < prefix.len() + LENGTH {
            // Six bits at a time; two of the 64 values are no character and are drawn again, so all are equally likely.
            if let Some(&character) = ALPHABET.get((random.next_u32() >> 26) as usize) {
                id.push(char::from(character));
            }
        }
        id
    }

    /// The id of a tool call. The digits keep the calls of a turn in order for who sorts them by id.
    pub fn call(&self, prefix: &str, index: usize) -> String {
        self.next(&format!("{prefix}{index:02}_"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_long_random_and_in_order() {
        let ids = IdSource::new().expect("random numbers");
        let calls: Vec<String> = (0..12).map(|index| ids.call("call_", index)).collect();
        assert!(calls.is_sorted());
        assert!(calls[7].starts_with("call_07_"));
        for call in &calls {
            let random = &call["call_00_".len()..];
            assert!(random.len() == 20 && random.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{call}");
        }
        let other = IdSource::new().expect("random numbers");
        assert_ne!(ids.next("x"), other.next("x"));
    }
}
