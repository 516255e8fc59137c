//! What is in `testdata/` is whole, listed, and comes out as it went in.

use std::collections::BTreeSet;
use std::path::Path;

/// Unpacking checks length and SHA-256 against the index.
#[test]
fn every_file_unpacks() {
    let files = ds4_testdata::list("");
    assert!(files.len() > 50, "{} files", files.len());
    for rel in &files {
        assert!(ds4_testdata::path(rel).is_file(), "{rel}");
    }
}

#[test]
fn the_index_names_every_packed_file_and_no_other() {
    fn visit(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for item in std::fs::read_dir(folder).unwrap() {
            let item = item.unwrap();
            let name = format!("{prefix}{}", item.file_name().to_str().unwrap());
            if item.file_type().unwrap().is_dir() {
                visit(&item.path(), &format!("{name}/"), found);
            } else if name != "index.json" {
                found.insert(name);
            }
        }
    }
    let mut found = BTreeSet::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata"), "", &mut found);
    let listed = ds4_testdata::list("").into_iter().map(|rel| format!("{rel}.zst")).collect();
    assert_eq!(found, listed);
}

#[test]
fn json_and_arrays_have_their_documented_shapes() {
    let tokens = ds4_testdata::json("tiny/tokens.json");
    assert_eq!(tokens["s"]["40"].as_array().unwrap().len(), 40);

    let logits = ds4_testdata::npy_f32("tiny/golden/s-f16/plain/logits_300.npy");
    assert_eq!(logits.shape, [300, 512]);
    let experts = ds4_testdata::npy_i64("tiny/golden/s-f16/plain/l3.experts.npy");
    assert_eq!(experts.shape, [700, 3]);
    assert!(experts.data.iter().all(|e| (0..8).contains(e)));
}

#[test]
fn sampled_rows_are_those_of_the_full_array() {
    let sampled = ds4_testdata::npy_f32("tiny/golden/s-f16/plain/logits_700_every4.npy");
    assert_eq!(sampled.shape, [175, 512]);
    // Every sequence starts with BOS, and what stands in row 0 has seen nothing else.
    let short = ds4_testdata::npy_f32("tiny/golden/s-f16/plain/logits_1.npy");
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-3;
    assert!(sampled.row(0).iter().zip(short.row(0)).all(close));
    assert!(!sampled.row(1).iter().zip(short.row(0)).all(close));
}

#[test]
fn threads_that_ask_at_once_all_get_the_whole_file() {
    let rel = "encoding/encode.json";
    let copies: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| ds4_testdata::bytes(rel))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(copies.iter().all(|copy| !copy.is_empty() && *copy == copies[0]));
}

#[test]
fn a_folder_lists_only_what_is_below_it() {
    let rounding = ds4_testdata::list("tiny/rounding");
    assert!(rounding.contains(&"tiny/rounding/kv_in.npy".to_owned()));
    assert!(rounding.iter().all(|rel| rel.starts_with("tiny/rounding/")));
    assert!(ds4_testdata::list("tiny/round").is_empty());
}

#[test]
#[should_panic(expected = "scripts/refresh-testdata")]
fn a_missing_file_names_the_script_that_adds_it() {
    ds4_testdata::path("tiny/golden/s-q8/plain/logits_5.npy");
}
