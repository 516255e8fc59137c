//! Reasoning that clients keep for us: the `encrypted_content` of a reasoning item.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a reasoning item is sealed with.
///
/// Clients that keep no reasoning text send this back instead of it, also to a server that was started anew, so it holds
/// the text itself, and the id of the turn for as long as its tokens are kept. It is authenticated, not encrypted: the item
/// has the same text in the open beside it. The key comes from the server's API keys: with none, whoever can send a
/// sealed text could send the text as well, and the tag only finds damage.
pub struct Seal(Hmac<Sha256>);

/// Names the format; what begins otherwise is somebody else's.
const PREFIX: &str = "ds4r1.";

/// Bytes of a tag.
const TAG: usize = 32;

/// What a sealed item says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsealed {
    /// Id of the turn, without a prefix.
    pub turn: String,
    /// The reasoning.
    pub reasoning: String,
}

impl Seal {
    /// A seal for a server with these API keys.
    pub fn new(api_keys: &[String]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"ds4 reasoning").unwrap_or_else(|_| unreachable!("any length"));
        for key in api_keys {
            mac.update(&(key.len() as u64).to_le_bytes());
            mac.update(key.as_bytes());
        }
        let key = mac.finalize().into_bytes();
        Self(Hmac::new_from_slice(&key).unwrap_or_else(|_| unreachable!("any length")))
    }

    /// Seals the reasoning of a turn.
    pub fn seal(&self, turn: &str, reasoning: &str) -> String {
        let payload = format!("{turn}\n{reasoning}");
        let mut bytes = self.tag(payload.as_bytes()).finalize().into_bytes().to_vec();
        bytes.extend_from_slice(payload.as_bytes());
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What a sealed text says; `None` if it is not ours or not whole.
    pub fn open(&self, sealed: &str) -> Option<Unsealed> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(sealed.strip_prefix(PREFIX)?).ok()?;
        let (tag, payload) = bytes.split_at_checked(TAG)?;
        self.tag(payload).verify_slice(tag).ok()?;
        let (turn, reasoning) = std::str::from_utf8(payload).ok()?.split_once('\n')?;
        Some(Unsealed { turn: turn.to_owned(), reasoning: reasoning.to_owned() })
    }

    fn tag(&self, payload: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(payload);
        mac
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_whole_and_with_the_same_keys_only() {
        let keys = ["a".to_owned(), "bc".to_owned()];
        let seal = Seal::new(&keys);
        let expected = Unsealed { turn: "abc".to_owned(), reasoning: "Hm.\nÉ".to_owned() };
        let sealed = seal.seal(&expected.turn, &expected.reasoning);
        assert_eq!(Seal::new(&keys).open(&sealed), Some(expected), "also after a restart");
        for other in [vec![], vec!["ab".to_owned(), "c".to_owned()]] {
            assert_eq!(Seal::new(&other).open(&sealed), None, "{other:?}");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(seal.open(&String::from_utf8(damaged).expect("ASCII")), None, "byte {at}");
        }
        for foreign in ["", "ds4r1.", "ds4r1.AAAA", "gAAAAABo"] {
            assert_eq!(seal.open(foreign), None, "{foreign}");
        }
    }
}
