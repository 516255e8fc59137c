//! From attempt to attempt until the file is complete.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use ureq::http::StatusCode;

use super::connection::{Client, Event, Head};
use super::identity::{Identity, Sameness};
use super::part::{Origin, PartFile, bad_path};
use crate::interrupt::Interrupt;
use crate::terminal::{self, Progress, Stream, Unit};
use crate::units;

/// How often Ctrl-C is looked for while nothing comes.
const GLANCE: Duration = Duration::from_millis(100);
/// The first wait after a failure; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often a log, in place of a bar, says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// One download.
pub struct Transfer<'a> {
    /// Whom to ask.
    pub client: &'a Client,
    /// The address, as the note beside the partial file has it.
    pub url: &'a str,
    /// The checksum to expect if the server states none, and the one that wins over the server's.
    pub checksums: Checksums<'a>,
    /// Attempts in a row without a new byte before giving up.
    pub retries: u32,
    /// Ctrl-C.
    pub interrupt: &'a Interrupt,
}

/// Who may say what the checksum is.
#[derive(Clone, Copy)]
pub struct Checksums<'a> {
    /// The user: wins.
    pub asked: Option<&'a str>,
    /// The list of published files: for servers that state none.
    pub known: Option<&'a str>,
}

impl<'a> Checksums<'a> {
    /// The checksum that a file must have, given what the server states.
    pub fn expected(&self, stated: Option<&'a str>) -> Option<&'a str> {
        self.asked.or(stated).or(self.known)
    }
}

/// How a transfer ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// All bytes are there.
    Complete,
    /// Ctrl-C.
    Interrupted,
}

/// Why one attempt ended before the file was complete.
enum Setback {
    /// Ctrl-C.
    Interrupted,
    /// The next attempt may go better.
    Passing {
        /// What happened.
        what: String,
        /// How long the server wants to be left alone.
        wait: Option<Duration>,
    },
    /// No attempt will go better.
    Final(anyhow::Error),
}

impl Setback {
    fn passing(what: impl fmt::Display) -> Setback {
        Setback::Passing { what: what.to_string(), wait: None }
    }
}

impl Transfer<'_> {
    /// Completes `part`.
    ///
    /// # Errors
    /// The server refuses, lies in a way that cannot be got around, or fails too often; the disk is full.
    pub fn run(&self, part: &mut PartFile) -> anyhow::Result<Ended> {
        if self.is_complete(part) {
            return Ok(Ended::Complete);
        }
        let mut attempts = Attempts { best: 0, in_vain: 0, ranges: true };
        loop {
            let setback = match self.attempt(part, &mut attempts) {
                Ok(()) => return Ok(Ended::Complete),
                Err(setback) => setback,
            };
            let (what, wait) = match setback {
                Setback::Interrupted => return Ok(Ended::Interrupted),
                Setback::Final(error) => return Err(error),
                Setback::Passing { what, wait } => (what, wait),
            };
            let gained = part.len() > attempts.best;
            attempts.best = attempts.best.max(part.len());
            attempts.in_vain = if gained { 0 } else { attempts.in_vain + 1 };
            if attempts.in_vain > self.retries {
                return Err(self.give_up(part, &what));
            }
            let doubled = FIRST_WAIT.saturating_mul(1 << attempts.in_vain.min(16));
            let wait = wait.unwrap_or(doubled).min(LONGEST_WAIT);
            terminal::note(&format!(
                "{what}; trying again in {:.1} s, from {}",
                wait.as_secs_f64(),
                units::bytes(part.len())
            ));
            if !self.sleep(wait) {
                return Ok(Ended::Interrupted);
            }
        }
    }

    /// Whether everything is there: from an earlier run that was killed before its last step, or from another program.
    fn is_complete(&self, part: &PartFile) -> bool {
        let identity = part.origin().map(|origin| &origin.identity);
        let stated = identity.and_then(|identity| identity.sha256.as_deref());
        if self.checksums.expected(stated).is_some_and(|expected| part.len() > 0 && part.sha256() == expected) {
            return true;
        }
        part.origin().is_some_and(|origin| {
            origin.url == self.url
                && origin.identity.length == Some(part.len())
                && self.checksums.asked.is_none_or(|asked| stated.is_none_or(|stated| stated == asked))
        })
    }

    fn give_up(&self, part: &PartFile, what: &str) -> anyhow::Error {
        let attempts = match self.retries {
            0 => String::new(),
            n => format!(", and {} in a row brought nothing new", units::counted(u64::from(n) + 1, "attempt")),
        };
        let kept = match part.len() {
            0 => "nothing has arrived yet".to_owned(),
            n => {
                let path = part.path().display();
                format!("{} are kept in {path}, and the same command goes on from there", units::bytes(n))
            }
        };
        anyhow!("{what}{attempts}; {kept}")
    }

    /// One request. `Ok` when the file is complete.
    fn attempt(&self, part: &mut PartFile, attempts: &mut Attempts) -> Result<(), Setback> {
        let from = if attempts.ranges { self.resumable_from(part) } else { 0 };
        let validator = part.origin().and_then(|origin| origin.identity.validator());
        let events = self.client.fetch(from, validator);
        let head = match self.next(&events)? {
            Event::Head(head) => head,
            Event::Failed(error) if error.is_passing() => return Err(Setback::passing(error)),
            Event::Failed(error) => return Err(Setback::Final(anyhow!("{}: {error}", self.url))),
            Event::Piece(_) | Event::End => return Err(Setback::passing("the server sent no answer")),
        };
        self.check_status(&head, from, attempts)?;
        self.place(part, &head, from, attempts)?;
        check_space(part, &head)?;
        self.receive(part, &head, &events)
    }

    /// Where to go on: at the end of what is there, if it is known to be a beginning of this file, or if a checksum will
    /// tell in the end.
    fn resumable_from(&self, part: &PartFile) -> u64 {
        match part.origin() {
            Some(origin) if origin.url == self.url => part.len(),
            // Of another address, or of unknown origin: only a checksum can tell.
            Some(origin) if origin.identity.sha256.is_some() => part.len(),
            None if self.checksums.expected(None).is_some() => part.len(),
            _ => 0,
        }
    }

    fn check_status(&self, head: &Head, from: u64, attempts: &mut Attempts) -> Result<(), Setback> {
        let refused = |why: &str| Err(Setback::Final(anyhow!("{}: {why} (HTTP {})", self.url, head.status.as_u16())));
        match head.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT if head.is_encoded => {
                refused("the server packs the file although it was asked not to; use another mirror")
            }
            StatusCode::OK => Ok(()),
            StatusCode::PARTIAL_CONTENT if from > 0 => Ok(()),
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                // The file is shorter than what is there: it is another one by now, or the server said it were longer.
                attempts.ranges = false;
                Err(Setback::passing(format!("the server has nothing after byte {from}")))
            }
            StatusCode::UNAUTHORIZED => {
                refused("the server wants to know who asks; set HF_TOKEN to a valid access token of your account there")
            }
            StatusCode::FORBIDDEN => refused(
                "this account may not have the file; accept the model's terms on its page, or set HF_TOKEN to a token of an account that has",
            ),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                refused("there is no such file; `ds4 pull --list` names the published ones")
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(Setback::Passing {
                what: format!("the server asks for patience (HTTP {})", head.status.as_u16()),
                wait: head.retry_after,
            }),
            status if status.is_server_error() => Err(Setback::Passing {
                what: format!("the server has trouble (HTTP {})", status.as_u16()),
                wait: head.retry_after,
            }),
            _ => refused("the server gave an answer that this program does not understand"),
        }
    }

    /// Makes `part` end where the answer begins.
    fn place(&self, part: &mut PartFile, head: &Head, from: u64, attempts: &mut Attempts) -> Result<(), Setback> {
        let origin = Origin { url: self.url.to_owned(), identity: head.identity.clone() };
        if head.status == StatusCode::PARTIAL_CONTENT {
            let range = head.range;
            let rest = head.identity.length.map(|total| total.saturating_sub(from));
            let is_right = range.is_some_and(|range| range.first == Some(from))
                && (head.body_length.is_none() || rest.is_none() || head.body_length == rest);
            if !is_right {
                attempts.ranges = false;
                return Err(Setback::passing("the server sent another part of the file than it was asked for"));
            }
            let sameness = match part.origin() {
                Some(known) if known.url == self.url => known.identity.compare(&head.identity),
                Some(known) => match (&known.identity.sha256, &head.identity.sha256) {
                    (Some(known), Some(now)) if known == now => Sameness::Same,
                    _ => Sameness::Different,
                },
                None => Sameness::Unknown,
            };
            let stated = head.identity.sha256.as_deref();
            return match sameness {
                Sameness::Same => Ok(()),
                // What is there may be of anything; the checksum decides at the end.
                Sameness::Unknown if self.checksums.expected(stated).is_some() => {
                    part.note(origin).map_err(Setback::Final)
                }
                sameness => {
                    // The rest of another file must not be joined to this beginning.
                    part.restart(origin).map_err(Setback::Final)?;
                    Err(Setback::passing(match sameness {
                        Sameness::Different => {
                            "the file on the server has changed; it is downloaded from its beginning"
                        }
                        _ => {
                            "the server does not say whether its file is still the same, and no --sha256 would tell; it is \
                             downloaded from its beginning"
                        }
                    }))
                }
            };
        }
        if from > 0 {
            let why = match part.origin().map(|known| known.identity.compare(&head.identity)) {
                Some(Sameness::Different) => "The file on the server has changed",
                _ => "The server cannot send the rest of a file only",
            };
            terminal::note(&format!("{why}: starting again from its beginning."));
        }
        part.restart(origin).map_err(Setback::Final)
    }

    /// Appends what comes.
    fn receive(&self, part: &mut PartFile, head: &Head, events: &Receiver<Event>) -> Result<(), Setback> {
        let total = head.identity.length;
        let mut meter = Meter::new(part.len(), total);
        loop {
            match self.next(events)? {
                Event::Piece(piece) => {
                    let room = total.map_or(u64::MAX, |total| total - part.len().min(total));
                    if piece.len() as u64 > room {
                        return Err(Setback::Final(anyhow!(
                            "{}: the server sends more than the {} that it announced; it or a proxy is broken, use another mirror",
                            self.url,
                            units::bytes(total.unwrap_or(0)),
                        )));
                    }
                    part.append(&piece).map_err(|error| write_failed(part, error))?;
                    meter.set(part.len());
                }
                Event::End if total.is_none_or(|total| part.len() == total) => return Ok(()),
                Event::End => return Err(short(part.len(), total)),
                // All is there; how the connection ends does not matter.
                Event::Failed(_) if total == Some(part.len()) => return Ok(()),
                Event::Failed(error) => return Err(Setback::passing(error)),
                Event::Head(_) => return Err(Setback::passing("the server answered twice")),
            }
        }
    }

    /// The next event, unless Ctrl-C comes first.
    fn next(&self, events: &Receiver<Event>) -> Result<Event, Setback> {
        loop {
            if self.interrupt.is_pressed() {
                return Err(Setback::Interrupted);
            }
            match events.recv_timeout(GLANCE) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Setback::passing("the connection ended")),
            }
        }
    }

    /// `false` after Ctrl-C.
    fn sleep(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        while !self.interrupt.is_pressed() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(GLANCE));
        }
        false
    }
}

/// What earlier attempts of this run taught.
struct Attempts {
    /// The most bytes that were there.
    best: u64,
    /// Attempts in a row that did not get beyond that.
    in_vain: u32,
    /// Whether the server can be asked for a part of the file.
    ranges: bool,
}

fn short(len: u64, total: Option<u64>) -> Setback {
    Setback::passing(format!(
        "the connection ended after {len} of {} bytes",
        total.map_or_else(|| "?".to_owned(), |total| total.to_string())
    ))
}

fn write_failed(part: &PartFile, error: io::Error) -> Setback {
    let next = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room, then the same command goes on",
        _ => "",
    };
    Setback::Final(anyhow!("cannot write {}: {error}{next}", part.path().display()))
}

/// Refuses to begin what the disk cannot hold.
fn check_space(part: &PartFile, head: &Head) -> Result<(), Setback> {
    let Some(total) = head.identity.length else { return Ok(()) };
    let needed = total.saturating_sub(part.len());
    let named = part.path().parent().filter(|folder| !folder.as_os_str().is_empty());
    let free = free_space(named.unwrap_or(Path::new("."))).map_err(Setback::Final)?;
    if needed <= free {
        return Ok(());
    }
    let target = part.path().with_extension("");
    let bad = bad_path(&target);
    let hint = match bad.metadata() {
        Ok(metadata) => format!("; deleting {} frees {}", bad.display(), units::bytes(metadata.len())),
        Err(_) => String::new(),
    };
    Err(Setback::Final(anyhow!(
        "{} has {} free and the download needs {} more: {} are missing; make room, or choose another disk with --dir{hint}",
        named.map_or("the current folder".to_owned(), |folder| folder.display().to_string()),
        units::bytes(free),
        units::bytes(needed),
        units::bytes(needed - free),
    )))
}

/// Bytes that this user may still write to the file system of `folder`.
///
/// # Errors
/// The file system cannot be asked.
pub fn free_space(folder: &Path) -> anyhow::Result<u64> {
    let stat = rustix::fs::statvfs(folder).with_context(|| format!("cannot ask how full {} is", folder.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Says how far it is: a bar on a terminal, a line now and then elsewhere.
struct Meter {
    bar: Progress,
    total: Option<u64>,
    started: (Instant, u64),
    reported: Instant,
}

impl Meter {
    fn new(from: u64, total: Option<u64>) -> Meter {
        let now = Instant::now();
        let bar = Progress::new("downloading", total.unwrap_or(0), Unit::Bytes);
        bar.set(from);
        Meter { bar, total, started: (now, from), reported: now }
    }

    fn set(&mut self, done: u64) {
        self.bar.set(done);
        if Stream::Error.is_terminal() || self.reported.elapsed() < REPORT_EVERY {
            return;
        }
        self.reported = Instant::now();
        let (since, from) = self.started;
        let speed = (done - from) as f64 / since.elapsed().as_secs_f64();
        let of = self.total.map_or_else(String::new, |total| format!(" of {}", units::bytes(total)));
        eprintln!("{}{of}, {}/s", units::bytes(done), units::bytes(speed as u64));
    }
}

/// Asks what is at the address and reads nothing of it.
///
/// # Errors
/// The server cannot be reached, or has no such file.
pub fn look(transfer: &Transfer<'_>) -> anyhow::Result<Option<Identity>> {
    let events = transfer.client.fetch(0, None);
    let mut attempts = Attempts { best: 0, in_vain: 0, ranges: true };
    let head = match transfer.next(&events) {
        Ok(Event::Head(head)) => head,
        Ok(Event::Failed(error)) => return Err(anyhow!("{}: {error}", transfer.url)),
        Ok(Event::Piece(_) | Event::End) => return Err(anyhow!("{}: the server sent no answer", transfer.url)),
        Err(setback) => return interrupted(setback),
    };
    match transfer.check_status(&head, 0, &mut attempts) {
        Ok(()) => Ok(Some(head.identity)),
        Err(setback) => interrupted(setback),
    }
}

fn interrupted(setback: Setback) -> anyhow::Result<Option<Identity>> {
    match setback {
        Setback::Interrupted => Ok(None),
        Setback::Passing { what, .. } => Err(anyhow!(what)),
        Setback::Final(error) => Err(error),
    }
}
