//! Conversations by script.

use std::fs;
use std::path::Path;

use crate::program::{Ran, ds4_with_input};

/// Runs a greedy conversation of these lines.
fn chat(options: &[&str], lines: &[&str]) -> Ran {
    let args = ["chat", "--temp", "0"].iter().chain(options);
    ds4_with_input(args, (lines.join("\n") + "\n").as_bytes())
}

/// The closing line of an answer: tokens of the prompt, how many were reused, tokens of the answer.
#[derive(Debug, PartialEq)]
struct Closing {
    prompt: usize,
    reused: usize,
    answer: usize,
}

fn closings(ran: &Ran) -> Vec<Closing> {
    let number = |line: &str, before: &str| -> usize {
        let (_, rest) = line.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {line:?}"));
        let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == ' ').collect();
        digits.replace(' ', "").parse().unwrap()
    };
    let lines = ran.err.lines().filter(|line| line.contains("reused)"));
    let closing = |line: &str| Closing {
        prompt: number(line, "prompt "),
        reused: number(line, "("),
        answer: number(line, "answer "),
    };
    lines.map(closing).collect()
}

#[test]
fn what_was_said_is_remembered_and_not_computed_again() {
    let ran = chat(&[], &["My name is Anna.", "What is my name?", "/stats"]);
    assert!(ran.out.ends_with("\nYour name is Anna.\n"), "{ran:?}");
    let [first, second] = &closings(&ran)[..] else { panic!("{ran:?}") };
    assert_eq!(first.reused, 0);
    // All but the end-of-sentence token, which was sampled and not computed.
    assert_eq!(second.reused, first.prompt + first.answer - 1);
    let (_, stats) = ran.err.split_once("last prompt  ").unwrap();
    let mut stats = stats.lines();
    assert!(stats.next().unwrap().starts_with(&format!("{} tokens, ", second.prompt)), "{ran:?}");
    assert!(stats.next().unwrap().trim().starts_with(&format!("{} reused (", second.reused)), "{ran:?}");
}

#[test]
fn reasoning_leaves_the_prompt_but_the_message_before_it_stays_computed() {
    let questions = ["What is 47 + 38?", "What is 12 + 30?"];
    let ran = chat(&["--think", "high"], &questions);
    assert_eq!(ran.out, "47 + 38 = 85\n12 + 30 = 42\n");
    let [first, second] = &closings(&ran)[..] else { panic!("{ran:?}") };
    assert_eq!(second.reused, first.prompt - 2, "all but the opening of the answer");

    let kept = chat(&["--think", "high", "--keep-thinking"], &questions);
    let [first, second] = &closings(&kept)[..] else { panic!("{kept:?}") };
    assert_eq!(second.reused, first.prompt + first.answer - 1);
}

#[test]
fn undo_and_retry_compute_only_what_is_new() {
    let ran = chat(&[], &["My name is Anna.", "My name is Peter.", "/undo", "What is my name?", "/retry"]);
    let answers: Vec<&str> = ran.out.lines().collect();
    assert_eq!(answers[2..], ["Your name is Anna.", "Your name is Anna."], "{ran:?}");
    assert!(ran.err.contains("taken back: My name is Peter."), "{ran:?}");
    let [first, _, third, again] = &closings(&ran)[..] else { panic!("{ran:?}") };
    assert_eq!(third.reused, first.prompt + first.answer - 1);
    assert_eq!((again.prompt, again.reused), (third.prompt, third.prompt - 2));
}

#[test]
fn a_retry_with_a_seed_says_something_else_and_reproducibly() {
    let args = ["chat", "-q", "--temp", "1", "--seed", "7", "-n", "40"];
    let lines = b"Tell me a story about a fox.\n/retry\n/retry\n";
    let run = || ds4_with_input(args, lines).stdout();
    let stories = run();
    let stories: Vec<&str> = stories.lines().collect();
    assert!(stories.iter().any(|story| *story != stories[0]), "{stories:?}");
    assert_eq!(run().lines().collect::<Vec<_>>(), stories);
}

#[test]
fn nothing_to_undo_or_retry_is_said() {
    let ran = chat(&[], &["/undo", "/retry", "What is 7 times 8?"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "7 * 8 = 56\n"));
    assert!(ran.err.contains("there is nothing to take back"), "{ran:?}");
    assert!(ran.err.contains("there is no answer to try again"), "{ran:?}");
}

#[test]
fn an_unknown_command_is_a_sentence_and_not_the_end() {
    let ran = chat(&["-q"], &["/dance", "What is 7 times 8?"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "7 * 8 = 56\n"));
    let sentence = "ds4: there is no command /dance; /help lists what there is (a message that begins with a slash needs \
                    a blank before it)\n";
    assert_eq!(ran.err, sentence);
}

#[test]
fn what_is_saved_can_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my talk.json");
    let path = path.to_str().unwrap();
    let saved = chat(&["-q", "--system", "Be brief."], &["My name is Anna.", &format!("/save {path}")]);
    assert_eq!(saved.code, Some(0), "{saved:?}");
    let document: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let roles: Vec<&str> =
        document["messages"].as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);

    for load in [chat(&["-q"], &[&format!("/load {path}"), "What is my name?"]), {
        chat(&["-q", "--resume", path], &["What is my name?"])
    }] {
        assert_eq!((load.code, load.out.as_str()), (Some(0), "Your name is Anna.\n"), "{load:?}");
    }
    let missing = chat(&["-q", "--resume", "no-such-file.json"], &["Hello!"]).failure(1);
    assert!(missing.contains("cannot read no-such-file.json"), "{missing}");
}

#[test]
fn a_file_becomes_a_part_of_the_next_message() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("codes.txt"), "The secret code of Berlin is 4711.\n").unwrap();
    fs::write(path("binary"), b"ab\0cd").unwrap();
    let read = |name: &str| format!("/read {}", path(name).display());
    let save = path("talk.json");
    let lines = [&read("binary"), &read("codes.txt"), "What is the secret code of Berlin?", "Hello!"];
    let ran = chat(&[], &[&lines[..], &[&format!("/save {}", save.display())]].concat());
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("binary is not text: byte 2 is zero"), "{ran:?}");
    assert!(ran.err.contains("codes.txt: ") && ran.err.contains("with the next message"), "{ran:?}");
    assert!(ran.out.contains("4711"), "{ran:?}");
    let document: serde_json::Value = serde_json::from_slice(&fs::read(save).unwrap()).unwrap();
    assert_eq!(document["messages"][0]["files"][0]["name"], "codes.txt");
    assert_eq!(document["messages"][2].get("files"), None, "only in one message");
}

#[test]
fn a_message_beyond_the_context_is_refused_and_nothing_is_lost() {
    let long = "very ".repeat(60);
    let ran = chat(&["--ctx", "60"], &["My name is Anna.", &long, "What is my name?"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.ends_with("\nYour name is Anna.\n"), "{ran:?}");
    for part in ["the conversation has ", "the context holds 60", "/undo", "/new", "--ctx"] {
        assert!(ran.err.contains(part), "{part}: {ran:?}");
    }
}

/// The user's messages of a conversation with these lines.
fn messages(folder: &Path, lines: &[&str]) -> Vec<String> {
    let path = folder.join("messages.json");
    let save = format!("/save {}", path.display());
    let ran = chat(&["-q", "-n", "1"], &[lines, &[&save]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let document: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let messages = document["messages"].as_array().unwrap().iter();
    let of_user = messages.filter(|message| message["role"] == "user");
    of_user.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn messages_may_have_several_lines() {
    let folder = tempfile::tempdir().unwrap();
    let lines = ["one\\", "two", "", "\"\"\"", "/three", "", "four", "\"\"\"", " /five"];
    assert_eq!(messages(folder.path(), &lines), ["one\ntwo", "/three\n\nfour", " /five"]);
}

#[test]
fn settings_can_be_changed_and_shown() {
    let ran = chat(
        &[],
        &[
            "/system",
            "/system Be brief.",
            "/system",
            "/think",
            "/think high",
            "What is 47 + 38?",
            "/ctx",
            "/new",
            "/ctx",
        ],
    );
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "47 + 38 = 85\n"), "{ran:?}");
    for part in ["there is no system text", "system text: Be brief.", "thinking: off", "thinking: high", "turn 1 "] {
        assert!(ran.err.contains(part), "{part}: {ran:?}");
    }
    assert!(ran.err.lines().last().unwrap().starts_with("system "), "no turns are left: {ran:?}");
}

#[test]
fn the_last_line_needs_no_line_feed_and_quit_ends() {
    let last = ds4_with_input(["chat", "-q", "--temp", "0"], b"What is 7 times 8?");
    assert_eq!((last.code, last.out.as_str(), last.err.as_str()), (Some(0), "7 * 8 = 56\n", ""));
    let quit = chat(&["-q"], &["/quit", "Hello!"]);
    assert_eq!((quit.code, quit.out.as_str()), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_script() {
    use crate::program::command;
    use std::process::{Command, Stdio};
    let mut child = command(["chat", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"What is 7 times 8?\n").unwrap();
    // The answer shows that the handler is there; the input stays open.
    let mut first = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
