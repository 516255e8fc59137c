//! Conversations in files.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::text_file::TextFile;
use super::transcript::{Answered, Transcript, Turn, UserMessage};
use crate::units::bytes;

/// What the file says it is.
const FORMAT: &str = "ds4 conversation";
/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// Largest file that is read, in bytes.
const LARGEST: u64 = 256 << 20;

/// Every version begins like this.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u64,
    messages: Vec<SavedMessage>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase", deny_unknown_fields)]
enum SavedMessage {
    System {
        content: String,
    },
    User {
        content: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        files: Vec<SavedFile>,
    },
    Assistant {
        content: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reasoning: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedFile {
    name: String,
    content: String,
}

/// Writes a conversation, readable by its owner only. A file that is there is replaced as a whole, and only if
/// it is a saved conversation.
///
/// # Errors
/// The file is something else, or cannot be written.
pub fn save(transcript: &Transcript, path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    match read(path) {
        Ok(content) if header(&content).is_none() => {
            bail!("{shown} exists and is not a saved conversation; it is left as it is, choose another name")
        }
        Ok(_) => {}
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::NotFound) => {}
        Err(error) => return Err(error),
    }
    let document = Document { format: FORMAT.to_owned(), version: VERSION, messages: messages(transcript) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("cannot write {shown}: there is no folder {}", folder.display());
    }
    let write = || -> std::io::Result<()> {
        // Temporary files have mode 0600, and the name changes only once everything is on the disk.
        let mut file = tempfile::Builder::new().prefix(".ds4-").tempfile_in(folder)?;
        serde_json::to_writer_pretty(&mut file, &document)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {shown}"))
}

/// Reads a conversation.
///
/// # Errors
/// Unreadable, not a saved conversation, of another version, or damaged.
pub fn load(path: &Path) -> anyhow::Result<Transcript> {
    let shown = path.display();
    let content = read(path)?;
    match header(&content) {
        None => bail!("{shown} is not a conversation that /save has written"),
        Some(version) if version != VERSION => {
            bail!("{shown} is a conversation of version {version}, but this program reads version {VERSION}")
        }
        Some(_) => {}
    }
    let document: Document =
        serde_json::from_slice(&content).with_context(|| format!("{shown} is damaged or was edited wrongly"))?;
    transcript(document.messages).map_err(|problem| anyhow::anyhow!("{shown}: {problem}"))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let reading = || format!("cannot read {shown}");
    let metadata = std::fs::metadata(path).with_context(reading)?;
    if !metadata.is_file() {
        bail!("{shown} is not an ordinary file; a conversation is saved in one");
    }
    if metadata.len() > LARGEST {
        bail!("{shown} has {}; a saved conversation has at most {}", bytes(metadata.len()), bytes(LARGEST));
    }
    let mut content = Vec::new();
    File::open(path).with_context(reading)?.take(LARGEST).read_to_end(&mut content).with_context(reading)?;
    Ok(content)
}

/// The version of a saved conversation, if it is one.
fn header(content: &[u8]) -> Option<u64> {
    let header: Header = serde_json::from_slice(content).ok()?;
    (header.format == FORMAT).then_some(header.version)
}

fn messages(transcript: &Transcript) -> Vec<SavedMessage> {
    let mut messages: Vec<SavedMessage> =
        transcript.system.iter().map(|content| SavedMessage::System { content: content.clone() }).collect();
    for Turn { message, answer } in &transcript.turns {
        let file = |file: &TextFile| SavedFile { name: file.name.clone(), content: file.text.clone() };
        messages.push(SavedMessage::User {
            content: message.text.clone(),
            files: message.files.iter().map(file).collect(),
        });
        messages.push(SavedMessage::Assistant { content: answer.content.clone(), reasoning: answer.reasoning.clone() });
    }
    messages
}

/// The messages as turns: system text or none, then questions and answers in turn.
fn transcript(messages: Vec<SavedMessage>) -> Result<Transcript, String> {
    let mut transcript = Transcript::default();
    let mut asked: Option<UserMessage> = None;
    for (index, message) in messages.into_iter().enumerate() {
        let problem = |what: &str| Err(format!("message {} (counted from 1) {what}", index + 1));
        match message {
            SavedMessage::System { content } if index == 0 => transcript.system = Some(content),
            SavedMessage::System { .. } => return problem("is a system message; only the first one may be"),
            SavedMessage::User { .. } if asked.is_some() => return problem("follows a user message without an answer"),
            SavedMessage::User { content, files } => {
                let file = |file: SavedFile| TextFile { name: file.name, text: file.content };
                asked = Some(UserMessage { text: content, files: files.into_iter().map(file).collect() });
            }
            SavedMessage::Assistant { content, reasoning } => match asked.take() {
                None => return problem("is an answer without a user message before it"),
                // Tokens are not saved: those in a file that anybody may edit could be control tokens.
                Some(message) => {
                    let answer = Answered { reasoning, content, sampled: None };
                    transcript.turns.push(Turn { message, answer });
                }
            },
        }
    }
    match asked {
        Some(_) => Err("the last message has no answer".to_owned()),
        None => Ok(transcript),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn example() -> Transcript {
        let message = UserMessage {
            files: vec![TextFile { name: "a.txt".to_owned(), text: "line\n".to_owned() }],
            text: "What is \"this\"?\n你好".to_owned(),
        };
        let answer = Answered { reasoning: "Hm.".to_owned(), content: "<｜User｜>".to_owned(), sampled: None };
        Transcript { system: Some("Be brief.".to_owned()), turns: vec![Turn { message, answer }] }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        for transcript in [example(), Transcript::default()] {
            save(&transcript, &path).unwrap();
            assert_eq!(load(&path).unwrap(), transcript);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn other_files_are_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.md");
        fs::write(&path, "precious").unwrap();
        let error = save(&example(), &path).unwrap_err().to_string();
        assert!(error.contains("is not a saved conversation"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(save(&example(), folder.path()).is_err());
        let error = format!("{:#}", save(&example(), &folder.path().join("no/such/folder.json")).unwrap_err());
        assert!(error.contains("cannot write"), "{error}");
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let with = |messages: &str| format!("{{\"format\":\"{FORMAT}\",\"version\":1,\"messages\":[{messages}]}}");
        let user = r#"{"role":"user","content":"a"}"#;
        let assistant = r#"{"role":"assistant","content":"b"}"#;
        for (content, reason) in [
            ("Dear diary".to_owned(), "is not a conversation that /save has written"),
            ("{\"messages\":[]}".to_owned(), "is not a conversation"),
            (with("").replace("\"version\":1", "\"version\":2"), "of version 2, but this program reads version 1"),
            (with(r#"{"role":"tool","content":"a"}"#), "damaged"),
            (with(r#"{"role":"user","content":"a","x":1}"#), "damaged"),
            (with(user), "the last message has no answer"),
            (with(assistant), "message 1 (counted from 1) is an answer without"),
            (with(&format!("{user},{user}")), "message 2 (counted from 1) follows a user message"),
            (with(&format!("{user},{assistant},{}", r#"{"role":"system","content":"a"}"#)), "only the first one"),
            (with(user)[..40].to_owned(), "is not a conversation"),
        ] {
            fs::write(&path, &content).unwrap();
            let error = format!("{:#}", load(&path).unwrap_err());
            assert!(error.contains(reason), "{content}: {error}");
        }
    }
}
