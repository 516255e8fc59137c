//! A running `ds4 serve`.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A server with the demo model. Dropped, it is killed.
pub struct Serve {
    child: RefCell<Child>,
    pub port: u16,
    /// The line that told that it listens.
    pub ready: String,
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ds4"));
    command.arg("serve").args(args);
    if !args.contains(&"--port") {
        command.args(["--port", "0"]);
    }
    command.env_remove("DS4_API_KEY").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The message of a server that does not start, which ends with this exit code.
pub fn refused(args: &[&str], code: i32) -> String {
    let output = command(args).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

impl Serve {
    /// Starts a server and waits until it listens.
    pub fn start(args: &[&str]) -> Self {
        let mut child = command(args).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().map(Result::unwrap).find(|line| line.contains("serving "));
        let ready = ready.expect("it says that it is serving");
        let address = ready.split("http://127.0.0.1:").nth(1).expect("an address");
        let digits = address.split(|character: char| !character.is_ascii_digit()).next().unwrap();
        let port = digits.parse().unwrap();
        // What else it says must not fill the pipe.
        thread::spawn(move || lines.for_each(drop));
        Self { child: RefCell::new(child), port, ready }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// The bytes of a request after which the connection is closed.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        self.request_with(method, path, "", body)
    }

    fn request_with(&self, method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        )
        .into_bytes()
    }

    fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may answer before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    /// The whole response.
    pub fn get(&self, path: &str) -> String {
        self.exchange(&self.request("GET", path, ""))
    }

    pub fn post(&self, path: &str, body: &str) -> String {
        self.exchange(&self.request("POST", path, body))
    }

    pub fn post_with(&self, path: &str, headers: &str, body: &str) -> String {
        self.exchange(&self.request_with("POST", path, headers, body))
    }

    /// Sends a signal, by its name without SIG.
    pub fn signal(&self, name: &str) {
        let id = self.child.borrow().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits until nobody listens at the port any more.
    pub fn wait_until_closed(&self) {
        for _ in 0..1000 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the port stays open");
    }

    /// Waits for its end. Its exit code, or `None` after a signal.
    pub fn end(&self) -> Option<i32> {
        self.child.borrow_mut().wait().unwrap().code()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let mut child = self.child.borrow_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}
