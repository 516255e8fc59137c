//! One request for (the rest of) a file, on a thread of its own.
//!
//! Reading from a network blocks for as long as it likes; the thread that does it hands on what comes, so that the one
//! that writes the file notices Ctrl-C at once. Redirects are followed here, one by one, because the hub states size and
//! checksum in the answer that redirects to its store and not in the store's own, and because an access token must not
//! travel to another host.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use ureq::http::header::{self, HeaderMap, HeaderName};
use ureq::http::{StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use super::identity::{Identity, sha256_of_tag};

const LINKED_TAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
/// Redirects that are followed.
const MOST_REDIRECTS: usize = 10;
/// Bytes handed on at once.
const PIECE: usize = 64 << 10;
/// Pieces that may wait for the disk.
const WAITING: usize = 64;

/// Who to ask, and as whom.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    url: Uri,
    token: Option<String>,
}

/// What comes from a request, in this order: one head, any number of pieces, an end; or a failure at any point.
pub enum Event {
    /// The answer's head.
    Head(Box<Head>),
    /// The next bytes.
    Piece(Vec<u8>),
    /// The server has sent all that it wanted to.
    End,
    /// The connection cannot be made or broke off.
    Failed(ConnectionError),
}

/// The head of the last answer, with what redirecting ones said about the file.
pub struct Head {
    /// Status code.
    pub status: StatusCode,
    /// Bytes that this answer brings, if it says so.
    pub body_length: Option<u64>,
    /// What part of the file it is.
    pub range: Option<ContentRange>,
    /// The file.
    pub identity: Identity,
    /// How long to wait before asking again.
    pub retry_after: Option<Duration>,
    /// Whether the bytes are packed in some way that was not asked for.
    pub is_encoded: bool,
}

/// `Content-Range`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// First byte of the part; `None` where there is no such part (status 416).
    pub first: Option<u64>,
    /// Length of the whole file.
    pub total: Option<u64>,
}

/// Why a request brought nothing, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Name resolution, connection, TLS or protocol.
    #[error("{}", of_http(.0))]
    Http(#[from] ureq::Error),
    /// The connection broke.
    #[error("the connection broke off: {0}")]
    Broken(#[from] io::Error),
    /// A redirect that leads nowhere.
    #[error("the server redirects to {0:?}, which is no address that can be followed")]
    Redirect(String),
    /// A circle of redirects.
    #[error("the server redirects without end")]
    Redirects,
}

impl ConnectionError {
    /// Whether a second attempt may go better.
    pub fn is_passing(&self) -> bool {
        match self {
            // A certificate that is refused will be refused again.
            ConnectionError::Http(ureq::Error::Io(error)) => !is_about_tls(error),
            ConnectionError::Http(error) => !matches!(
                error,
                ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Tls(_) | ureq::Error::Rustls(_)
            ),
            ConnectionError::Broken(_) => true,
            ConnectionError::Redirect(_) | ConnectionError::Redirects => false,
        }
    }
}

/// An error of the HTTP library as a person may read it.
fn of_http(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => format!("the server cannot be reached: {error}"),
        ureq::Error::HostNotFound => "there is no server of that name, or no network".to_owned(),
        error => error.to_string(),
    }
}

fn is_about_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

impl Client {
    /// A client for one address. The token, if any, is sent to that address' host only.
    pub fn new(url: Uri, token: Option<String>, timeout: Duration) -> Client {
        // The system's own list of authorities: a company's proxy is trusted where its machines trust it.
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(Proxy::try_from_env())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("ds4/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(timeout))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .build();
        Client { agent: config.into(), url, token }
    }

    /// Asks for the file from byte `from` on; all of it if it is no longer the one that `validator` names.
    ///
    /// Dropping the receiver ends the request.
    pub fn fetch(&self, from: u64, validator: Option<&str>) -> Receiver<Event> {
        let (events, receiver) = sync_channel(WAITING);
        let client = self.clone();
        let validator = validator.map(str::to_owned);
        thread::spawn(move || {
            if let Err(error) = client.run(from, validator.as_deref(), &events) {
                // Nobody may listen any more.
                let _ = events.send(Event::Failed(error));
            }
        });
        receiver
    }

    fn run(&self, from: u64, validator: Option<&str>, events: &SyncSender<Event>) -> Result<(), ConnectionError> {
        let mut url = self.url.clone();
        let mut linked = Identity::default();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.agent.get(&url);
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
                if let Some(validator) = validator {
                    request = request.header(header::IF_RANGE, validator);
                }
            }
            if let Some(token) = self.token.as_ref().filter(|_| same_host(&url, &self.url)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call()?;
            let headers = response.headers();
            let tag = text(headers, &LINKED_TAG).and_then(sha256_of_tag);
            linked.sha256 = tag.or(linked.sha256);
            linked.length = number(headers, &LINKED_SIZE).or(linked.length);
            if response.status().is_redirection() {
                let location = text(headers, &header::LOCATION).unwrap_or_default();
                url = follow(&url, location).ok_or_else(|| ConnectionError::Redirect(location.to_owned()))?;
                continue;
            }
            let head = Head::new(response.status(), headers, linked);
            if events.send(Event::Head(Box::new(head))).is_err() {
                return Ok(());
            }
            return pass_on(response.into_body(), events);
        }
        Err(ConnectionError::Redirects)
    }
}

fn pass_on(body: Body, events: &SyncSender<Event>) -> Result<(), ConnectionError> {
    let mut reader = body.into_reader();
    loop {
        let mut piece = vec![0; PIECE];
        let n = match reader.read(&mut piece) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        piece.truncate(n);
        let event = if n == 0 { Event::End } else { Event::Piece(piece) };
        if events.send(event).is_err() || n == 0 {
            return Ok(());
        }
    }
}

impl Head {
    fn new(status: StatusCode, headers: &HeaderMap, linked: Identity) -> Head {
        let body_length = number(headers, &header::CONTENT_LENGTH);
        let range = text(headers, &header::CONTENT_RANGE).and_then(ContentRange::parse);
        let tag = text(headers, &header::ETAG);
        let own_length = match status {
            StatusCode::OK => body_length,
            _ => range.and_then(|range| range.total),
        };
        let identity = Identity {
            sha256: linked.sha256.or_else(|| tag.and_then(sha256_of_tag)),
            etag: tag.filter(|tag| !tag.starts_with("W/")).map(str::to_owned),
            last_modified: text(headers, &header::LAST_MODIFIED).map(str::to_owned),
            length: own_length.or(linked.length),
        };
        Head {
            status,
            body_length,
            range,
            identity,
            retry_after: number(headers, &header::RETRY_AFTER).map(Duration::from_secs),
            is_encoded: text(headers, &header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity"),
        }
    }
}

impl ContentRange {
    /// `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
    fn parse(text: &str) -> Option<ContentRange> {
        let (part, total) = text.strip_prefix("bytes")?.trim().split_once('/')?;
        let total = match total {
            "*" => None,
            digits => Some(digits.parse().ok()?),
        };
        let first = match part {
            "*" => None,
            part => Some(part.split_once('-')?.0.parse().ok()?),
        };
        Some(ContentRange { first, total })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// Whether a token for `b` may be shown to `a`.
fn same_host(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

/// Where a redirect leads, absolute or relative to `base`. Never from an encrypted connection to one that is not.
fn follow(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.is_empty() {
        return None;
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let target: Uri = absolute.parse().ok()?;
    let is_allowed = match target.scheme_str()? {
        "https" => true,
        "http" => scheme == "http",
        _ => false,
    };
    (is_allowed && target.authority().is_some()).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_and_never_lose_encryption() {
        let base: Uri = "https://a.example/x/y?z=1".parse().unwrap();
        let follow = |location: &str| follow(&base, location).map(|uri| uri.to_string());
        assert_eq!(follow("https://b.example/q?s=1#f").as_deref(), Some("https://b.example/q?s=1"));
        assert_eq!(follow("//b.example/q").as_deref(), Some("https://b.example/q"));
        assert_eq!(follow("/q").as_deref(), Some("https://a.example/q"));
        assert_eq!(follow("q").as_deref(), Some("https://a.example/x/q"));
        for refused in ["http://a.example/q", "ftp://a.example/q", "file:///q", ""] {
            assert_eq!(follow(refused), None, "{refused}");
        }
    }

    #[test]
    fn content_ranges_are_read_as_they_are_written() {
        let range = |first, total| Some(ContentRange { first, total });
        assert_eq!(ContentRange::parse("bytes 5-9/10"), range(Some(5), Some(10)));
        assert_eq!(ContentRange::parse("bytes 5-9/*"), range(Some(5), None));
        assert_eq!(ContentRange::parse("bytes */10"), range(None, Some(10)));
        for wrong in ["", "bytes", "bytes 5/10", "items 5-9/10", "bytes 5-9/x", "bytes -1-9/10"] {
            assert_eq!(ContentRange::parse(wrong), None, "{wrong}");
        }
    }
}
