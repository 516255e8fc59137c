//! A web server that does what a test tells it to, also what none should.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request, as far as it matters.
#[derive(Clone, Debug)]
pub struct Request {
    /// Number of requests before it.
    pub index: usize,
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// First byte asked for.
    pub fn first(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What is sent back.
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    sent: usize,
    pause: Option<(usize, Duration)>,
}

impl Answer {
    /// An answer with its true length.
    pub fn new(status: u16, body: &[u8]) -> Answer {
        let headers = vec![("Content-Length".to_owned(), body.len().to_string())];
        Answer { status, headers, body: body.to_vec(), sent: body.len(), pause: None }
    }

    /// What a good server says to `request` about `content`: all, or the rest if that was asked for and is unchanged.
    pub fn honest(request: &Request, content: &[u8], etag: &str) -> Answer {
        let unchanged = request.header("if-range").is_none_or(|known| known == etag);
        let answer = match request.first().filter(|_| unchanged) {
            Some(first) if first < content.len() => {
                let range = format!("bytes {first}-{}/{}", content.len() - 1, content.len());
                Answer::new(206, &content[first..]).with("Content-Range", &range)
            }
            Some(_) => Answer::new(416, b"").with("Content-Range", &format!("bytes */{}", content.len())),
            None => Answer::new(200, content),
        };
        answer.with("ETag", etag).with("Accept-Ranges", "bytes")
    }

    /// With a header, in place of one of the same name.
    pub fn with(mut self, name: &str, value: &str) -> Answer {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Hangs up after so many bytes of the body.
    pub fn cut_after(mut self, bytes: usize) -> Answer {
        self.sent = self.sent.min(bytes);
        self
    }

    /// Waits in the middle of the body.
    pub fn pause_after(mut self, bytes: usize, time: Duration) -> Answer {
        self.pause = Some((bytes.min(self.sent), time));
        self
    }

    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        write!(stream, "HTTP/1.1 {} Something\r\nConnection: close\r\n", self.status)?;
        for (name, value) in &self.headers {
            write!(stream, "{name}: {value}\r\n")?;
        }
        write!(stream, "\r\n")?;
        let body = &self.body[..self.sent];
        if let Some((bytes, time)) = self.pause {
            stream.write_all(&body[..bytes])?;
            stream.flush()?;
            thread::sleep(time);
            return stream.write_all(&body[bytes..]);
        }
        stream.write_all(body)
    }
}

/// A server on a port of its own, until the test program ends.
pub struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn new(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                // A client that hangs up early is none of the server's errors.
                thread::spawn(move || serve(stream, &*answer, &log).unwrap_or(()));
            }
        });
        Server { address, requests }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }

    /// What the requests asked for, in order.
    pub fn firsts(&self) -> Vec<Option<usize>> {
        self.requests().iter().map(Request::first).collect()
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Request) -> Answer, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let request = {
        let mut log = log.lock().expect("no panic");
        let request = Request { index: log.len(), path, headers };
        log.push(request.clone());
        request
    };
    answer(&request).send(&mut stream)?;
    stream.shutdown(Shutdown::Both)
}
