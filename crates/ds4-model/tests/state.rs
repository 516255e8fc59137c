//! Saved states: what is refused, and what a fork shares.

use std::sync::Arc;

use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, KvPrecision, Rows, Sequence, StateLayout, forward, reference::ReferenceBackend};
use proptest::prelude::*;

mod harness;

fn computed(len: usize) -> (Sequence, u64) {
    let model = harness::model("s-f16");
    let identity = model.fingerprint();
    let mut backend = ReferenceBackend::new(model, KvPrecision::Model);
    let mut sequence = backend.new_sequence();
    let mut rows = Rows::new();
    rows.push(0, 0, &harness::tokens("s-f16", 300)[..len], Wanted::None);
    forward(&mut backend, &rows, &mut [&mut sequence]).expect("a working backend");
    (sequence, identity)
}

#[test]
fn every_damaged_byte_is_noticed() {
    let (sequence, identity) = computed(9);
    let bytes = sequence.to_bytes(identity);
    for position in (0..bytes.len()).step_by(997).chain(bytes.len() - 40..bytes.len()) {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x10;
        let error = Sequence::from_bytes(sequence.layout(), identity, &damaged).expect_err("damage");
        assert!(error.to_string().starts_with("saved state: "), "{error}");
    }
    for len in [0, 3, 31, 32, bytes.len() / 2, bytes.len() - 1] {
        Sequence::from_bytes(sequence.layout(), identity, &bytes[..len]).expect_err("cut off");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    Sequence::from_bytes(sequence.layout(), identity, &longer).expect_err("too long");
}

#[test]
fn another_model_or_precision_is_refused() {
    let (sequence, identity) = computed(9);
    let bytes = sequence.to_bytes(identity);
    Sequence::from_bytes(sequence.layout(), identity + 1, &bytes).expect_err("another model");
    let config = harness::model("s-f16").config().clone();
    let exact = Arc::new(StateLayout::new(&config, KvPrecision::Exact));
    Sequence::from_bytes(&exact, identity, &bytes).expect_err("another precision");
}

#[test]
fn parts_make_the_same_state_again() {
    for len in [1, 127, 128, 131, 132, 256, 300] {
        let (sequence, identity) = computed(len);
        let full = len / 128;
        let parts = sequence.parts(0..full);
        assert_eq!(parts.pages.len(), full);
        let again = Sequence::from_parts(sequence.layout(), len, parts.clone()).expect("the right parts");
        assert!(again.to_bytes(identity) == sequence.to_bytes(identity), "{len} tokens");
        Sequence::from_parts(sequence.layout(), len + 128, parts.clone()).expect_err("a page too few");
        let mut cut = parts.clone();
        cut.rest.truncate(cut.rest.len() - 1);
        Sequence::from_parts(sequence.layout(), len, cut).expect_err("cut off");
        if full > 0 {
            let mut cut = parts;
            cut.pages[0] = Default::default();
            Sequence::from_parts(sequence.layout(), len, cut).expect_err("an empty page");
        }
    }
}

#[test]
fn pages_computed_twice_can_lie_in_memory_once() {
    let (first, identity) = computed(300);
    let (mut second, _) = computed(290);
    let before = second.to_bytes(identity);
    assert_ne!(first.page_use(0), second.page_use(0));
    second.share_pages(&first, 9);
    assert_eq!((first.page_use(0), first.page_use(1)), (second.page_use(0), second.page_use(1)));
    assert_ne!(first.page_use(2), second.page_use(2), "the page that has begun stays its own");
    assert!(second.to_bytes(identity) == before);
}

#[test]
fn a_fork_does_not_see_what_the_other_writes() {
    let (sequence, identity) = computed(130);
    let before = sequence.to_bytes(identity);
    let mut fork = sequence.fork();
    fork.compressed_row_mut(2, 0).fill(0xAA);
    fork.window_row_mut(0, 5).fill(0xAA);
    fork.advance(1);
    assert!(sequence.to_bytes(identity) == before);
    assert!(fork.to_bytes(identity) != before);
}

#[test]
fn a_full_size_context_takes_little_memory() {
    // The published shape of V4 Flash, of which the state layout needs only these dimensions.
    let mut config = harness::model("s-f16").config().clone();
    config.n_layer = 43;
    config.ratios = (0..43)
        .map(|n| {
            if n < 2 {
                0
            } else if n % 2 == 0 {
                4
            } else {
                128
            }
        })
        .collect();
    (config.head_dim, config.rope_dim, config.idx_dim, config.window) = (512, 64, 128, 128);
    let packed = StateLayout::new(&config, KvPrecision::Model);
    assert_eq!(packed.kv_row.bytes(), 583);
    assert_eq!(packed.index_row.bytes(), 68);
    assert!((packed.bytes_per_token() - 3508.84).abs() < 0.1, "{}", packed.bytes_per_token());
    assert!(packed.sequence_bytes(1 << 20) < 4 << 30);
    assert_eq!(packed.tokens_within(packed.sequence_bytes(1 << 20)), 1 << 20);
    assert_eq!(packed.tokens_within(packed.sequence_bytes(1 << 20) - 1), (1 << 20) - 128);
    assert_eq!(packed.tokens_within(1000), 0);
    assert_eq!(StateLayout::new(&config, KvPrecision::Exact).bytes_per_token(), 13760.0);
}

proptest! {
    /// A row that was stored once is stored the same way again: packing is rounding, and rounding is idempotent.
    #[test]
    fn packing_is_idempotent(values in proptest::collection::vec(-1e4f32..1e4, 512), scale in -30i32..10) {
        let format = ds4_model::state::KvRowFormat::Packed { nope: 448, rope: 64 };
        let row: Vec<f32> = values.iter().map(|v| v * 2f32.powi(scale)).collect();
        let (mut stored, mut once) = (vec![0; format.bytes()], vec![0.0; 512]);
        format.encode(&row, &mut stored);
        format.decode(&stored, &mut once);
        let (mut again, mut twice) = (vec![0; format.bytes()], vec![0.0; 512]);
        format.encode(&once, &mut again);
        format.decode(&again, &mut twice);
        prop_assert_eq!(harness::bits(&once), harness::bits(&twice));
    }

    #[test]
    fn random_bytes_are_never_a_state(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let layout = Arc::new(StateLayout::new(harness::model("s-f16").config(), KvPrecision::Model));
        prop_assert!(Sequence::from_bytes(&layout, 0, &bytes).is_err());
    }
}
