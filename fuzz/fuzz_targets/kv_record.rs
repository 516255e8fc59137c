//! Any bytes as a page or snapshot of the KV cache on disk: refused, unless they are exactly what would have been written. The
//! checksum and the key are made right first, so that the checks behind them are reached.

#![no_main]

use ds4_kvstore::record::{Header, Kind, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, bool, Vec<u32>, u64, Vec<u8>, Vec<u8>)| {
    let (raw, is_page, tokens, position, payload, damage) = input;
    let root = ds4_kvstore::ChainKey::from_bytes([1; 32]);
    let kind = if is_page { Kind::Page } else { Kind::Snapshot };
    let header = Header { kind, root, parent: root, position, tokens };
    let mut bytes = if raw {
        payload.clone()
    } else {
        let (head, checksum) = header.frame(&payload);
        [head.as_slice(), &payload, &checksum].concat()
    };
    let intact = bytes.clone();
    // Pairs of place and value; the checksum is made right again behind them.
    for pair in damage.chunks_exact(3) {
        let place = usize::from(pair[0]) << 8 | usize::from(pair[1]);
        if let Some(byte) = bytes.get_mut(place) {
            *byte = pair[2];
        }
    }
    if let Some(end) = bytes.len().checked_sub(8).filter(|_| bytes != intact) {
        let checksum = twox_hash::XxHash3_64::oneshot(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    }
    match read(&bytes.clone().into()) {
        Ok((header, payload)) => {
            let (head, checksum) = header.frame(&payload);
            assert!([head.as_slice(), &payload, &checksum].concat() == bytes);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
