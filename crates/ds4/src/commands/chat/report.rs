//! What commands show: the help, and what fills the context.

use super::command::COMMANDS;
use super::transcript::Transcript;
use crate::terminal::{self, Stream, columns, printable, wrap};
use crate::units::{counted, grouped};

/// Columns where standard error is not a terminal.
const PLAIN_WIDTH: usize = 100;
/// Turns that are listed one by one.
const LISTED: usize = 12;

/// Shows lines on standard error.
pub fn print(lines: &[String]) {
    let style = terminal::style(Stream::Error);
    for line in lines {
        // Without standard error there is nobody to tell.
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", style.dim(&printable(line))));
    }
}

/// The commands and the keys, in lines of at most `width` columns.
pub fn help(width: Option<usize>) -> Vec<String> {
    let width = width.unwrap_or(PLAIN_WIDTH);
    let entries: Vec<(String, &str)> =
        COMMANDS.iter().map(|entry| (format!("{} {}", entry.name, entry.argument), entry.help)).collect();
    let column = entries.iter().map(|(usage, _)| usage.chars().count()).max().unwrap_or(0) + 2;
    let mut lines = Vec::new();
    for (usage, help) in entries {
        for (index, part) in wrap(help, width.saturating_sub(column)).into_iter().enumerate() {
            let begin = if index == 0 { usage.as_str() } else { "" };
            lines.push(format!("{begin:column$}{part}"));
        }
    }
    let keys = "Several lines: end a line with \\, press Alt-Enter, paste, or write between lines of \"\"\". Tab completes. \
                Ctrl-C stops an answer or clears the line; twice, or Ctrl-D, leaves.";
    lines.extend(wrap(keys, width));
    lines
}

/// What fills the context. `attached`: name and tokens of each file that waits; `count` counts a text's tokens.
pub fn context(
    transcript: &Transcript,
    used: usize,
    context: usize,
    attached: &[(&str, usize)],
    count: impl Fn(&str) -> usize,
    width: Option<usize>,
) -> Vec<String> {
    let width = width.unwrap_or(PLAIN_WIDTH);
    let number = |n: usize| grouped(n as u64);
    let share = 100.0 * used as f64 / context as f64;
    let left = context.saturating_sub(used);
    let mut lines =
        vec![format!("context   {} of {} tokens ({share:.1} %), {} left", number(used), number(context), number(left))];
    if let Some(system) = &transcript.system {
        lines.push(format!("system    {}", counted(count(system) as u64, "token")));
    }
    let skipped = transcript.turns.len().saturating_sub(LISTED);
    if skipped > 0 {
        lines.push(format!("{} before these", counted(skipped as u64, "turn")));
    }
    for (index, turn) in transcript.turns.iter().enumerate().skip(skipped) {
        let (question, answer) = (count(&turn.message.to_text()), count(&turn.answer.content));
        let begin = format!("turn {:<4} {} + {} tokens  ", index + 1, number(question), number(answer));
        let room = width.saturating_sub(columns(&begin));
        lines.push(format!("{begin}{}", first_line(&turn.message.text, room)));
    }
    for (name, tokens) in attached {
        lines.push(format!("waiting   {}  {name}", counted(*tokens as u64, "token")));
    }
    lines
}

/// The first line of a text, in at most `width` columns.
pub fn first_line(text: &str, width: usize) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default();
    if columns(line) <= width && text.trim().lines().nth(1).is_none() {
        return line.to_owned();
    }
    let mut cut = String::new();
    for c in line.chars() {
        cut.push(c);
        // Measured whole: the width of a character can depend on its neighbours.
        if columns(&cut) >= width {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::chat::transcript::{Answered, Turn, UserMessage};

    #[test]
    fn long_texts_are_cut_where_the_line_ends() {
        assert_eq!(first_line("short", 5), "short");
        assert_eq!(first_line("longer", 5), "long…");
        assert_eq!(first_line("one\ntwo", 10), "one…");
        assert_eq!(first_line("", 10), "");
        assert_eq!(first_line("你好世界", 8), "你好世界");
        assert_eq!(first_line("你好世界", 7), "你好世…");
        assert_eq!(first_line("你好世界", 6), "你好…");
    }

    #[test]
    fn nothing_is_wider_than_the_terminal() {
        let message = UserMessage { text: "word 字 ".repeat(50), ..UserMessage::default() };
        let turn = Turn { message, answer: Answered::default() };
        let transcript = Transcript { system: Some("x".to_owned()), turns: vec![turn; 20] };
        let count = |text: &str| text.len();
        for width in [60, 100] {
            let lines =
                help(Some(width)).into_iter().chain(context(&transcript, 123_456, 1_048_576, &[], count, Some(width)));
            for line in lines {
                assert!(columns(&line) <= width, "{line:?}");
            }
        }
        let lines = context(&transcript, 10, 100, &[("a.txt", 1)], count, None);
        assert_eq!(lines[0], "context   10 of 100 tokens (10.0 %), 90 left");
        assert_eq!(lines[2], "8 turns before these");
        assert_eq!(lines.last().unwrap(), "waiting   1 token  a.txt");
    }
}
