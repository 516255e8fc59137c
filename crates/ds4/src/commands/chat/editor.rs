//! The line editor: history, completion, pasted text.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Context, Event, EventContext, EventHandler,
    Helper, KeyCode, KeyEvent, Modifiers, RepeatCount,
};

use super::command::{COMMANDS, file_path};
use super::input::Line;
use crate::terminal::{self, Stream, Style};

/// What stands before a new message.
const PROMPT: &str = "> ";
/// What stands before a line that continues one.
const MORE: &str = "… ";
/// Messages that the history holds.
const HISTORY: usize = 1000;
/// Longest message that goes into the history, in bytes: a pasted book does not.
const LONGEST_REMEMBERED: usize = 64 << 10;

/// The editor, and where its history is kept.
pub struct Editor {
    editor: rustyline::Editor<Assistance, DefaultHistory>,
    history: Option<PathBuf>,
    interrupted_empty: Arc<AtomicBool>,
}

/// Ctrl-C, which says whether there was anything to clear.
struct ClearLine(Arc<AtomicBool>);

impl ConditionalEventHandler for ClearLine {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        self.0.store(context.line().is_empty(), Ordering::Relaxed);
        Some(Cmd::Interrupt)
    }
}

impl Editor {
    /// An editor on the terminal, with what was typed in earlier sessions unless `with_history` is off.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn open(with_history: bool) -> anyhow::Result<Editor> {
        let style = terminal::style(Stream::Output);
        let config = Config::builder()
            .max_history_size(HISTORY)
            .and_then(|builder| builder.history_ignore_dups(true))
            .context("cannot set up the line editor")?
            .completion_type(CompletionType::List)
            .color_mode(if style.is_enabled() { ColorMode::Enabled } else { ColorMode::Disabled })
            .build();
        let mut editor =
            rustyline::Editor::with_config(config).context("cannot use this terminal for a conversation")?;
        editor.set_helper(Some(Assistance { style }));
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        let interrupted_empty = Arc::new(AtomicBool::new(true));
        let clear_line = EventHandler::Conditional(Box::new(ClearLine(Arc::clone(&interrupted_empty))));
        editor.bind_sequence(KeyEvent::ctrl('C'), clear_line);
        let history = if with_history { history_file() } else { None };
        if let Some(path) = &history {
            // There is none yet, or it is unreadable: a conversation is possible without.
            let _ = editor.load_history(path);
        }
        Ok(Editor { editor, history, interrupted_empty })
    }

    /// Reads a line; see [`Input::read`](super::input::Input::read).
    pub fn read(&mut self, goes_on: bool, draft: &str) -> anyhow::Result<Line> {
        let prompt = if goes_on { MORE } else { PROMPT };
        match self.editor.readline_with_initial(prompt, (draft, "")) {
            Ok(text) => Ok(Line::Text(text)),
            Err(ReadlineError::Interrupted) => {
                Ok(Line::Interrupted { was_empty: self.interrupted_empty.load(Ordering::Relaxed) })
            }
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(error).context("cannot read from the terminal"),
        }
    }

    /// Adds a message to the history, in memory and in the file.
    pub fn remember(&mut self, entry: &str) {
        if entry.len() > LONGEST_REMEMBERED || !self.editor.add_history_entry(entry).unwrap_or(false) {
            return;
        }
        if let Some(path) = &self.history {
            let appended = private_folder(path).map_err(ReadlineError::from);
            if appended.and_then(|()| self.editor.append_history(path)).is_err() {
                // Said nowhere: it would be said after every message. Within this session the history works.
                self.history = None;
            }
        }
    }
}

/// Where the history is kept: with other data of this user's programs.
fn history_file() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let variable = if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_DATA_HOME" };
    let configured = std::env::var_os(variable).map(PathBuf::from).and_then(absolute);
    let folder = configured.or_else(|| {
        let home = std::env::home_dir().and_then(absolute)?;
        Some(home.join(if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" }))
    })?;
    Some(folder.join("ds4").join("chat-history"))
}

/// Makes the folder of `path`, for nobody but the user.
fn private_folder(path: &Path) -> std::io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// What the editor asks while a line is typed.
struct Assistance {
    style: Style,
}

impl Helper for Assistance {}
impl Validator for Assistance {}

impl Hinter for Assistance {
    type Hint = String;
}

impl Highlighter for Assistance {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        self.style.bold(prompt)
    }
}

impl Completer for Assistance {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok(completions(&line[..pos]))
    }
}

/// What may stand at the end of `typed`, and where it begins: a command's name, a level of thinking, or a file.
fn completions(typed: &str) -> (usize, Vec<Pair>) {
    let Some((name, argument)) = typed.split_once(' ') else {
        let names = COMMANDS.iter().filter(|entry| typed.starts_with('/') && entry.name.starts_with(typed));
        let pair = |name: &str, blank: &str| Pair { display: name.to_owned(), replacement: format!("{name}{blank}") };
        return (0, names.map(|entry| pair(entry.name, if entry.argument.is_empty() { "" } else { " " })).collect());
    };
    let start = typed.len() - argument.trim_start().len();
    let argument = &typed[start..];
    if name == "/think" {
        let levels = ["off", "low", "high", "max"].into_iter().filter(|level| level.starts_with(argument));
        let pair = |level: &str| Pair { display: level.to_owned(), replacement: level.to_owned() };
        return (start, levels.map(pair).collect());
    }
    match COMMANDS.iter().any(|entry| entry.name == name && entry.takes_file) {
        true => files(argument, start),
        false => (typed.len(), Vec::new()),
    }
}

/// The files whose names begin with `argument`, which begins at `start` of the line. Hidden ones only if asked for.
fn files(argument: &str, start: usize) -> (usize, Vec<Pair>) {
    let cut = argument.rfind('/').map_or(0, |slash| slash + 1);
    let (folder, begun) = argument.split_at(cut);
    let folder = if folder.is_empty() { PathBuf::from(".") } else { file_path(folder) };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut pairs: Vec<Pair> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_hidden = name.starts_with('.') && !begun.starts_with('.');
            // A name that would move the cursor is not shown.
            if is_hidden || !name.starts_with(begun) || name.contains(char::is_control) {
                return None;
            }
            let shown = if entry.path().is_dir() { format!("{name}/") } else { name };
            Some(Pair { display: shown.clone(), replacement: shown })
        })
        .collect();
    pairs.sort_by(|a, b| a.display.cmp(&b.display));
    (start + cut, pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(typed: &str) -> (usize, Vec<String>) {
        let (start, pairs) = completions(typed);
        (start, pairs.into_iter().map(|pair| pair.replacement).collect())
    }

    #[test]
    fn commands_and_levels_are_completed() {
        assert_eq!(complete("/re"), (0, vec!["/retry".to_owned(), "/read ".to_owned()]));
        assert_eq!(complete("/think m"), (7, vec!["max".to_owned()]));
        assert_eq!(complete("re").1, Vec::<String>::new());
        assert_eq!(complete("").1, Vec::<String>::new());
        assert_eq!(complete("say /re").1, Vec::<String>::new());
    }

    #[test]
    fn files_are_completed_with_their_blanks() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["my notes.txt", "my list.txt", ".hidden", "other"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("my folder")).unwrap();
        let base = format!("/read {}/", folder.path().display());
        let (start, names) = complete(&format!("{base}my "));
        assert_eq!(
            (start, names),
            (base.len(), vec!["my folder/".into(), "my list.txt".into(), "my notes.txt".into()])
        );
        assert_eq!(complete(&base).1.len(), 4);
        assert_eq!(complete(&format!("{base}.h")).1, [".hidden"]);
        assert_eq!(complete("/read /no/such/folder/x").1, Vec::<String>::new());
    }
}
