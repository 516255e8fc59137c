//! `ds4 bench` and `ds4 synth`, end to end on the small shape.

use std::path::Path;
use std::process::{Command, Output};

fn ds4(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ds4")).args(arguments).current_dir(folder).output().expect("ds4 starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn figures_follow_from_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        "bench", "--ctx", "600,64", "--gen", "3", "--passes", "2", "--json", "out.json", "--csv", "out.csv", "--svg",
        "o.svg",
    ];
    let output = ds4(&arguments, folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("out.json")).expect("a file")).expect("JSON");
    assert!(report["bandwidth"].as_f64().is_some_and(|bandwidth| bandwidth > 0.0));
    let points = report["points"].as_array().expect("points");
    assert_eq!(points.len(), 2);
    for (point, context) in points.iter().zip([64, 600]) {
        let number = |key: &str| point[key].as_f64().unwrap_or_else(|| panic!("{key} in {point}"));
        assert_eq!(point["context"], context);
        let passes = point["passes"].as_array().expect("passes");
        assert_eq!(passes.len(), 2);
        for key in ["prefill", "decode", "bandwidth"] {
            let both: f64 = passes.iter().map(|pass| pass[key].as_f64().expect("a number")).sum();
            assert!((number(key) / (both / 2.0) - 1.0).abs() < 1e-9, "{key} in {point}");
        }
        let roofline = number("bandwidth") / (number("weight_bytes") + number("cache_bytes"));
        assert!((number("roofline") / roofline - 1.0).abs() < 1e-9);
        assert!((number("fraction") - number("decode") / roofline).abs() < 1e-9);
        assert!(number("prefill") > 0.0 && number("decode") > 0.0);
    }
    // A page of nano spans 128 tokens: 3 layers with 32 rows of 64 + 1 + 128 bytes and 32 indexer rows of 64 + 4 bytes,
    // and 2 layers with one row of 193 bytes. 600 tokens have four pages more than 64.
    let page = 3 * 32 * (193 + 68) + 2 * 193;
    let state = |i: usize| points[i]["state_bytes"].as_u64().expect("bytes");
    assert_eq!(state(1) - state(0), 4 * page);
    let table = text(&output.stdout);
    assert!(table.contains("built-in demo model") && table.contains("roofline"), "{table}");
    let csv = std::fs::read_to_string(folder.path().join("out.csv")).expect("a file");
    assert_eq!(csv.lines().count(), 3);
    assert!(std::fs::read_to_string(folder.path().join("o.svg")).expect("a file").starts_with("<svg"));
}

#[test]
fn json_takes_the_place_of_the_table_on_standard_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let output =
        ds4(&["bench", "--synthetic", "nano", "--alias", "--ctx", "10", "--gen", "1", "--json"], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("nothing but JSON");
    assert!(report["weights"].as_str().expect("words").contains("random weights"));
}

#[test]
fn impossible_wishes_are_told_apart_from_failures() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, code, says) in [
        (&["bench", "--ctx", "2000000"][..], 2, "this model has a context of 1048576"),
        (&["bench", "--synthetic", "v5"], 2, "v4-flash-q2"),
        (&["bench", "--alias"], 2, "--synthetic"),
        (&["bench", "-m", "no.gguf"], 1, "no.gguf"),
        (&["synth", "--shape", "nano", "--layers", "8", "--out", "x.gguf"], 1, "8 layers are not possible"),
        (&["synth", "--shape", "nano", "--out", "no/folder/x.gguf"], 1, "no/folder"),
    ] {
        let output = ds4(arguments, folder.path());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(says), "{arguments:?}: {message}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");
}

#[test]
fn a_synthetic_file_is_sound_runs_and_is_the_same_each_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let synth = |name: &str, more: &[&str]| {
        let arguments = [&["synth", "--shape", "nano", "--out", name], more].concat();
        let output = ds4(&arguments, folder.path());
        assert!(output.status.success(), "{}", text(&output.stderr));
        std::fs::read(folder.path().join(name)).expect("a file")
    };
    let one = synth("one.gguf", &[]);
    assert!(one == synth("again.gguf", &[]));
    assert!(one != synth("other.gguf", &["--seed", "2"]));
    assert!(one.len() > synth("shared.gguf", &["--alias"]).len());
    for name in ["one.gguf", "shared.gguf"] {
        let output = ds4(&["inspect", "--deep", name], folder.path());
        assert!(output.status.success(), "{}", text(&output.stdout));
        let output = ds4(&["run", "-m", name, "-p", "hello", "-n", "3"], folder.path());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

#[test]
fn numbers_of_threads_are_measured_one_after_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        "bench",
        "--synthetic",
        "nano",
        "--ctx",
        "10",
        "--gen",
        "2",
        "--scaling",
        "2,1",
        "--profile",
        "--json",
        "o.json",
    ];
    let output = ds4(&arguments, folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("o.json")).expect("a file")).expect("JSON");
    let scaling = report["scaling"].as_array().expect("a list");
    assert_eq!(scaling.iter().map(|s| s["threads"].as_u64()).collect::<Vec<_>>(), [Some(2), Some(1)]);
    assert!(scaling.iter().all(|s| s["decode"].as_f64() > Some(0.0) && s["prefill"].as_f64() > Some(0.0)));
    // The other figures are those of the last.
    assert!(report["device"].as_str().is_some_and(|device| device.contains("1 threads")), "{}", report["device"]);
    let operations = report["points"][0]["operations"].as_array().expect("operations");
    let named = |name: &str| operations.iter().find(|o| o["operation"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert!(named("moe")["prefill_ms"].as_f64() > Some(0.0) && named("head")["decode_ms"].as_f64() > Some(0.0));
    let table = text(&output.stdout);
    assert!(table.contains("bandwidth") && table.lines().any(|line| line.starts_with("attn_out")), "{table}");
}
