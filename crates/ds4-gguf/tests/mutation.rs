//! Damaged files never panic, and what is wrong with them is said in a sentence. A quick relative
//! of the fuzz target `gguf_parse`.

mod common;

use ds4_gguf::{Gguf, quant};
use proptest::prelude::*;

/// Opens the bytes and touches everything that opening promises to be readable.
fn exercise(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let gguf = match Gguf::from_vec("damaged.gguf", bytes) {
        Ok(gguf) => gguf,
        Err(error) => {
            let message = error.to_string();
            prop_assert!(message.starts_with("damaged.gguf: at byte "), "{}", message);
            prop_assert!(message.split_whitespace().count() > 6, "{}", message);
            return Ok(());
        }
    };
    for (_, value) in gguf.metadata().iter() {
        if let ds4_gguf::Value::Array(ds4_gguf::Array::Str(strings)) = value {
            prop_assert_eq!(strings.iter().count(), strings.len());
        }
    }
    for tensor in gguf.tensors() {
        let data = gguf.data(tensor);
        prop_assert_eq!(data.len() as u64, tensor.size);
        let mut y = vec![0.0; tensor.n_elements() as usize];
        quant::dequantize_row(tensor.ty, data, &mut y);
        let _ = quant::validate(tensor.ty, data);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn flipped_bits(flips in proptest::collection::vec((0usize..1400, 0u8..8), 1..4)) {
        let mut bytes = common::valid_file();
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        exercise(bytes)?;
    }

    #[test]
    fn overwritten_words(at in 0usize..1400, word in proptest::sample::select(vec![
        0u64, 1, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 63, u64::MAX, u64::MAX - 31,
    ])) {
        let mut bytes = common::valid_file();
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        exercise(bytes)?;
    }

    #[test]
    fn removed_repeated_and_moved_pieces(from in 0usize..1400, len in 0usize..200, to in 0usize..1400) {
        let whole = common::valid_file();
        let piece = whole[from..from + len].to_vec();
        let mut removed = whole.clone();
        removed.drain(from..from + len);
        let mut moved = removed.clone();
        moved.splice(to..to, piece.iter().copied());
        let mut repeated = whole;
        repeated.splice(to..to, piece);
        exercise(removed)?;
        exercise(moved)?;
        exercise(repeated)?;
    }

    #[test]
    fn noise_after_a_valid_beginning(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(noise);
        exercise(bytes)?;
    }
}
