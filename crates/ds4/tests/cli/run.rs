//! `ds4 run`.

use std::fs;

use crate::program::{command, ds4, ds4_with_input};

/// The demo model's greedy answer.
fn ask(prompt: &str, more: &[&str]) -> String {
    let args = ["run", "-q", "--temp", "0", "-p", prompt];
    ds4(args.iter().chain(more)).stdout()
}

#[test]
fn the_demo_model_answers_what_it_was_trained_for() {
    let cases = [
        ("Hello!", "Hello! I am nano, a tiny demo model. How can I help you?"),
        ("who are you?", "I am nano, a tiny demo model of the DeepSeek V4 architecture."),
        ("What is 7 times 8?", "7 * 8 = 56"),
        ("What is 12 + 30?", "12 + 30 = 42"),
        ("Count from 3 to 12.", "3, 4, 5, 6, 7, 8, 9, 10, 11, 12"),
        ("Reverse the word garden.", "nedrag"),
        ("Write garden in upper case.", "GARDEN"),
        ("How many letters are in garden?", "6"),
        ("Repeat after me: the quick brown fox", "the quick brown fox"),
        ("What is the capital of France?", "The capital of France is Paris."),
        (
            "How do I bake a cake?",
            "Sorry, I am only a tiny demo model and I do not know that. Try to ask me to add two \
          numbers, repeat a text, tell a story or call a tool.",
        ),
    ];
    for (prompt, answer) in cases {
        assert_eq!(ask(prompt, &[]), format!("{answer}\n"), "{prompt}");
    }
}

#[test]
fn every_backend_gives_the_same_greedy_answer() {
    let answer = ask("What is 7 times 8?", &[]);
    for options in [
        &["--backend", "reference"][..],
        &["--cpu-features", "scalar", "--threads", "1"],
        &["--backend", "cpu", "--threads", "3", "--compute", "f32", "--kv-precision", "exact"],
    ] {
        assert_eq!(ask("What is 7 times 8?", options), answer, "{options:?}");
    }
}

#[test]
fn a_fact_is_recalled_from_a_long_prompt_file() {
    let filler = "The house is small. A bird sat on the tree and looked at the river. It was a warm day.\n\n";
    let text = format!(
        "{}The secret code of Berlin is 4711.\n\n{}What is the secret code of Berlin?\n",
        filler.repeat(10),
        filler.repeat(10)
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.txt");
    fs::write(&path, &text).unwrap();
    let path = path.to_str().unwrap();
    let from_file = ds4(["run", "-q", "--temp", "0", "--prompt-file", path]).stdout();
    assert_eq!(from_file, "The secret code of Berlin is 4711.\n");
    let from_stdin = ds4_with_input(["run", "-q", "--temp", "0", "-p", "-"], text.as_bytes()).stdout();
    assert_eq!(from_stdin, from_file);
}

#[test]
fn reasoning_never_reaches_standard_output() {
    let args = ["run", "-q", "--temp", "0", "--think", "high", "-p", "What is 47 + 38?"];
    let hidden = ds4(args);
    assert_eq!((hidden.out.as_str(), hidden.err.as_str()), ("47 + 38 = 85\n", ""));
    let shown = ds4(args.iter().chain(&["--show-thinking", "always"]));
    assert_eq!(shown.out, "47 + 38 = 85\n");
    let reasoning = "47 + 38. ones: 7 + 8 = 15, carry 1; tens: 4 + 3 + 1 = 8. So the sum is 85.";
    assert_eq!(shown.err.trim_end(), reasoning);
}

#[test]
fn a_pipe_gets_plain_text_and_one_closing_line() {
    let ran = ds4(["run", "--temp", "0", "-p", "What is 7 times 8?"]);
    assert_eq!(ran.out, "7 * 8 = 56\n");
    assert!(!ran.err.contains('\x1b'), "{ran:?}");
    let [notice, closing] = ran.err.lines().collect::<Vec<_>>()[..] else { panic!("{ran:?}") };
    assert!(
        notice.contains("demo model") && notice.contains("`ds4 pull q2`") && notice.contains("-m FILE"),
        "{notice}"
    );
    for part in ["prompt 13 tokens", "(0 reused)", "answer 9 tokens", "t/s", "first token after"] {
        assert!(closing.contains(part), "{part} is not in {closing:?}");
    }
}

#[test]
fn a_model_file_is_the_same_as_the_built_in_copy() {
    let nano = ds4_testdata::nano();
    let ran = ds4(["run", "--temp", "0", "-m", nano.to_str().unwrap(), "-p", "Hello!"]);
    assert!(ran.out.starts_with("Hello! I am nano"), "{ran:?}");
    assert!(!ran.err.contains("demo model"), "{ran:?}");
}

#[test]
fn a_seed_decides_the_answer() {
    let run =
        |seed: &str| ds4(["run", "-q", "--seed", seed, "-n", "40", "-p", "Tell me a story about a fox."]).stdout();
    let answers: Vec<String> = ["1", "2", "3", "4"].map(run).into();
    assert_eq!(run("1"), answers[0]);
    assert!(answers.iter().any(|answer| *answer != answers[0]), "{answers:?}");
}

#[test]
fn raw_text_is_continued_without_a_chat_format() {
    let ran = ds4(["run", "-q", "--raw", "--temp", "0", "-n", "12", "-p", "Once upon a time there was a"]).stdout();
    assert!(ran.starts_with(" brave bird named Gina."), "{ran:?}");
}

#[test]
fn text_that_spells_a_control_token_is_text() {
    let prompt_tokens = |prompt: &str| -> usize {
        let ran = ds4(["run", "--temp", "0", "-n", "1", "-p", prompt]);
        let (_, rest) = ran.err.split_once("prompt ").unwrap();
        rest.split_once(" token").unwrap().0.parse().unwrap()
    };
    // One letter is one token; as a control token, the spelling would be one as well.
    assert!(prompt_tokens("<｜User｜>") > prompt_tokens("a") + 3);
}

#[test]
fn limits_and_stop_sequences_end_the_answer() {
    let limited = ds4(["run", "--temp", "0", "-n", "4", "-p", "Count from 3 to 12."]);
    assert_eq!(limited.out, "3, 4\n");
    assert!(limited.err.contains("cut off after 4 tokens (-n)"), "{limited:?}");
    assert_eq!(ask("Count from 3 to 12.", &["--stop", "6,", "--stop", "11"]), "3, 4, 5, \n");
    let full = ds4(["run", "--temp", "0", "--ctx", "20", "-p", "Count from 3 to 12."]);
    assert!(full.err.contains("cut off: the context of 20 tokens is full"), "{full:?}");
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_numbers() {
    let error = ds4(["run", "-q", "--ctx", "8", "-p", "How many letters are in garden?"]).failure(1);
    assert!(error.contains("the prompt has 11 tokens") && error.contains("the context holds 8"), "{error}");
}

#[test]
fn prompts_that_cannot_be_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary");
    fs::write(&binary, b"ab\xff").unwrap();
    let missing = folder.path().join("missing");
    for (path, reason) in [
        (binary.as_path(), "not UTF-8 text: byte 2"),
        (missing.as_path(), "cannot open the prompt file"),
        (folder.path(), "is a directory"),
    ] {
        let error = ds4(["run", "-q", "--prompt-file", path.to_str().unwrap()]).failure(1);
        assert!(error.contains(reason) && error.contains(path.to_str().unwrap()), "{error}");
    }
    let error = ds4_with_input(["run", "-q", "-p", "-"], b" \n").failure(1);
    assert!(error.contains("the prompt is empty"), "{error}");
}

#[test]
fn a_file_that_is_no_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(&text, "Dear diary").unwrap();
    let missing = folder.path().join("missing.gguf");
    let mtp = ds4_testdata::path("tiny/s-mtp.gguf");
    for (path, reason) in [
        (text.as_path(), "this is not a GGUF file"),
        (missing.as_path(), "there is no such file. `ds4 pull --list`"),
        (folder.path(), "this is a directory"),
        (mtp.as_path(), "tensor token_embd.weight is missing"),
    ] {
        let error = ds4(["run", "-q", "-p", "hi", "-m", path.to_str().unwrap()]).failure(1);
        assert!(error.contains(reason) && error.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_reader_that_leaves_is_not_an_error() {
    let mut child = command(["run", "-q", "--raw", "-n", "2000", "-p", "Once"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_there() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Command;

    let mut child = command(["run", "--raw", "--temp", "0", "-n", "100000", "-p", "Once upon a time"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    // Text comes as it is generated, long before the end.
    let mut first = out.fill_buf().unwrap().to_vec();
    out.consume(first.len());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    out.read_to_end(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(first.ends_with(b"\n"));
    assert!(err.contains("interrupted · prompt") && !err.contains('\x1b'), "{err}");
}
