//! A file that is cut short while it is mapped ends the process with a sentence. The faults happen
//! in a child: this test program, started again with one test selected.
#![cfg(unix)]

mod common;

use std::fs::OpenOptions;
use std::process::{Command, Output};

use ds4_gguf::{Error, Gguf, truncation_guard};

const ROLE: &str = "DS4_GGUF_TEST_CHILD";

/// Runs the test `name` of this program in a child process with the file's path.
fn run_child(name: &str, path: &std::path::Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ROLE, path)
        .output()
        .unwrap()
}

/// A valid file, padded so that it spans several pages.
fn long_file(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut bytes = common::valid_file();
    bytes.resize(1 << 20, 0);
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn cut(path: &std::path::Path) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(10).unwrap();
}

#[test]
fn reading_a_shortened_file_ends_with_a_sentence() {
    if let Some(path) = std::env::var_os(ROLE) {
        let path = std::path::PathBuf::from(path);
        truncation_guard::install().unwrap();
        truncation_guard::install().unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let info = gguf.tensor("MXFP4").unwrap();
        cut(&path);
        let message = gguf.verify_len().unwrap_err().to_string();
        assert!(message.contains("(1048576 bytes when it was opened, 10 now)"), "{message}");
        eprintln!("offset {}", info.offset);
        let sum: u64 = gguf.data(info).iter().map(|&b| u64::from(b)).sum();
        unreachable!("read {sum} from a file of 10 bytes");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = long_file(folder.path(), "shrinks.gguf");
    let output = run_child("reading_a_shortened_file_ends_with_a_sentence", &path);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let offset = stderr.lines().find_map(|l| l.strip_prefix("offset ")).unwrap();
    let sentence = format!(
        "ds4: {}: the file became shorter while it was in use (read at byte {offset}, it had \
         1048576 bytes when it was opened and has 10 now). Start again with a complete file.",
        path.display()
    );
    assert_eq!(stderr.lines().last(), Some(&*sentence));
}

#[test]
fn closed_files_are_forgotten_and_foreign_faults_keep_their_fate() {
    if let Some(path) = std::env::var_os(ROLE) {
        let path = std::path::PathBuf::from(path);
        truncation_guard::install().unwrap();
        drop(Gguf::open(&path).unwrap());
        // The same file, mapped by somebody else.
        let file = std::fs::File::open(&path).unwrap();
        // SAFETY: the mapping is only read through a volatile load, whose fault is the test.
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        cut(&path);
        // SAFETY: the address lies inside the mapping.
        let byte = unsafe { map.as_ptr().add(100_000).read_volatile() };
        unreachable!("read {byte} from a file of 10 bytes");
    }
    use std::os::unix::process::ExitStatusExt;
    let folder = tempfile::tempdir().unwrap();
    let path = long_file(folder.path(), "foreign.gguf");
    let name = "closed_files_are_forgotten_and_foreign_faults_keep_their_fate";
    let output = run_child(name, &path);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{stderr}");
    assert!(!stderr.contains("became shorter"), "{stderr}");
}

#[test]
fn signals_that_are_no_faults_go_to_the_previous_handler() {
    if std::env::var_os(ROLE).is_some() {
        extern "C" fn previous(_signal: i32) {
            // SAFETY: ends the process without touching anything.
            unsafe { libc::_exit(42) };
        }
        let handler: extern "C" fn(i32) = previous;
        // SAFETY: the handler has the plain signature and only ends the process, which exists for
        // this test.
        unsafe { libc::signal(libc::SIGBUS, handler as libc::sighandler_t) };
        truncation_guard::install().unwrap();
        // SAFETY: as above.
        unsafe { libc::raise(libc::SIGBUS) };
        unreachable!("SIGBUS was swallowed");
    }
    let name = "signals_that_are_no_faults_go_to_the_previous_handler";
    let output = run_child(name, std::path::Path::new("-"));
    assert_eq!(output.status.code(), Some(42));
}

#[test]
fn verify_len_notices_without_reading() {
    if std::env::var_os(ROLE).is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = long_file(folder.path(), "noticed.gguf");
    let gguf = Gguf::open(&path).unwrap();
    gguf.verify_len().unwrap();
    cut(&path);
    assert!(matches!(gguf.verify_len(), Err(Error::Shrunk { was: 1048576, now: 10, .. })));
}
