//! `ds4 inspect`.

use std::fs;
use std::path::{Path, PathBuf};

use ds4_gguf::{Gguf, GgufWriter, Layout, Metadata, TensorType, Value as Meta};
use serde_json::{Value, json};

use crate::program::{ds4, ds4_with_input};

/// The JSON report of a file, and the exit code.
fn report(path: &Path, more: &[&str]) -> (Value, i32) {
    let args = ["inspect", "--json", path.to_str().unwrap()];
    let ran = ds4(args.iter().chain(more));
    assert_eq!(ran.err, "");
    (serde_json::from_str(&ran.out).unwrap(), ran.code.unwrap())
}

#[test]
fn the_demo_model_is_described_and_sound() {
    let text = ds4(["inspect", "--deep"]).stdout();
    for part in [
        "nano (demo model of the DeepSeek V4 architecture)",
        "22.8 M parameters",
        "7 (2 window only, 3 of ratio 4, 2 of ratio 128)",
        "2 560 tokens",
        "routed gate + up      IQ2_XXS",
        "routed down           Q2_K",
        "per token",
        "ds4 can run this file",
        "every block is sound",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains('\x1b'));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn json_adds_up() {
    let (report, code) = report(&ds4_testdata::nano(), &[]);
    let gguf = Gguf::open(ds4_testdata::nano()).unwrap();
    assert_eq!(code, 0);
    assert_eq!(report["runs"], true);
    assert_eq!(report["deep"], Value::Null);
    assert_eq!(report["shape"]["ratios"], json!([0, 0, 4, 128, 4, 128, 4]));
    assert_eq!(report["metadata"]["license"], "mit");
    assert_eq!(report["tensors"].as_array().unwrap().len(), gguf.tensors().len());
    let elements: u64 = gguf.tensors().iter().map(|info| info.n_elements()).sum();
    let bytes: u64 = gguf.tensors().iter().map(|info| info.size).sum();
    assert_eq!((report["parameters"].as_u64(), report["tensor_bytes"].as_u64()), (Some(elements), Some(bytes)));
    let sum =
        |field: &str| report["classes"].as_array().unwrap().iter().map(|c| c[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("parameters"), sum("bytes")), (elements, bytes));
}

#[test]
fn a_card_is_planned_for_without_having_one() {
    let fits = |size: &str| report(&ds4_testdata::nano(), &["--card-memory", size]).0["cards"][0].clone();
    let large = fits("8G");
    assert_eq!((large["memory"].as_u64(), &large["problem"]), (Some(8 << 30), &Value::Null));
    let plan = |field: &str| large["plan"][field].as_u64().unwrap();
    assert_eq!(plan("weights") + plan("scratch") + plan("reserve") + plan("headroom"), 8 << 30);
    // Steps of a prompt are longer where there is memory for them.
    assert_eq!((&large["plan"]["prefill_rows"], &fits("140G")["plan"]["prefill_rows"]), (&json!(2048), &json!(3072)));
    // Laid out in tiles, a small model takes more than its file, but not several times as much.
    let file = std::fs::metadata(ds4_testdata::nano()).unwrap().len();
    assert!((file / 2..file * 4).contains(&plan("weights")), "{large}");
    assert!(plan("context") > 100_000, "{large}");
    let small = fits("100M");
    assert!(small["problem"].as_str().unwrap().contains("does not fit into the GPU's memory"), "{small}");
    assert!(ds4(["inspect", "--card-memory", "8G"]).stdout().contains("NVIDIA card (8.00 GiB): weights"));
}

#[test]
fn tensors_are_listed_on_request() {
    let gguf = Gguf::open(ds4_testdata::nano()).unwrap();
    let text = ds4(["inspect", "--tensors"]).stdout();
    for info in gguf.tensors() {
        assert!(text.contains(&format!("  {} ", info.name)), "{}", info.name);
    }
}

/// A copy of tiny/m-q2.gguf with one scale of `tensor` replaced: the file, the block's number, its offset.
fn with_bad_scale(folder: &Path, tensor: &str, block: u64, scale_at: u64, bits: [u8; 2]) -> (PathBuf, u64) {
    let original = ds4_testdata::path("tiny/m-q2.gguf");
    let gguf = Gguf::open(&original).unwrap();
    let info = gguf.require_tensor(tensor).unwrap();
    let offset = info.offset + block * info.ty.block_bytes() as u64;
    let mut bytes = fs::read(original).unwrap();
    let at = (offset + scale_at) as usize;
    bytes[at..at + 2].copy_from_slice(&bits);
    let path = folder.join("damaged.gguf");
    fs::write(&path, bytes).unwrap();
    (path, offset)
}

#[test]
fn deep_finds_a_damaged_scale_and_says_where() {
    const NAN: [u8; 2] = [0x01, 0x7e];
    const INFINITE: [u8; 2] = [0x00, 0x7c];
    let folder = tempfile::tempdir().unwrap();
    for (tensor, block, scale_at, bits) in [
        ("blk.2.ffn_down_exps.weight", 7, 80, NAN),
        ("blk.0.ffn_gate_exps.weight", 3, 0, INFINITE),
        ("blk.1.attn_q_a.weight", 11, 0, NAN),
    ] {
        let (path, offset) = with_bad_scale(folder.path(), tensor, block, scale_at, bits);
        assert_eq!(report(&path, &[]).1, 0, "the header is sound");
        let (found, code) = report(&path, &["--deep"]);
        assert_eq!(code, 1);
        let bad = &found["deep"]["bad_tensors"];
        assert_eq!(bad.as_array().unwrap().len(), 1, "{bad}");
        assert_eq!(bad[0]["tensor"], tensor);
        assert_eq!((bad[0]["block"].as_u64(), bad[0]["offset"].as_u64()), (Some(block), Some(offset)));
        let ran = ds4(["inspect", "--deep", path.to_str().unwrap()]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.out.contains(tensor) && ran.out.contains(&offset.to_string()), "{}", ran.out);
    }
}

#[test]
fn another_architecture_is_shown_but_cannot_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("llama.gguf");
    let mut metadata = Metadata::new("llama.gguf");
    metadata.insert("general.architecture", Meta::Str("llama".to_owned()));
    // A name that would retitle a terminal's window.
    metadata.insert("general.name", Meta::Str("tiny\x1b]0;llama\x07".to_owned()));
    let mut layout = Layout::new(&metadata).unwrap();
    layout.push("blk.0.attn_k.weight", TensorType::F32, &[4, 2]).unwrap();
    let file = fs::File::create(&path).unwrap();
    let mut writer = GgufWriter::new("llama.gguf", file, &metadata, layout).unwrap();
    writer.write_tensor("blk.0.attn_k.weight", &[0; 32]).unwrap();
    writer.finish().unwrap();

    let ran = ds4(["inspect", "--tensors", path.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("blk.0.attn_k.weight") && ran.out.contains("other"), "{}", ran.out);
    assert!(ran.out.contains("\"llama\" model"), "{}", ran.out);
    assert!(!ran.out.contains('\x1b'), "{:?}", ran.out);
    let (report, code) = report(&path, &[]);
    assert_eq!(code, 1);
    assert_eq!((&report["runs"], &report["shape"]), (&json!(false), &Value::Null));
    assert_eq!(report["problems"].as_array().unwrap().len(), 1);
}

#[test]
fn a_part_of_a_model_is_shown_but_cannot_run() {
    let (report, code) = report(&ds4_testdata::path("tiny/s-mtp.gguf"), &[]);
    assert_eq!(code, 1);
    assert_eq!(report["classes"][0]["class"], "mtp");
    assert!(report["problems"][0].as_str().unwrap().contains("token_embd.weight is missing"), "{report}");
}

#[test]
fn what_is_no_gguf_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.gguf");
    let bytes = ds4_testdata::bytes("tiny/m-q2.gguf");
    fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    for path in [cut.as_path(), folder.path(), &folder.path().join("missing.gguf")] {
        let error = ds4(["inspect", path.to_str().unwrap()]).failure(1);
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    // An option is not needed for standard input: a file that is to be mapped must be a file.
    assert!(ds4_with_input(["inspect", "/dev/stdin"], &bytes).failure(1).contains("a device or pipe"));
}
