//! `ds4 doctor`, `ds4 completions` and `ds4 man`.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

fn ds4(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ds4")).args(arguments).env_remove("HF_ENDPOINT").output().expect("ds4 starts")
}

#[track_caller]
fn stdout_of(arguments: &[&str]) -> String {
    let output = ds4(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_self_test_passes_in_every_mode_and_is_reported_as_data() {
    let report: Value = serde_json::from_str(&stdout_of(&["doctor", "--self-test", "--json"])).expect("JSON");
    let modes = report["self_test"].as_array().expect("modes");
    assert_eq!(modes.len(), 4);
    for mode in modes {
        let checks = mode["checks"].as_array().expect("checks");
        assert!(checks.len() > 20, "{mode}");
        assert!(checks.iter().all(|check| check["passed"] == true), "{mode}");
    }
    // Whole passes without rounding agree with the independent implementation to float32's precision.
    let exact =
        modes.iter().find(|mode| mode["compute"] == "f32" && mode["kv_precision"] == "exact").expect("the mode");
    let logits = exact["checks"].as_array().expect("checks").iter().find(|check| check["result"] == "largest logits");
    assert!(logits.expect("the check")["error"].as_f64().expect("a number") < 1e-4);

    let machine = &report["machine"];
    assert!(machine["threads"].as_u64().is_some_and(|n| n > 0));
    assert!(machine["bandwidth"].as_f64().is_some_and(|bandwidth| bandwidth > 1e8));
    assert!(machine["memory"]["available"].as_u64() <= machine["memory"]["total"].as_u64());
    assert_eq!(machine["instruction_sets"][0], "scalar");
    assert_eq!(report["published"].as_array().map(Vec::len), Some(4));
}

#[test]
fn the_report_answers_for_the_machine_and_for_a_file() {
    let nano = concat!(env!("CARGO_MANIFEST_DIR"), "/../../nano/nano.gguf");
    let text = stdout_of(&["doctor", "-m", nano, "--threads", "1"]);
    for part in ["Machine", "1 thread used", "GB/s", "q2-q4", "rooflines", "ds4 pull", "nano.gguf", "fits"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(text.lines().filter(|line| !line.contains("nano.gguf")).all(|line| line.chars().count() <= 80), "{text}");
    assert!(!text.contains('\x1b'), "no colours in a pipe");
    assert_eq!(ds4(&["doctor", "-m", "no-such-file.gguf"]).status.code(), Some(1));
}

/// Where no Wayland server can be, Mesa's library once complained of that in the midst of the report.
#[test]
fn looking_for_cards_says_nothing_of_its_own() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ds4"));
    let output = command.args(["doctor", "--threads", "1"]).env_remove("XDG_RUNTIME_DIR").output().expect("ds4 starts");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// A machine without any driver: the loader is told to look for one where none is.
#[test]
fn a_missing_graphics_driver_is_said_in_a_sentence() {
    for backend in ["wgpu", "vulkan", "metal"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ds4"));
        command.args(["run", "--backend", backend, "-p", "Hello"]).env("VK_DRIVER_FILES", "/nonexistent");
        let output = command.env("VK_ICD_FILENAMES", "/nonexistent").output().expect("ds4 starts");
        if cfg!(target_os = "macos") && output.status.success() {
            continue; // A Mac has Metal.
        }
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("no graphics card was found through") && error.contains("--backend cpu"), "{error}");
    }
}

#[test]
fn completions_know_commands_flags_and_values() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout_of(&["completions", shell]);
        for word in ["doctor", "self-test", "pull", "mxfp4"] {
            assert!(script.contains(word), "{word} is not in the completions for {shell}");
        }
    }
    assert_eq!(ds4(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn bash_can_read_its_completions() {
    let script = stdout_of(&["completions", "bash"]);
    let test = format!(
        "{script}\nCOMP_WORDS=(ds4 pull q); COMP_CWORD=2; _ds4 ds4 q pull; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let Ok(output) = Command::new("bash").args(["-c", &test]).output() else { return };
    let words = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(words.lines().collect::<Vec<_>>(), ["q2", "q2-q4", "q4"], "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let page = stdout_of(&["man"]);
    assert!(page.contains(".TH ds4 1") && page.contains("Exit codes"), "{page}");
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    stdout_of(&["man", "--dir", pages.to_str().expect("UTF-8")]);
    for name in ["ds4", "ds4-run", "ds4-inspect", "ds4-pull", "ds4-doctor", "ds4-debug-logits"] {
        let text = fs::read_to_string(pages.join(format!("{name}.1"))).expect(name);
        assert!(text.contains(".SH SYNOPSIS"), "{name}");
    }
}
