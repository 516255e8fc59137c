//! `ds4 pull`: a published model, downloaded so that nothing that arrived is lost and nothing wrong gets its name.
//!
//! - [`connection`] asks a server and hands on what it says.
//! - [`identity`] tells whether two answers are about the same file.
//! - [`part`] keeps what has arrived.
//! - [`transfer`] asks again until everything has.

mod connection;
mod identity;
mod part;
mod transfer;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use ureq::http::Uri;

use crate::args::PullArgs;
use crate::catalog::{ENDPOINT, PUBLISHED, Published};
use crate::exit::{Outcome, UsageError, output_error};
use crate::interrupt::Interrupt;
use crate::model_source::{LoadedModel, ModelSource};
use crate::terminal;
use crate::units;

use connection::Client;
use part::PartFile;
use transfer::{Checksums, Ended, Transfer};

/// Files up to this length are checked whole when they are found in place: that takes no longer than a look.
const CHECKED_AT_ONCE: u64 = 1 << 30;

/// Downloads.
///
/// # Errors
/// The server refuses, there is no room, or what arrived is not what was published.
pub fn execute(args: &PullArgs) -> anyhow::Result<Outcome> {
    // A variable that is set to nothing means as much as none.
    let endpoint = if args.endpoint.is_empty() { ENDPOINT } else { &args.endpoint };
    if args.list {
        return list(endpoint);
    }
    let interrupt = Interrupt::install()?;
    let source = Source::new(args, endpoint)?;
    let client = Client::new(source.uri.clone(), source.token.clone(), Duration::from_secs(args.timeout));
    let transfer = Transfer {
        client: &client,
        url: &source.url,
        checksums: Checksums {
            asked: args.sha256.as_deref(),
            known: source.published.map(|published| published.sha256),
        },
        retries: args.retries,
        interrupt: &interrupt,
    };
    match source.target.exists() {
        true => check_existing(args, &source, &transfer),
        false => download(&source, &transfer),
    }
}

/// What to download, from where, to where.
struct Source {
    url: String,
    uri: Uri,
    token: Option<String>,
    published: Option<&'static Published>,
    target: PathBuf,
}

impl Source {
    fn new(args: &PullArgs, endpoint: &str) -> anyhow::Result<Source> {
        let published = args.name.as_deref().and_then(Published::by_name);
        let url = match (&args.url, published) {
            (Some(url), _) => url.clone(),
            (None, Some(published)) => published.url(endpoint),
            (None, None) => return Err(UsageError("say which file to download; --list names them".to_owned()).into()),
        };
        let uri = parse(&url)?;
        // A token is for the server that gave it out, whatever address stands on the command line.
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.trim().is_empty());
        let is_known_server = parse(endpoint)?.authority() == uri.authority();
        let name = match published {
            Some(published) => published.file.to_owned(),
            None => name_in(&uri).unwrap_or_default(),
        };
        let target = match (&args.out, &args.dir) {
            (Some(out), _) => out.clone(),
            (None, _) if name.is_empty() => {
                return Err(UsageError(format!("{url} does not end in a file name; give one with --out")).into());
            }
            (None, Some(dir)) => dir.join(name),
            (None, None) => PathBuf::from(name),
        };
        if target.is_dir() {
            return Err(UsageError(format!("{} is a folder; use --dir for folders", target.display())).into());
        }
        if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            anyhow::bail!("there is no folder {}; make it first, or choose another", folder.display());
        }
        let token = token.filter(|_| is_known_server).map(|token| token.trim().to_owned());
        Ok(Source { url, uri, token, published, target })
    }
}

fn parse(url: &str) -> anyhow::Result<Uri> {
    let uri: Option<Uri> = url.parse().ok();
    uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some())
        .ok_or_else(|| UsageError(format!("{url:?} is not an address that begins with https:// or http://")).into())
}

/// The last part of an address' path, if it can be a file name.
fn name_in(uri: &Uri) -> Option<String> {
    let name = uri.path().rsplit('/').next()?;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte));
    (is_plain && !name.starts_with('.') && !name.is_empty()).then(|| name.to_owned())
}

fn download(source: &Source, transfer: &Transfer<'_>) -> anyhow::Result<Outcome> {
    let target = &source.target;
    let Some(mut part) = PartFile::open(target, transfer.interrupt)? else { return Ok(Outcome::Interrupted) };
    match part.len() {
        0 => terminal::note(&format!("Downloading {}", source.url)),
        n => terminal::note(&format!("Going on with {}, {} are here", source.url, units::bytes(n))),
    }
    match transfer.run(&mut part) {
        Ok(Ended::Complete) => {}
        Ok(Ended::Interrupted) => {
            if part.len() > 0 {
                eprintln!("Stopped at {}; the same command goes on from there.", units::bytes(part.len()));
            }
            part.discard_if_empty();
            return Ok(Outcome::Interrupted);
        }
        Err(error) => {
            part.discard_if_empty();
            return Err(error);
        }
    }
    let identity = part.origin().map(|origin| origin.identity.clone()).unwrap_or_default();
    let expected = transfer.checksums.expected(identity.sha256.as_deref());
    let found = part.sha256();
    if expected.is_some_and(|expected| expected != found) {
        let expected = expected.unwrap_or_default().to_owned();
        let bad = part.finish(false)?;
        bail!(
            "the download is damaged: its SHA-256 is {found}, not {expected}; it is kept as {} to be looked at, delete it \
             and run the same command again, from another network or mirror if that happens twice",
            bad.display()
        );
    }
    note_replaced(source, transfer, &found);
    part.sync()?;
    // Without a checksum, only the content itself can tell a model from a page that says why there is none.
    if expected.is_none()
        && let Err(error) = ds4_gguf::Gguf::open(part.path())
    {
        let bad = part.finish(false)?;
        bail!("what arrived is no model file: {error}; it is kept as {}, check the address", bad.display());
    }
    let bytes = part.len();
    part.finish(true)?;
    let checked = match expected {
        Some(_) => format!("SHA-256 {found} is right"),
        None => format!("its SHA-256 is {found}; the server states none to compare it with"),
    };
    terminal::note(&format!("{}: {} complete, {checked}", target.display(), units::bytes(bytes)));
    close(target)
}

/// Says so if the server has another file under a published name than this program knows: nothing is wrong with that,
/// but it should not pass unseen.
fn note_replaced(source: &Source, transfer: &Transfer<'_>, found: &str) {
    if let Some(published) = source.published.filter(|published| published.sha256 != found)
        && transfer.checksums.asked.is_none()
    {
        terminal::note(&format!(
            "Note: the server states this checksum itself; when this version of ds4 was made, {} was another file, \
                 with SHA-256 {}.",
            published.name, published.sha256
        ));
    }
}

/// What to do where a file has the name already: never replace it.
fn check_existing(args: &PullArgs, source: &Source, transfer: &Transfer<'_>) -> anyhow::Result<Outcome> {
    let target = &source.target;
    let length = target.metadata().with_context(|| format!("cannot look at {}", target.display()))?.len();
    let Some(identity) = transfer::look(transfer)? else { return Ok(Outcome::Interrupted) };
    let total = identity.length.or(source.published.map(|published| published.bytes));
    if let Some(total) = total.filter(|&total| total != length) {
        bail!(
            "{} exists and has {}, the file on the server {}; it is not replaced: move it away, or download under another \
             name with --out",
            target.display(),
            units::counted(length, "byte"),
            units::grouped(total)
        );
    }
    let expected = transfer.checksums.expected(identity.sha256.as_deref());
    let read_all = args.verify || args.sha256.is_some() || length <= CHECKED_AT_ONCE;
    let checked = match expected {
        Some(expected) if read_all => {
            let Some(found) = part::sha256_of_file(target, transfer.interrupt)? else {
                return Ok(Outcome::Interrupted);
            };
            if found != expected {
                bail!(
                    "{} exists, but its SHA-256 is {found}, not {expected}; it is not replaced: move it away and run the same \
                     command again",
                    target.display()
                );
            }
            format!("its SHA-256 {found} is right")
        }
        Some(_) => "its length is right; --verify reads it all and checks its SHA-256".to_owned(),
        None => "its length is right; the server states no checksum".to_owned(),
    };
    if !part_exists(target) {
        part::forget_note(target);
    }
    terminal::note(&format!("{} is here already and complete ({}): {checked}", target.display(), units::bytes(length)));
    close(target)
}

fn part_exists(target: &Path) -> bool {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    Path::new(&name).exists()
}

/// Opens the model as `ds4 run` would, and says how to run it.
fn close(target: &Path) -> anyhow::Result<Outcome> {
    LoadedModel::open(&ModelSource::File(target.to_owned()))
        .with_context(|| format!("{} is complete, but this version of ds4 cannot run it", target.display()))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "Run it: ds4 run -m {} -p 'Hello'", shell_word(target))
        .and_then(|()| out.flush())
        .map_err(output_error)?;
    Ok(Outcome::Done)
}

/// A path as a shell wants it.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "-_./+,:@%".contains(c);
    match !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn list(endpoint: &str) -> anyhow::Result<Outcome> {
    let mut text = String::new();
    for file in PUBLISHED {
        text.push_str(&format!("{:<6} {:>9}  {}\n", file.name, units::bytes(file.bytes), file.about));
        text.push_str(&format!("       {}\n       sha256 {}\n\n", file.url(endpoint), file.sha256));
    }
    text.push_str("`ds4 pull NAME` downloads one; `ds4 doctor` says which this machine can run.\n");
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output_error)?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_from_the_address_only_if_it_is_one() {
        let name = |url: &str| name_in(&url.parse().unwrap());
        assert_eq!(name("https://a.example/b/model-1.gguf?download=true").as_deref(), Some("model-1.gguf"));
        for url in ["https://a.example/", "https://a.example", "https://a.example/..", "https://a.example/a%2Fb"] {
            assert_eq!(name(url), None, "{url}");
        }
    }

    #[test]
    fn paths_survive_the_shell() {
        assert_eq!(shell_word(Path::new("/m/v4.gguf")), "/m/v4.gguf");
        assert_eq!(shell_word(Path::new("my model's.gguf")), r"'my model'\''s.gguf'");
        assert_eq!(shell_word(Path::new("-x")), "'-x'");
    }
}
