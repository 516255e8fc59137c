//! Any bytes as a saved sequence: refused with a sentence, unless they are exactly what was saved. The checksum is made
//! right first, so that the checks behind it are reached.

#![no_main]

use std::sync::{Arc, LazyLock};

use ds4_gguf::Gguf;
use ds4_model::{Config, KvPrecision, Sequence, StateLayout};
use libfuzzer_sys::fuzz_target;

static LAYOUT: LazyLock<Arc<StateLayout>> = LazyLock::new(|| {
    let nano = Gguf::from_static("nano", include_bytes!("../../nano/nano.gguf")).expect("the demo model");
    Arc::new(StateLayout::new(&Config::from_gguf(&nano).expect("a valid model"), KvPrecision::Model))
});

fuzz_target!(|input: (u64, Vec<u8>)| {
    let (len, tail) = input;
    let saved = Sequence::new(Arc::clone(&LAYOUT)).to_bytes(7);
    // The header of a real state with another length, then whatever comes.
    let mut bytes = saved[..16].to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(&tail);
    bytes.extend(twox_hash::XxHash3_64::oneshot(&bytes).to_le_bytes());
    match Sequence::from_bytes(&LAYOUT, 7, &bytes) {
        Ok(sequence) => assert!(sequence.to_bytes(7) == bytes),
        Err(error) => assert!(error.to_string().starts_with("saved state: ")),
    }
});
