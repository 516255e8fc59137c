//! `ds4 pull` against servers that break off, lie, refuse or change their mind.

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use server::{Answer, Request, Server};

const TAG: &str = "\"one\"";

/// The file that is served: a model, so that the check at the end has something to find.
fn content() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nano/nano.gguf")).expect("nano")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder to download into.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// `ds4 pull` in this folder, with the settings of nobody's environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ds4"));
        command.arg("pull").args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        for name in ["HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    fn pull(&self, arguments: &[&str]) -> Ran {
        Ran::new(self.command(arguments).output().expect("ds4 starts"))
    }

    /// Expects a complete and right file, and nothing beside it.
    fn assert_complete(&self, name: &str) {
        assert_eq!(self.names(), [name]);
        assert_eq!(sha256(&fs::read(self.path(name)).expect("the file")), sha256(&content()));
    }
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn new(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn assert(self, code: i32, says: &[&str]) -> Ran {
        let all = format!("{}\n{}", self.out, self.err);
        assert_eq!(self.code, Some(code), "{all}");
        for part in says {
            assert!(all.contains(part), "{part:?} is not in:\n{all}");
        }
        self
    }
}

fn honest(request: &Request) -> Answer {
    Answer::honest(request, &content(), TAG)
}

#[test]
fn a_download_gets_its_name_and_a_second_one_finds_it_complete() {
    let (folder, server) = (Folder::new(), Server::new(honest));
    let url = server.url("/files/m.gguf?download=true");
    let ran = folder.pull(&["--url", &url, "--sha256", &sha256(&content())]).assert(0, &["is right"]);
    assert_eq!(ran.out, "Run it: ds4 run -m m.gguf -p 'Hello'\n");
    folder.assert_complete("m.gguf");
    folder.pull(&["--url", &url]).assert(0, &["is here already and complete", "states no checksum"]);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_dropped_connection_goes_on_where_it_broke() {
    let server = Server::new(|request| {
        let answer = honest(request);
        if request.index < 2 { answer.cut_after(3_000_000) } else { answer }
    });
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(0, &["trying again"]);
    folder.assert_complete("m.gguf");
    assert_eq!(server.firsts(), [None, Some(3_000_000), Some(6_000_000)]);
    assert_eq!(server.requests()[1].header("if-range"), Some(TAG));
}

#[test]
fn a_later_run_goes_on_too() {
    let server = Server::new(|request| {
        let answer = honest(request);
        if request.index == 0 {
            answer.cut_after(5_000_000)
        } else if request.index == 1 {
            Answer::new(503, b"")
        } else {
            answer
        }
    });
    let folder = Folder::new();
    let url = server.url("/m.gguf");
    folder.pull(&["--url", &url, "--retries", "0"]).assert(1, &["HTTP 503", "4.77 MiB are kept", "same command"]);
    assert_eq!(folder.names(), ["m.gguf.part", "m.gguf.part.json"]);
    folder.pull(&["--url", &url]).assert(0, &["Going on with"]);
    folder.assert_complete("m.gguf");
    assert_eq!(server.firsts(), [None, Some(5_000_000), Some(5_000_000)]);
}

#[test]
fn a_changed_file_is_not_joined_to_the_beginning_of_the_old_one() {
    let server = Server::new(|request| match request.index {
        0 => Answer::honest(request, &vec![7; content().len()], "\"old\"").cut_after(1_000_000),
        _ => honest(request),
    });
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(0, &["has changed"]);
    folder.assert_complete("m.gguf");
}

/// A server that ignores `If-Range` sends the rest of another file; its tag gives it away.
#[test]
fn a_changed_file_is_noticed_even_if_the_server_does_not() {
    let server = Server::new(|request| match (request.index, request.first()) {
        (0, _) => Answer::honest(request, &vec![7; content().len()], "\"old\"").cut_after(1_000_000),
        (_, Some(first)) => {
            let range = format!("bytes {first}-{}/{}", content().len() - 1, content().len());
            Answer::new(206, &content()[first..]).with("Content-Range", &range).with("ETag", TAG)
        }
        _ => honest(request),
    });
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(0, &["has changed"]);
    folder.assert_complete("m.gguf");
}

/// Without a tag, a date or a checksum nobody knows whether the rest belongs to the beginning.
#[test]
fn the_rest_of_a_file_that_may_be_another_is_not_taken() {
    let server = Server::new(|request| match (request.index, request.first()) {
        (0, _) => Answer::new(200, &content()).cut_after(1_000_000),
        (_, Some(first)) => {
            let range = format!("bytes {first}-{}/{}", content().len() - 1, content().len());
            Answer::new(206, &content()[first..]).with("Content-Range", &range)
        }
        _ => Answer::new(200, &content()),
    });
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(0, &["does not say whether its file is still the same"]);
    folder.assert_complete("m.gguf");
}

#[test]
fn a_server_without_ranges_is_asked_from_the_beginning() {
    let server = Server::new(|request| {
        let answer = Answer::new(200, &content()).with("ETag", TAG);
        if request.index == 0 { answer.cut_after(2_000_000) } else { answer }
    });
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(0, &["starting again from its beginning"]);
    folder.assert_complete("m.gguf");
}

#[test]
fn the_wrong_part_of_a_file_is_not_taken() {
    let server = Server::new(|request| match request.index {
        0 => honest(request).cut_after(2_000_000),
        1 => honest(request).with("Content-Range", &format!("bytes 0-{}/{}", content().len() - 1, content().len())),
        _ => honest(request),
    });
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(0, &["another part of the file"]);
    folder.assert_complete("m.gguf");
    assert_eq!(server.firsts(), [None, Some(2_000_000), None]);
}

#[test]
fn a_length_that_is_never_reached_ends_with_a_sentence() {
    let server = Server::new(|request| {
        let more = (content().len() + 1000).to_string();
        let answer = honest(request);
        match request.first() {
            None => answer.with("Content-Length", &more),
            Some(_) => answer,
        }
    });
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf"), "--retries", "1"]).assert(1, &["in a row brought nothing new"]);
    assert!(!folder.path("m.gguf").exists());
}

#[test]
fn a_file_that_is_shorter_than_it_should_be_is_no_model() {
    let server = Server::new(|_| Answer::new(200, &content()[..9_000_000]).with("ETag", TAG));
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(1, &["no model file", "m.gguf.bad"]);
    assert_eq!(folder.names(), ["m.gguf.bad"]);
}

#[test]
fn a_wrong_checksum_never_gets_the_name() {
    let mut damaged = content();
    damaged[12_000_000] ^= 1;
    let stated = sha256(&content());
    let server = Server::new(move |request| {
        Answer::honest(request, &damaged, TAG).with("X-Linked-ETag", &format!("\"{stated}\""))
    });
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(1, &["damaged", "run the same command again"]);
    assert_eq!(folder.names(), ["m.gguf.bad"]);
}

#[test]
fn a_checksum_on_the_command_line_wins() {
    let server = Server::new(honest);
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf"), "--sha256", &"0".repeat(64)]).assert(1, &["damaged"]);
    assert_eq!(folder.names(), ["m.gguf.bad"]);
}

/// The hub states checksum and size in the answer that redirects to its store, and a token is for the hub alone.
#[test]
fn a_published_file_comes_through_the_hubs_redirect_without_the_token() {
    let store = Server::new(honest);
    let target = store.url("/blob?signature=x");
    let stated = format!("\"{}\"", sha256(&content()));
    let hub = Server::new(move |_| {
        Answer::new(302, b"elsewhere")
            .with("Location", &target)
            .with("X-Linked-ETag", &stated)
            .with("X-Linked-Size", &content().len().to_string())
    });
    let folder = Folder::new();
    let output = folder
        .command(&["q2", "--endpoint", &hub.url(""), "--out", "q2.gguf"])
        .env("HF_TOKEN", "secret")
        .output()
        .expect("ds4 starts");
    // The list of published files knows another file under this name; that is said.
    Ran::new(output).assert(0, &["is right", "Note: the server states"]);
    folder.assert_complete("q2.gguf");
    assert!(hub.requests()[0].path.starts_with("/antirez/deepseek-v4-gguf/resolve/main/DeepSeek-V4-Flash-IQ2XXS"));
    assert_eq!(hub.requests()[0].header("authorization"), Some("Bearer secret"));
    assert_eq!(store.requests()[0].header("authorization"), None);
}

#[test]
fn without_a_word_from_the_server_a_published_file_must_be_the_known_one() {
    let server = Server::new(honest);
    let folder = Folder::new();
    folder.pull(&["q2", "--endpoint", &server.url("/"), "--out", "q2.gguf"]).assert(1, &["damaged"]);
}

#[test]
fn a_token_is_not_for_other_servers() {
    let server = Server::new(honest);
    let folder = Folder::new();
    let mut command = folder.command(&["--url", &server.url("/m.gguf")]);
    Ran::new(command.env("HF_TOKEN", "secret").output().expect("ds4 starts")).assert(0, &[]);
    assert_eq!(server.requests()[0].header("authorization"), None);
}

#[test]
fn refusals_are_sentences_and_leave_nothing_behind() {
    let folder = Folder::new();
    for (status, says) in [(401, "HF_TOKEN"), (403, "terms"), (404, "no such file"), (418, "does not understand")] {
        let server = Server::new(move |_| Answer::new(status, b"no"));
        folder.pull(&["--url", &server.url("/m.gguf")]).assert(1, &[says]);
        assert_eq!(server.requests().len(), 1, "{status} is final");
    }
    let server = Server::new(|_| Answer::new(503, b"").with("Retry-After", "0"));
    folder.pull(&["--url", &server.url("/m.gguf"), "--retries", "2"]).assert(1, &["HTTP 503", "3 attempts"]);
    assert_eq!(server.requests().len(), 3);
    let server = Server::new(|_| Answer::new(302, b"").with("Location", "/again"));
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(1, &["redirects without end"]);
    folder.pull(&["--url", "http://127.0.0.1:9/m.gguf", "--retries", "0"]).assert(1, &["nothing has arrived"]);
    assert_eq!(folder.names(), [""; 0]);
}

/// It was once the system's "No such file or directory" about a name that nobody had written.
#[test]
fn a_folder_that_does_not_exist_is_named() {
    let folder = Folder::new();
    let server = Server::new(honest);
    folder
        .pull(&["--url", &server.url("/m.gguf"), "--dir", "models"])
        .assert(1, &["there is no folder models; make it"]);
    assert!(server.requests().is_empty());
}

#[test]
fn nothing_begins_that_the_disk_cannot_hold() {
    let server = Server::new(|_| Answer::new(200, &content()).with("Content-Length", "4000000000000000"));
    let folder = Folder::new();
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(1, &["free", "3.55 PiB more", "--dir"]);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_file_that_exists_is_never_replaced() {
    let (folder, server) = (Folder::new(), Server::new(honest));
    fs::write(folder.path("m.gguf"), b"mine").expect("a file");
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(1, &["is not replaced"]);
    assert_eq!(fs::read(folder.path("m.gguf")).expect("the file"), b"mine");
    let mut damaged = content();
    damaged[9_000_000] ^= 1;
    fs::write(folder.path("m.gguf"), &damaged).expect("a file");
    let arguments = ["--url", &server.url("/m.gguf"), "--sha256", &sha256(&content())];
    folder.pull(&arguments).assert(1, &["is not replaced", "its SHA-256 is"]);
}

#[test]
fn a_stalled_connection_is_given_up_and_made_again() {
    let server = Server::new(|request| {
        let answer = honest(request);
        if request.index == 0 { answer.pause_after(4_000_000, Duration::from_secs(30)) } else { answer }
    });
    let folder = Folder::new();
    let started = Instant::now();
    folder.pull(&["--url", &server.url("/m.gguf"), "--timeout", "1"]).assert(0, &["trying again"]);
    assert!(started.elapsed() < Duration::from_secs(20));
    folder.assert_complete("m.gguf");
    assert_eq!(server.firsts(), [None, Some(4_000_000)]);
}

/// A part left by another program is the beginning of the file if the checksum says so in the end.
#[test]
fn a_part_of_unknown_origin_is_used_when_there_is_a_checksum() {
    let (folder, server) = (Folder::new(), Server::new(honest));
    fs::write(folder.path("m.gguf.part"), &content()[..6_000_000]).expect("a file");
    folder.pull(&["--url", &server.url("/m.gguf"), "--sha256", &sha256(&content())]).assert(0, &["is right"]);
    folder.assert_complete("m.gguf");
    assert_eq!(server.firsts(), [Some(6_000_000)]);
}

#[test]
fn a_part_of_unknown_origin_is_not_trusted_without_a_checksum() {
    let (folder, server) = (Folder::new(), Server::new(honest));
    fs::write(folder.path("m.gguf.part"), vec![1; 6_000_000]).expect("a file");
    folder.pull(&["--url", &server.url("/m.gguf")]).assert(0, &[]);
    folder.assert_complete("m.gguf");
    assert_eq!(server.firsts(), [None]);
}

/// Starts a download from a server that stops in the middle, and waits until that much is on the disk.
#[cfg(unix)]
fn stopped_in_the_middle(folder: &Folder, url: &str) -> std::process::Child {
    let mut command = folder.command(&["--url", url]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ds4 starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(folder.path("m.gguf.part")).map_or(0, |metadata| metadata.len()) < 4_000_000 {
        assert!(Instant::now() < deadline, "nothing arrives");
        thread::sleep(Duration::from_millis(20));
    }
    child
}

#[cfg(unix)]
fn slow_at_first(request: &Request) -> Answer {
    let answer = honest(request);
    if request.index == 0 { answer.pause_after(4_000_000, Duration::from_secs(60)) } else { answer }
}

#[cfg(unix)]
#[test]
fn a_killed_download_can_go_on() {
    let (folder, server) = (Folder::new(), Server::new(slow_at_first));
    let url = server.url("/m.gguf");
    let mut child = stopped_in_the_middle(&folder, &url);
    child.kill().expect("a running process");
    child.wait().expect("an end");
    folder.pull(&["--url", &url]).assert(0, &["Going on with"]);
    folder.assert_complete("m.gguf");
    assert_eq!(server.firsts(), [None, Some(4_000_000)]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_says_how_to_go_on_and_one_download_at_a_time() {
    let (folder, server) = (Folder::new(), Server::new(slow_at_first));
    let url = server.url("/m.gguf");
    let child = stopped_in_the_middle(&folder, &url);
    folder.pull(&["--url", &url]).assert(1, &["another ds4 pull"]);
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
    Ran::new(child.wait_with_output().expect("an end")).assert(130, &["Stopped at 3.81 MiB", "the same command"]);
    folder.pull(&["--url", &url]).assert(0, &[]);
    folder.assert_complete("m.gguf");
}

#[test]
fn usage_errors_name_what_is_missing() {
    let folder = Folder::new();
    folder.pull(&[]).assert(2, &["--list"]);
    folder.pull(&["q9"]).assert(2, &["q2", "q4"]);
    folder.pull(&["--url", "ftp://a.example/x"]).assert(2, &["https://"]);
    folder.pull(&["--url", "http://a.example/"]).assert(2, &["--out"]);
    folder.pull(&["q2", "--sha256", "abc"]).assert(2, &["64 hexadecimal digits"]);
    folder.pull(&["--list"]).assert(0, &["q2", "80.8 GiB", "153 GiB", "ca22ae2f"]);
}
