//! Rounding and rotation helpers against golden vectors, bit for bit where both sides are exact.

use ds4_model::rope::{Frequencies, rotate, rotate_back};
use ds4_model::rounding::*;
use ds4_model::state::{IndexRowFormat, KvRowFormat};
use ds4_testdata::npy_f32;

mod harness;

fn golden(name: &str) -> Vec<f32> {
    npy_f32(&format!("tiny/rounding/{name}.npy")).data
}

#[test]
fn e4m3_is_bit_exact() {
    for (x, expected) in golden("e4m3_in").into_iter().zip(golden("e4m3_out")) {
        let rounded = e4m3_decode(e4m3_encode(x));
        assert_eq!(rounded.to_bits(), expected.to_bits(), "{x} gives {rounded}, expected {expected}");
    }
}

#[test]
fn e2m1_is_bit_exact() {
    for (x, expected) in golden("e2m1_in").into_iter().zip(golden("e2m1_out")) {
        let rounded = e2m1_decode(e2m1_encode(x));
        assert_eq!(rounded.to_bits(), expected.to_bits(), "{x} gives {rounded}, expected {expected}");
    }
}

#[test]
fn kv_rows_are_bit_exact_and_packed_rows_agree() {
    let format = KvRowFormat::Packed { nope: 448, rope: 64 };
    let (input, output) = (golden("kv_in"), golden("kv_out"));
    for (row, expected) in input.chunks_exact(512).zip(output.chunks_exact(512)) {
        let mut rounded = row.to_vec();
        round_kv_row(&mut rounded, 64);
        assert_eq!(harness::bits(&rounded), harness::bits(expected));

        let (mut stored, mut loaded) = (vec![0; format.bytes()], vec![0.0; 512]);
        format.encode(row, &mut stored);
        format.decode(&stored, &mut loaded);
        assert_eq!(harness::bits(&loaded[..448]), harness::bits(&expected[..448]));
    }
}

#[test]
fn indexer_rows_agree_except_on_ties() {
    let format = IndexRowFormat::Packed { dim: 128 };
    let (input, transformed, output) = (golden("idx_in"), golden("had_out"), golden("idx_out"));
    let (mut differ, mut total) = (0, 0);
    for ((row, transformed), expected) in
        input.chunks_exact(128).zip(transformed.chunks_exact(128)).zip(output.chunks_exact(128))
    {
        let mut ours = row.to_vec();
        hadamard(&mut ours);
        let largest = transformed.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        assert!(harness::max_difference(&ours, transformed) <= 1e-5 * largest);

        let mut rounded = row.to_vec();
        round_index_row(&mut rounded);
        differ += rounded.iter().zip(expected).filter(|(a, b)| a != b).count();
        total += rounded.len();

        let (mut stored, mut loaded) = (vec![0; format.bytes()], vec![0.0; 128]);
        format.encode(&mut row.to_vec(), &mut stored);
        format.decode(&stored, &mut loaded);
        assert_eq!(loaded, rounded);
    }
    assert!(differ * 1000 <= total, "{differ} of {total} values differ");
}

#[test]
fn frequencies_and_rotation() {
    // The golden vectors are of the real rotary shape: 64 channels, which the tiny models share.
    let config = harness::model("s-f16").config().clone();
    for (frequencies, name) in
        [(Frequencies::plain(&config), "rope_freq_plain"), (Frequencies::compressed(&config), "rope_freq_yarn")]
    {
        for (ours, expected) in frequencies.as_slice().iter().zip(golden(name)) {
            assert!((ours - expected).abs() <= 1e-6 * expected, "{name}: {ours}, expected {expected}");
        }
    }
    let positions = ds4_testdata::npy_i64("tiny/rounding/rope_pos.npy").data;
    let input = golden("rope_in");
    let width = input.len() / positions.len();
    let check = |frequencies: &Frequencies, name: &str, turn: fn(&mut [f32], &[(f32, f32)])| {
        for ((row, expected), &position) in
            input.chunks_exact(width).zip(golden(name).chunks_exact(width)).zip(&positions)
        {
            let mut angles = vec![(0.0, 0.0); frequencies.pairs()];
            frequencies.angles(position as usize, &mut angles);
            let mut row = row.to_vec();
            turn(&mut row, &angles);
            // One ulp of a frequency is 0.06 rad at position 10^6.
            let tolerance = 1e-5 + 2e-7 * position as f32;
            let difference = harness::max_difference(&row, expected);
            assert!(difference <= tolerance, "{name} at {position}: {difference}");
        }
    };
    check(&Frequencies::plain(&config), "rope_plain", rotate);
    check(&Frequencies::compressed(&config), "rope_yarn", rotate);
    check(&Frequencies::compressed(&config), "rope_yarn_inv", rotate_back);
}
