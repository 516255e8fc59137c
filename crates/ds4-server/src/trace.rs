//! A record of what was asked and answered, for finding out what a client really does.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ds4_chat::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::generation::Prepared;

/// Lines that may wait to be written; a disk that is slower than that loses lines rather than slow requests down.
const WAITING_LINES: usize = 1024;

/// A file of JSON lines. They are written by a thread of their own.
#[derive(Debug)]
pub struct Trace(SyncSender<Value>);

impl Trace {
    /// Creates the file, or empties it. It tells what was said, so a new one is readable for its owner only.
    ///
    /// # Errors
    /// The file cannot be created, or there is no thread.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        let (sender, lines) = sync_channel(WAITING_LINES);
        thread::Builder::new().name("ds4-trace".to_owned()).spawn(move || write_lines(file, &lines))?;
        Ok(Self(sender))
    }

    /// Writes a line: `event`, the time, and the entries of `fields`, an object.
    pub fn line(&self, event: &str, fields: Value) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64());
        let mut line = json!({ "time": seconds, "event": event });
        if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
            line.extend(fields);
        }
        let _ = self.0.try_send(line);
    }

    /// Writes the prompt of a request.
    pub(crate) fn prompt(&self, prepared: &Prepared, tokenizer: &Tokenizer) {
        let fields = json!({
            "tokens": prepared.prompt_tokens(),
            "replayed_turns": prepared.replayed_turns(),
            "text": tokenizer.decode_lossy(prepared.prompt()),
        });
        self.line("prompt", fields);
    }
}

fn write_lines(file: File, lines: &Receiver<Value>) {
    let mut file = BufWriter::new(file);
    loop {
        // Lines are on disk soon after they were written, but not one by one when there are many.
        let line = match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                let _ = file.flush();
                match lines.recv() {
                    Ok(line) => line,
                    Err(_) => break,
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if writeln!(file, "{line}").is_err() {
            break;
        }
    }
    let _ = file.flush();
}
