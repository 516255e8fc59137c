//! A sequence's state as bytes, for a file.
//!
//! Little endian: magic, version, identity (u64, of model and cache format), length in tokens (u64), rings,
//! frontiers (f32), pages, XXH3-64 of everything before it.

use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::page::Page;
use crate::ModelError;
use crate::state::{Sequence, StateLayout};

const MAGIC: &[u8; 4] = b"DS4S";
const VERSION: u32 = 1;
const HEADER: usize = 24;
const CHECKSUM: usize = 8;

impl Sequence {
    /// The state as bytes. `identity` names the model ([`Model::fingerprint`](crate::Model::fingerprint)); the
    /// layout is added to it, so that a state of another cache precision is refused as well.
    pub fn to_bytes(&self, identity: u64) -> Vec<u8> {
        let layout = &self.layout;
        let size =
            HEADER + layout.ring_bytes + layout.frontier_len * 4 + self.pages.len() * layout.page_bytes + CHECKSUM;
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&identity_with_layout(identity, layout).to_le_bytes());
        out.extend_from_slice(&(self.len as u64).to_le_bytes());
        out.extend_from_slice(&self.rings);
        for value in &self.frontiers {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for page in &self.pages {
            out.extend_from_slice(page);
        }
        let checksum = XxHash3_64::oneshot(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The state that `bytes` hold.
    ///
    /// # Errors
    /// [`ModelError::State`] when the bytes are damaged, cut off, of another model, precision or version.
    pub fn from_bytes(layout: &Arc<StateLayout>, identity: u64, bytes: &[u8]) -> Result<Self, ModelError> {
        let refuse = |why: &str| Err(ModelError::State(why.to_owned()));
        if bytes.len() < HEADER + CHECKSUM || &bytes[..4] != MAGIC {
            return refuse("this is not a saved ds4 sequence");
        }
        let version = u32::from_le_bytes(array(&bytes[4..8]));
        if version != VERSION {
            return Err(ModelError::State(format!("it has format version {version}, this program writes {VERSION}")));
        }
        let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
        if XxHash3_64::oneshot(body) != u64::from_le_bytes(array(checksum)) {
            return refuse("its checksum does not match, it is damaged or cut off");
        }
        if u64::from_le_bytes(array(&body[8..16])) != identity_with_layout(identity, layout) {
            return refuse("it belongs to another model or cache precision");
        }
        let len = usize::try_from(u64::from_le_bytes(array(&body[16..24]))).unwrap_or(usize::MAX);
        let fixed = layout.ring_bytes + layout.frontier_len * 4;
        let pages = layout.pages_for(len);
        let expected = pages.checked_mul(layout.page_bytes).and_then(|n| n.checked_add(HEADER + fixed));
        if expected != Some(body.len()) {
            return refuse("its size does not fit its length in tokens");
        }
        let (rings, rest) = body[HEADER..].split_at(layout.ring_bytes);
        let (frontiers, pages) = rest.split_at(layout.frontier_len * 4);
        let pages = match layout.page_bytes {
            0 => Vec::new(),
            n => pages.chunks_exact(n).map(|page| Page::Computed(Arc::new(page.to_vec()))).collect(),
        };
        Ok(Self {
            layout: Arc::clone(layout),
            len,
            rings: rings.to_vec(),
            frontiers: frontiers.chunks_exact(4).map(|b| f32::from_le_bytes(array(b))).collect(),
            pages,
        })
    }
}

fn identity_with_layout(identity: u64, layout: &StateLayout) -> u64 {
    let both = [identity.to_le_bytes(), layout.fingerprint().to_le_bytes()].concat();
    XxHash3_64::oneshot(&both)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}
