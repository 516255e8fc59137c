//! Conversations on a terminal.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

/// Longer than anything here takes.
const HANG: Duration = Duration::from_secs(60);

/// The program on a terminal of its own.
struct Terminal {
    keys: Pty,
    screen: Receiver<Vec<u8>>,
    child: Child,
    /// Everything that was shown, control sequences included.
    shown: Vec<u8>,
    /// How much of its text was looked at.
    seen: usize,
}

impl Terminal {
    /// `ds4 chat` with `args`. Data of the user is kept in `data`.
    fn start(args: &[&str], data: &Path) -> Terminal {
        let (keys, line) = open().unwrap();
        keys.resize(Size::new(24, 100)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ds4"))
            .args(["chat", "--temp", "0"])
            .args(args)
            .env("XDG_DATA_HOME", data)
            .env("HOME", data)
            .env("TERM", "xterm-256color")
            .env("NO_COLOR", "1")
            .spawn(line)
            .unwrap();
        let mut output = std::fs::File::from(std::os::fd::AsFd::as_fd(&keys).try_clone_to_owned().unwrap());
        let (sender, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // When the program ends, reading fails.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut terminal = Terminal { keys, screen, child, shown: Vec::new(), seen: 0 };
        terminal.expect("/help lists the commands");
        terminal.expect("> ");
        terminal
    }

    /// Presses keys.
    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Enters a line.
    fn enter(&mut self, line: &str) {
        self.press(line);
        // Keys that arrive together with Enter would be taken for one pasted text.
        thread::sleep(Duration::from_millis(20));
        self.press("\r");
    }

    /// Waits for `text`, after what was waited for before. Returns what came up to it.
    fn expect(&mut self, text: &str) -> String {
        let patience = Instant::now() + HANG;
        loop {
            let plain = plain(&self.shown);
            if let Some(at) = plain[self.seen..].find(text) {
                let before = plain[self.seen..self.seen + at].to_owned();
                self.seen += at + text.len();
                return before;
            }
            match self.screen.recv_timeout(patience.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.shown.extend(bytes),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{text:?} is not shown: {:?}", &plain[self.seen..])
                }
            }
        }
    }

    /// Ctrl-D, at a prompt that is there: during an answer it would mean nothing.
    fn leave(mut self) {
        self.press("\x04");
        assert_eq!(self.exit_code(), Some(0));
    }

    /// Waits for the end of the program.
    fn exit_code(mut self) -> Option<i32> {
        let patience = Instant::now() + HANG;
        while Instant::now() < patience {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.child.kill().unwrap();
        panic!("the program does not end: {:?}", plain(&self.shown));
    }
}

/// Text without control sequences. A sequence or character that is cut off at the end is left out.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::new();
    let mut rest = text.as_ref();
    while let Some(at) = rest.find('\x1b') {
        plain.push_str(&rest[..at]);
        let sequence = &rest[at + 1..];
        let body = sequence.strip_prefix('[').unwrap_or(sequence);
        match body.find(|c: char| c.is_ascii_alphabetic() || c == '~') {
            Some(end) => rest = &body[end + 1..],
            None => return plain,
        }
    }
    plain.push_str(rest);
    plain
}

fn data() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn history(data: &Path) -> PathBuf {
    let folder = if cfg!(target_os = "macos") && !data.join("ds4").exists() {
        data.join("Library/Application Support")
    } else {
        data.to_owned()
    };
    folder.join("ds4/chat-history")
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let data = data();
    // Slow enough that the story is not over before the key is seen.
    let mut terminal = Terminal::start(&["--backend", "reference"], data.path());
    terminal.enter("My name is Anna.");
    terminal.expect("context ");
    terminal.expect("> ");
    terminal.enter("Tell me a story about a fox.");
    // The echo of the line, then the story.
    terminal.expect("about a fox.");
    terminal.expect(". ");
    terminal.press("\x03");
    let rest = terminal.expect("interrupted");
    assert!(!rest.contains("^C"), "{rest}");
    terminal.expect("context ");
    terminal.expect("> ");
    terminal.enter("/undo");
    terminal.expect("taken back: Tell me a story");
    terminal.enter("What is my name?");
    terminal.expect("Your name is Anna.");
    terminal.expect("context ");
    terminal.expect("> ");
    terminal.enter("/quit");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn ctrl_c_clears_the_line_and_leaves_when_pressed_twice() {
    let data = data();
    let mut terminal = Terminal::start(&[], data.path());
    terminal.press("Hello!");
    terminal.expect("Hello!");
    terminal.press("\x03");
    terminal.expect("> ");
    terminal.press("What is 8 times 8?");
    terminal.expect("What is 8 times 8?");
    terminal.press("\x03");
    terminal.expect("> ");
    terminal.enter("What is 7 times 8?");
    terminal.expect("7 * 8 = 56");
    terminal.expect("context ");
    terminal.expect("> ");
    terminal.press("\x03");
    terminal.expect("> ");
    terminal.press("\x03");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn what_is_typed_during_an_answer_waits_for_the_prompt() {
    let data = data();
    let mut terminal = Terminal::start(&["--backend", "reference"], data.path());
    terminal.enter("Tell me a story about a fox.");
    terminal.expect("about a fox.");
    terminal.expect(". ");
    terminal.press("What is 7 times 8?");
    let story = terminal.expect("context ");
    assert!(!story.contains("times"), "{story}");
    terminal.expect("> ");
    terminal.press("\r");
    terminal.expect("7 * 8 = 56");
    terminal.expect("> ");
    terminal.leave();
}

#[test]
fn pasted_lines_are_one_message() {
    let data = data();
    let mut terminal = Terminal::start(&["-n", "1"], data.path());
    let path = data.path().join("talk.json");
    terminal.press("\x1b[200~one\\\n/two\n\x1b[201~");
    terminal.expect("/two");
    terminal.press("\r");
    terminal.expect("context ");
    terminal.expect("> ");
    terminal.enter(&format!("/save {}", path.display()));
    terminal.expect("1 turn written");
    terminal.expect("> ");
    terminal.leave();
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(document["messages"][0]["content"], "one\\\n/two\n");
}

#[test]
fn history_is_kept_for_the_next_session_and_private() {
    let data = data();
    let mut terminal = Terminal::start(&[], data.path());
    terminal.enter("What is 7 times 8?");
    terminal.expect("7 * 8 = 56");
    terminal.expect("context ");
    terminal.expect("> ");
    terminal.leave();

    let mut terminal = Terminal::start(&[], data.path());
    terminal.press("\x1b[A");
    terminal.expect("What is 7 times 8?");
    terminal.press("\r");
    terminal.expect("7 * 8 = 56");
    terminal.expect("context ");
    terminal.expect("> ");
    terminal.leave();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(history(data.path())).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

#[test]
fn no_history_is_written_where_none_is_wanted() {
    let data = data();
    let mut terminal = Terminal::start(&["--no-history"], data.path());
    terminal.enter("/think");
    terminal.expect("thinking: off");
    terminal.expect("> ");
    terminal.leave();
    assert!(!history(data.path()).exists());
}

#[test]
fn tab_completes_commands_and_files() {
    let data = data();
    std::fs::write(data.path().join("codes of today.txt"), "The secret code of Berlin is 4711.\n").unwrap();
    let mut terminal = Terminal::start(&[], data.path());
    terminal.press(&format!("/rea\t{}/co\t", data.path().display()));
    terminal.expect("codes of today.txt");
    terminal.press("\r");
    terminal.expect("with the next message");
    terminal.enter("What is the secret code of Berlin?");
    terminal.expect("4711");
    terminal.expect("> ");
    terminal.leave();
}

#[test]
fn a_message_that_does_not_fit_comes_back_to_be_changed() {
    let data = data();
    let mut terminal = Terminal::start(&["--ctx", "40"], data.path());
    terminal.enter(&format!("{}end", "very ".repeat(40)));
    terminal.expect("the context holds 40");
    // Below the sentence, the message again.
    terminal.expect("> very very");
    terminal.press("\x15");
    terminal.enter("What is 7 times 8?");
    terminal.expect("7 * 8 = 56");
    terminal.expect("> ");
    terminal.leave();
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminated_conversation_leaves_the_terminal_as_it_was() {
    use rustix::termios::{LocalModes, tcgetattr};
    use std::os::unix::process::ExitStatusExt;

    let data = data();
    let mut terminal = Terminal::start(&[], data.path());
    let modes = |terminal: &Terminal| tcgetattr(&terminal.keys).unwrap().local_modes;
    let line_mode = LocalModes::ICANON | LocalModes::ECHO;
    let patience = Instant::now() + HANG;
    while modes(&terminal).intersects(line_mode) {
        assert!(Instant::now() < patience, "the editor reads keys one by one");
        thread::sleep(Duration::from_millis(5));
    }
    let pid = terminal.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(terminal.child.wait().unwrap().signal(), Some(15));
    assert!(modes(&terminal).contains(line_mode));
}
