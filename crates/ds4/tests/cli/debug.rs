//! `ds4 debug`, against everything that is recorded.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::program::{ds4, ds4_with_input};

/// The cases of a fixture file, each as its text stands in the file: numbers in schemas must keep their digits.
fn case_lines(rel: &str) -> Vec<String> {
    use ds4_chat::json::Json;
    let text = String::from_utf8(ds4_testdata::bytes(rel)).unwrap();
    let file = Json::parse(&text).unwrap();
    let cases = file.get("cases").and_then(Json::as_array).unwrap();
    assert!(!cases.is_empty());
    cases.iter().map(Json::to_string).collect()
}

/// Runs a stage on JSON lines and pairs every line with its answer.
fn answers(stage: &str, tokenizer: &str, lines: &[String], code: i32) -> Vec<(Value, Value)> {
    let ran = ds4_with_input(["debug", stage, "--tokenizer", tokenizer], lines.join("\n").as_bytes());
    assert_eq!((ran.code, ran.err.as_str()), (Some(code), ""));
    let outputs: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(outputs.len(), lines.len());
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).zip(outputs).collect()
}

#[test]
fn tokenize_gives_the_recorded_ids() {
    let lines = case_lines("tokenizer/tokenize.json");
    for (case, answer) in answers("tokenize", "v4", &lines, 0) {
        assert_eq!(answer, json!({ "ids": case["ids"] }), "{case}");
    }
    let special: Vec<String> = lines
        .iter()
        .map(|line| {
            let mut case: Value = serde_json::from_str(line).unwrap();
            case["special"] = json!(true);
            case.to_string()
        })
        .collect();
    for (case, answer) in answers("tokenize", "v4", &special, 0) {
        let ids = case.get("ids_special").unwrap_or(&case["ids"]);
        assert_eq!(&answer["ids"], ids, "{case}");
    }
}

#[test]
fn tokenize_takes_large_texts() {
    let cases: Vec<Value> =
        case_lines("tokenizer/tokenize_big.json").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<String> = cases
        .iter()
        .map(|case| {
            let text = match case["text"].as_str() {
                Some(text) => text.to_owned(),
                None => case["unit"].as_str().unwrap().repeat(case["repeat"].as_u64().unwrap() as usize),
            };
            json!({ "text": text }).to_string()
        })
        .collect();
    for (case, (_, answer)) in cases.iter().zip(answers("tokenize", "v4", &lines, 0)) {
        let bytes: Vec<u8> = answer["ids"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|id| u32::try_from(id.as_u64().unwrap()).unwrap().to_le_bytes())
            .collect();
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(case["ids_u32le_sha256"], hash, "{}", case["id"]);
    }
}

#[test]
fn every_kind_of_tokenizer_can_be_named() {
    let text = [json!({ "text": "The quick brown fox, 12345 · 你好" }).to_string()];
    let official = answers("tokenize", "v4", &text, 0);
    let json = ds4_testdata::path("tokenizer/tokenizer.json");
    assert_eq!(answers("tokenize", json.to_str().unwrap(), &text, 0), official);
    // The demo model's vocabulary is a prefix of the official one: other ids, all of them small.
    let nano = answers("tokenize", ds4_testdata::nano().to_str().unwrap(), &text, 0);
    let ids = nano[0].1["ids"].as_array().unwrap();
    assert!(ids.iter().all(|id| id.as_u64().unwrap() < 2560), "{ids:?}");
    assert_ne!(nano, official);
}

#[test]
fn a_tokenizer_that_is_none_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let nano = fs::read(ds4_testdata::nano()).unwrap();
    for path in [
        folder.path().join("missing.json"),
        folder.path().to_owned(),
        write("empty", b""),
        write("other.json", b"{\"model\": 3}"),
        write("cut.gguf", &nano[..1000]),
    ] {
        let error = ds4(["debug", "tokenize", "--tokenizer", path.to_str().unwrap()]).failure(1);
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn render_gives_the_recorded_prompts() {
    for rel in ["encoding/encode.json", "encoding/encode_server.json"] {
        for (case, answer) in answers("render", "v4", &case_lines(rel), 0) {
            let expected = |server: &str, plain: &str| case.get(server).unwrap_or(&case[plain]).clone();
            let expected = json!({
                "text": expected("server_text", "text"),
                "ids": expected("server_ids", "ids"),
            });
            assert_eq!(answer, expected, "{}", case["id"]);
        }
    }
}

#[test]
fn render_refuses_what_the_reference_encoder_refuses() {
    for (case, answer) in answers("render", "v4", &case_lines("encoding/encode_errors.json"), 1) {
        assert!(answer["error"].is_string() && answer.as_object().unwrap().len() == 1, "{}: {answer}", case["id"]);
    }
}

#[test]
fn parse_gives_exactly_the_recorded_results() {
    let cases: Vec<Value> =
        case_lines("dsml/parse.json").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let inputs = |switch: Option<&str>| -> Vec<String> {
        let input = |case: &Value| {
            let mut input = case["input"].clone();
            if let Some(switch) = switch {
                input[switch] = json!(true);
            }
            input.to_string()
        };
        cases.iter().map(input).collect()
    };
    for (switch, field) in [
        (None, "expected"),
        (Some("lenient"), "expected_lenient"),
        (Some("calls_in_reasoning"), "expected_calls_in_reasoning"),
    ] {
        for (case, (_, answer)) in cases.iter().zip(answers("parse", "v4", &inputs(switch), 0)) {
            let expected = case.get(field).unwrap_or(&case["expected"]);
            assert_eq!(&answer, expected, "{} {switch:?}", case["id"]);
        }
    }
}

#[test]
fn bad_lines_are_answered_in_their_place() {
    let good = r#"{"text": "Hello"}"#;
    let input = format!("{good}\n\n  \nnonsense\n{{\"text\": 3}}\n{{}}\n\u{feff}\n{good}");
    let ran = ds4_with_input(["debug", "tokenize"], input.as_bytes());
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    let answers: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 6);
    assert_eq!(answers[0], json!({ "ids": [19923] }));
    assert_eq!(answers[5], answers[0]);
    for answer in &answers[1..5] {
        assert!(answer["error"].as_str().unwrap().contains(r#"{"text": "#), "{answer}");
    }
    let ran = ds4_with_input(["debug", "render"], b"\xff\n{}\n[\n");
    let answers: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(ran.code, Some(1));
    assert!(answers.len() == 3 && answers.iter().all(|answer| answer["error"].is_string()), "{answers:?}");
}

#[test]
fn lines_come_from_a_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines.jsonl");
    fs::write(&path, "{\"text\": \"Hello\"}\n").unwrap();
    assert_eq!(ds4(["debug", "tokenize", path.to_str().unwrap()]).stdout(), "{\"ids\":[19923]}\n");
    let missing = folder.path().join("missing");
    let error = ds4(["debug", "tokenize", missing.to_str().unwrap()]).failure(1);
    assert!(error.contains("cannot open"), "{error}");
}

/// Runs `ds4 debug logits` on the tiny model m-q2 and reads the file back.
fn logits(folder: &Path, tokens: &Value, more: &[&str]) -> ds4_testdata::Npy<f32> {
    let (ids, out) = (folder.join("ids.json"), folder.join("logits.npy"));
    fs::write(&ids, tokens.to_string()).unwrap();
    let model = ds4_testdata::path("tiny/m-q2.gguf");
    let paths = [&model, &ids, &out].map(|path| path.to_str().unwrap());
    let args = ["debug", "logits", "-m", paths[0], "--tokens", paths[1], "--out", paths[2]];
    assert_eq!(ds4(args.iter().chain(more)).stdout(), "");
    ds4_testdata::npy::parse_f32(&fs::read(&out).unwrap()).unwrap()
}

#[test]
fn logits_agree_with_the_recorded_ones_in_any_chunking() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = ds4_testdata::json("tiny/tokens.json");
    let exact = ["--compute", "f32", "--kv-precision", "exact"];
    for len in ["1", "5", "40"] {
        let golden = ds4_testdata::npy_f32(&format!("tiny/golden/m-q2/plain/logits_{len}.npy"));
        for backend in ["cpu", "reference"] {
            let got = logits(folder.path(), &tokens["m"][len], &[&exact[..], &["--backend", backend]].concat());
            assert_eq!(got.shape, golden.shape);
            let worst = got.data.iter().zip(&golden.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-3, "{backend}, {len} tokens: {worst}");
        }
    }
    let whole = logits(folder.path(), &tokens["m"]["40"], &[]);
    for chunk in ["1", "3", "39"] {
        let chunked = logits(folder.path(), &tokens["m"]["40"], &["--chunk", chunk, "--threads", "2"]);
        assert!(whole.data.iter().zip(&chunked.data).all(|(a, b)| a.to_bits() == b.to_bits()), "chunks of {chunk}");
    }
}

#[test]
fn failed_logits_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (ids, out) = (folder.path().join("ids.json"), folder.path().join("logits.npy"));
    let model = ds4_testdata::path("tiny/m-q2.gguf");
    let paths = [&model, &ids, &out].map(|path| path.to_str().unwrap().to_owned());
    for (text, reason) in [
        ("[0, 1, 99999999]", "token id 99999999 is outside"),
        ("[]", "is empty"),
        ("[0, -1]", "a JSON list of token ids"),
        ("{}", "a JSON list of token ids"),
        ("[0", "a JSON list of token ids"),
    ] {
        fs::write(&ids, text).unwrap();
        let args = ["debug", "logits", "-m", &paths[0], "--tokens", &paths[1], "--out", &paths[2], "--chunk", "1"];
        let error = ds4(args).failure(1);
        assert!(error.contains(reason), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the ids are left after {text}");
    }
}
