//! The vocabulary published with DeepSeek V4 Flash, embedded in the program.
//!
//! In the official vocabulary every ordinary token is a byte or the product of exactly one merge, in order of rank. So the
//! merges, as pairs of ids, are the whole ordinary vocabulary; `docs/tokenizer.md` describes the file and how it is made.

use super::Tokenizer;
use super::byte_symbol;
use super::error::TokenizerError;
use super::merge::{MAX_MERGES, MergeTable};
use super::vocabulary::{MAX_TOKEN_BYTES, Vocabulary};

static PACKED: &[u8] = include_bytes!("../../data/deepseek-v4-vocabulary.zst");

/// Unpacked size (bytes): an upper bound, so that a damaged file cannot ask for more.
const MAX_UNPACKED: usize = 1 << 20;

impl Tokenizer {
    /// The official DeepSeek V4 tokenizer (129 280 tokens), decoded from the program itself in a few milliseconds.
    /// Keep it: every call decodes it anew.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::DamagedEmbedded`] if the program file is damaged.
    pub fn official() -> Result<Self, TokenizerError> {
        let damaged = |what: &str| TokenizerError::DamagedEmbedded { what: what.to_owned() };
        let unpacked = zstd::bulk::decompress(PACKED, MAX_UNPACKED).map_err(|error| damaged(&error.to_string()))?;
        unpack(&unpacked).ok_or_else(|| damaged("its contents are inconsistent"))?
    }
}

/// Builds the tokenizer; `None` if the data contradicts itself.
fn unpack(data: &[u8]) -> Option<Result<Tokenizer, TokenizerError>> {
    let mut data = Reader { data };
    let before = data.u32()? as usize;
    let merge_count = data.u32()? as usize;
    let after = data.u32()? as usize;
    // Every entry takes at least a byte: counts beyond that are wrong, and must not be reserved for.
    if merge_count > MAX_MERGES || before.max(merge_count).max(after) > data.data.len() {
        return None;
    }
    let mut vocabulary = Vocabulary::with_capacity(before + 256 + merge_count + after, data.data.len() * 2);
    for _ in 0..before {
        vocabulary.push_added(data.spelling()?);
    }

    // The 256 byte tokens, in order of their symbols' code points.
    let mut byte_tokens = [0; 256];
    for byte in (0u32..).filter_map(char::from_u32).filter_map(byte_symbol::byte_of).take(256) {
        byte_tokens[usize::from(byte)] = vocabulary.len() as u32;
        vocabulary.push_byte(byte);
    }

    let first = (before + 256) as u32;
    let planes = data.take(merge_count.checked_mul(6)?)?;
    let plane = |index: usize| &planes[index * merge_count..][..merge_count];
    let [l0, l1, l2, r0, r1, r2] = [0, 1, 2, 3, 4, 5].map(plane);
    let mut merges = MergeTable::with_capacity(byte_tokens, merge_count);
    for rank in 0..merge_count {
        let left = u32::from_le_bytes([l0[rank], l1[rank], l2[rank], 0]);
        let right = u32::from_le_bytes([r0[rank], r1[rank], r2[rank], 0]);
        let joined = first + rank as u32;
        if left.max(right) >= joined || left.min(right) < before as u32 {
            return None;
        }
        vocabulary.push_joined(left, right);
        if vocabulary.token_bytes(joined).len() > MAX_TOKEN_BYTES {
            return None;
        }
        merges.push(left, right, joined).ok()?;
    }
    for _ in 0..after {
        vocabulary.push_added(data.spelling()?);
    }
    data.data.is_empty().then(|| Tokenizer::assemble(vocabulary, merges))
}

/// What is left of the unpacked file.
struct Reader<'d> {
    data: &'d [u8],
}

impl<'d> Reader<'d> {
    fn take(&mut self, count: usize) -> Option<&'d [u8]> {
        let (taken, rest) = self.data.split_at_checked(count)?;
        self.data = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A control token's spelling, ended by a line break.
    fn spelling(&mut self) -> Option<&'d str> {
        let length = self.data.iter().position(|&byte| byte == b'\n')?;
        let spelling = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(spelling).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::merge::MergeBuffers;

    #[test]
    fn every_ordinary_token_is_reached_by_merging_its_own_bytes() {
        let official = Tokenizer::official().unwrap();
        let mut buffers = MergeBuffers::default();
        let mut ids = Vec::new();
        for id in (0..official.vocab_size() as u32).filter(|&id| !official.is_control(id)) {
            ids.clear();
            official.merges.merge(official.token_bytes(id), &mut buffers, &mut ids);
            assert_eq!(ids, [id], "{:?}", String::from_utf8_lossy(official.token_bytes(id)));
        }
    }

    #[test]
    fn a_damaged_vocabulary_is_refused_without_a_panic() {
        let whole = zstd::bulk::decompress(PACKED, MAX_UNPACKED).unwrap();
        assert!(unpack(&whole).is_some());
        for length in [0, 3, 11, 12, 100, 1000, whole.len() - 1] {
            assert!(unpack(&whole[..length]).is_none(), "cut at {length}");
        }
        for field in [0, 4, 8] {
            for value in [0u32, 1, 2, u32::MAX] {
                let mut damaged = whole.clone();
                damaged[field..field + 4].copy_from_slice(&value.to_le_bytes());
                assert!(damaged == whole || !matches!(unpack(&damaged), Some(Ok(_))), "count at {field} is {value}");
            }
        }
    }
}
