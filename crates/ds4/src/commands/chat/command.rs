//! The commands of a conversation: their names, and what a line means.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::args::ThinkArg;

/// A command for the help and for completion.
pub struct Entry {
    /// Its name, with the slash.
    pub name: &'static str,
    /// What may follow.
    pub argument: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Whether a file's name follows.
    pub takes_file: bool,
}

const fn entry(name: &'static str, argument: &'static str, help: &'static str) -> Entry {
    Entry { name, argument, help, takes_file: false }
}

const fn file_entry(name: &'static str, help: &'static str) -> Entry {
    Entry { name, argument: "FILE", help, takes_file: true }
}

/// All commands, in the order of the help.
pub const COMMANDS: [Entry; 12] = [
    entry("/help", "", "this list"),
    entry("/retry", "", "another answer to the last message"),
    entry("/undo", "", "take back the last message and its answer"),
    entry("/new", "", "start over, with the same system text"),
    file_entry("/read", "put a text file into the next message"),
    entry("/system", "[TEXT | -]", "show, set or remove the system text"),
    entry("/think", "[off|low|high|max]", "show or set how hard to think first"),
    entry("/ctx", "", "what fills the context"),
    entry("/stats", "", "tokens, reuse and speed so far"),
    file_entry("/save", "write the conversation to a file"),
    file_entry("/load", "go on with a saved conversation"),
    entry("/quit", "", "leave; so does Ctrl-D"),
];

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `/help`
    Help,
    /// `/retry`
    Retry,
    /// `/undo`
    Undo,
    /// `/new`
    New,
    /// `/read FILE`
    Read(PathBuf),
    /// `/system`
    ShowSystem,
    /// `/system TEXT`; `None` for `/system -`
    SetSystem(Option<String>),
    /// `/think`
    ShowThink,
    /// `/think LEVEL`
    SetThink(ThinkArg),
    /// `/ctx`
    Context,
    /// `/stats`
    Stats,
    /// `/save FILE`
    Save(PathBuf),
    /// `/load FILE`
    Load(PathBuf),
    /// `/quit`
    Quit,
}

impl Command {
    /// The command in `text`; `None` if it is a message. Text of several lines is a message unless it begins with a
    /// command's name.
    ///
    /// # Errors
    /// A sentence: no such command, or a wrong argument.
    pub fn parse(text: &str) -> Option<Result<Command, String>> {
        if !text.starts_with('/') {
            return None;
        }
        let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let argument = argument.trim();
        if !COMMANDS.iter().any(|entry| entry.name == name) {
            return (!text.contains('\n')).then(|| Err(unknown(name)));
        }
        Some(Command::with_argument(name, argument))
    }

    fn with_argument(name: &str, argument: &str) -> Result<Command, String> {
        let file = |make: fn(PathBuf) -> Command| match argument.is_empty() {
            true => Err(format!("{name} needs the name of a file: {name} FILE")),
            false => Ok(make(file_path(argument))),
        };
        let alone = |command: Command| match argument.is_empty() {
            true => Ok(command),
            false => Err(format!("{name} takes nothing after it")),
        };
        match name {
            "/help" => alone(Command::Help),
            "/retry" => alone(Command::Retry),
            "/undo" => alone(Command::Undo),
            "/new" => alone(Command::New),
            "/read" => file(Command::Read),
            "/system" if argument.is_empty() => Ok(Command::ShowSystem),
            "/system" => Ok(Command::SetSystem((argument != "-").then(|| argument.to_owned()))),
            "/think" if argument.is_empty() => Ok(Command::ShowThink),
            "/think" => ThinkArg::from_str(argument, true)
                .map(Command::SetThink)
                .map_err(|_| format!("/think takes off, low, high or max, not {argument}")),
            "/ctx" => alone(Command::Context),
            "/stats" => alone(Command::Stats),
            "/save" => file(Command::Save),
            "/load" => file(Command::Load),
            "/quit" => alone(Command::Quit),
            _ => Err(unknown(name)),
        }
    }
}

fn unknown(name: &str) -> String {
    // The commands that begin as this one does, else nothing: a guess that is wrong is worse than none.
    let shared = |entry: &&Entry| entry.name.get(..3).is_some_and(|begin| name.starts_with(begin));
    let hint = match COMMANDS.iter().find(shared) {
        Some(entry) => format!("; did you mean {}?", entry.name),
        None => "; /help lists what there is".to_owned(),
    };
    format!("there is no command {name}{hint} (a message that begins with a slash needs a blank before it)")
}

/// The file that an argument names: the rest of the line, blanks included, quotes around it removed. `~/` is the
/// home folder.
pub fn file_path(argument: &str) -> PathBuf {
    let quoted = |quote: char| argument.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let name = quoted('"').or_else(|| quoted('\'')).unwrap_or(argument);
    match (name.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Command::parse(text).expect("a command").expect_err("an error")
    }

    #[test]
    fn every_command_of_the_help_is_understood() {
        for entry in &COMMANDS {
            let argument = match entry.name {
                "/think" => "max",
                _ if entry.takes_file => "a file.txt",
                _ => "",
            };
            let line = format!("{} {argument}", entry.name);
            assert!(matches!(Command::parse(&line), Some(Ok(_))), "{line}");
        }
    }

    #[test]
    fn arguments_are_the_rest_of_the_line() {
        let parse = |text: &str| Command::parse(text).expect("a command").expect("a valid one");
        assert_eq!(parse("/read my notes.txt "), Command::Read("my notes.txt".into()));
        assert_eq!(parse("/read \"my notes.txt\""), Command::Read("my notes.txt".into()));
        assert_eq!(parse("/system Be brief.\nBe kind."), Command::SetSystem(Some("Be brief.\nBe kind.".to_owned())));
        assert_eq!(parse("/system -"), Command::SetSystem(None));
        assert_eq!(parse("/system"), Command::ShowSystem);
        assert_eq!(parse("/think off"), Command::SetThink(ThinkArg::Off));
    }

    #[test]
    fn messages_are_told_from_commands() {
        for message in ["hello", " /etc/hosts is a file", "/etc/hosts\n127.0.0.1", "", "a /quit"] {
            assert_eq!(Command::parse(message), None, "{message:?}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        assert!(error("/dance").starts_with("there is no command /dance; /help lists"));
        assert!(error("/resume").contains("did you mean /retry?"));
        assert!(error("/é").contains("no command"));
        assert_eq!(error("/read"), "/read needs the name of a file: /read FILE");
        assert_eq!(error("/think much"), "/think takes off, low, high or max, not much");
        assert_eq!(error("/undo 2"), "/undo takes nothing after it");
    }
}
