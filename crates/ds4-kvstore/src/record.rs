//! The format of a page's and a snapshot's file.
//!
//! Little endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic `DS4K` |
//! | 4 | format version |
//! | 4 | kind: 1 page, 2 snapshot |
//! | 4 | number of tokens n: a page's, or those of a snapshot behind its last full page |
//! | 8 | tokens before these |
//! | 8 | length of the payload |
//! | 32 | root of the chain |
//! | 32 | key of the parent: the page before, or the root |
//! | 32 | key of this |
//! | 4 n | tokens |
//! | … | payload |
//! | 8 | XXH3-64 of everything before |
//!
//! The key follows from parent and tokens and is checked against them; that the payload is theirs is what the checksum is
//! for.

use std::hash::Hasher;
use std::io;

use bytes::Bytes;
use twox_hash::XxHash3_64;

use crate::key::ChainKey;

/// Version of the format of files and index.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 4] = b"DS4K";
const HEADER: usize = 128;
const CHECKSUM: usize = 8;
/// Most tokens of a record: above any page, far below what could strain memory.
const MOST_TOKENS: u32 = 1 << 16;
/// Longest payload, likewise: a file may claim to be long and have nothing in it.
const MOST_PAYLOAD: u64 = 1 << 30;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Compressed rows of a full page.
    Page,
    /// What continuing from one place needs beside the pages.
    Snapshot,
}

impl Kind {
    /// The extension of its files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Snapshot => "snap",
        }
    }

    fn id(self) -> u32 {
        match self {
            Self::Page => 1,
            Self::Snapshot => 2,
        }
    }
}

/// Everything about a record but its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Root of its chain.
    pub root: ChainKey,
    /// The page before, or the root.
    pub parent: ChainKey,
    /// Tokens before it.
    pub position: u64,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

/// Why bytes are not a usable record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not readable.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Too short, too long, or another kind of file.
    #[error("it is not a page of a KV cache, or cut off")]
    Shape,
    /// Of another version.
    #[error("it has format version {0}, this program reads {FORMAT_VERSION}")]
    Version(u32),
    /// Damaged.
    #[error("its checksum does not match: it is damaged")]
    Checksum,
    /// Not what its name says.
    #[error("it holds something else than its name says")]
    Foreign,
}

impl Header {
    /// The key that follows from parent and tokens.
    pub fn key(&self) -> ChainKey {
        match self.kind {
            Kind::Page => self.parent.page(&self.tokens),
            Kind::Snapshot => self.parent.snapshot(&self.tokens),
        }
    }

    /// Tokens up to the end of this record.
    pub fn end(&self) -> u64 {
        self.position.saturating_add(self.tokens.len() as u64)
    }

    /// What stands before and behind a payload.
    pub fn frame(&self, payload: &[u8]) -> (Vec<u8>, [u8; CHECKSUM]) {
        let mut head = Vec::with_capacity(HEADER + self.tokens.len() * 4);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        head.extend_from_slice(&self.kind.id().to_le_bytes());
        head.extend_from_slice(&(self.tokens.len() as u32).to_le_bytes());
        head.extend_from_slice(&self.position.to_le_bytes());
        head.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        for key in [&self.root, &self.parent, &self.key()] {
            head.extend_from_slice(key.as_bytes());
        }
        self.tokens.iter().for_each(|token| head.extend_from_slice(&token.to_le_bytes()));
        let mut hash = XxHash3_64::new();
        hash.write(&head);
        hash.write(payload);
        (head, hash.finish().to_le_bytes())
    }

    /// Length of the file for a payload of `payload` bytes.
    pub fn file_len(&self, payload: usize) -> u64 {
        (HEADER + self.tokens.len() * 4 + payload + CHECKSUM) as u64
    }
}

/// The longest file that can hold a record.
pub fn longest_file() -> u64 {
    (HEADER + CHECKSUM) as u64 + u64::from(MOST_TOKENS) * 4 + MOST_PAYLOAD
}

/// Takes a record apart, and checks everything that can be checked without knowing what it should be. The payload is a part
/// of `bytes`, not a copy.
///
/// # Errors
/// Anything but an intact record of this version.
pub fn read(bytes: &Bytes) -> Result<(Header, Bytes), RecordError> {
    let fixed: &[u8; HEADER] = bytes.first_chunk().ok_or(RecordError::Shape)?;
    if &fixed[..4] != MAGIC {
        return Err(RecordError::Shape);
    }
    let version = u32_at(fixed, 4);
    if version != FORMAT_VERSION {
        return Err(RecordError::Version(version));
    }
    let kind = match u32_at(fixed, 8) {
        1 => Kind::Page,
        2 => Kind::Snapshot,
        _ => return Err(RecordError::Shape),
    };
    let n_tokens = u32_at(fixed, 12);
    let (position, payload_len) = (u64_at(fixed, 16), u64_at(fixed, 24));
    let expected = payload_len.checked_add((HEADER + CHECKSUM) as u64 + u64::from(n_tokens) * 4);
    if n_tokens > MOST_TOKENS || payload_len > MOST_PAYLOAD || expected != Some(bytes.len() as u64) {
        return Err(RecordError::Shape);
    }
    let Some((body, checksum)) = bytes.split_last_chunk::<CHECKSUM>() else { return Err(RecordError::Shape) };
    if XxHash3_64::oneshot(body) != u64::from_le_bytes(*checksum) {
        return Err(RecordError::Checksum);
    }
    let begin = HEADER + n_tokens as usize * 4;
    let header = Header {
        kind,
        root: key_at(fixed, 32),
        parent: key_at(fixed, 64),
        position,
        tokens: body[HEADER..begin].chunks_exact(4).map(|bytes| u32_at(bytes, 0)).collect(),
    };
    if header.key() != key_at(fixed, 96) || header.position.checked_add(u64::from(n_tokens)).is_none() {
        return Err(RecordError::Foreign);
    }
    Ok((header, bytes.slice(begin..body.len())))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn key_at(bytes: &[u8; HEADER], at: usize) -> ChainKey {
    let mut key = [0; 32];
    key.copy_from_slice(&bytes[at..at + 32]);
    ChainKey::from_bytes(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &Header, payload: &[u8]) -> Vec<u8> {
        let (head, checksum) = header.frame(payload);
        [head.as_slice(), payload, &checksum].concat()
    }

    fn read_bytes(bytes: &[u8]) -> Result<(Header, Vec<u8>), RecordError> {
        read(&Bytes::copy_from_slice(bytes)).map(|(header, payload)| (header, payload.to_vec()))
    }

    fn header(tokens: Vec<u32>) -> Header {
        let root = ChainKey::from_bytes([7; 32]);
        Header { kind: Kind::Page, root, parent: root.page(&[1]), position: 12, tokens }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            tokens in prop::collection::vec(any::<u32>(), 0..200),
            payload in prop::collection::vec(any::<u8>(), 0..500),
        ) {
            let header = header(tokens);
            let bytes = file(&header, &payload);
            prop_assert_eq!(bytes.len() as u64, header.file_len(payload.len()));
            prop_assert_eq!(read_bytes(&bytes).expect("intact"), (header, payload));
        }

        #[test]
        fn any_change_is_noticed(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            place in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let mut bytes = file(&header(vec![1, 2, 3]), &payload);
            let place = place.index(bytes.len());
            bytes[place] ^= 1_u8 << bit;
            prop_assert!(read_bytes(&bytes).is_err());
            bytes[place] ^= 1_u8 << bit;
            prop_assert!(read_bytes(&bytes[..place]).is_err());
            bytes.push(0);
            prop_assert!(read_bytes(&bytes).is_err());
        }
    }

    #[test]
    fn lengths_that_a_file_claims_are_not_believed() {
        let mut bytes = file(&header(vec![1]), &[0; 16]);
        bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read_bytes(&bytes), Err(RecordError::Shape)));
        bytes[4] = 9;
        assert!(matches!(read_bytes(&bytes), Err(RecordError::Version(9))));
        assert!(matches!(read_bytes(&[]), Err(RecordError::Shape)));
    }
}
