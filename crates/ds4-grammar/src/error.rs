//! Why there is no grammar.

/// Why a [`Shape`](crate::Shape) cannot be enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// The schema of the answer says something that cannot be enforced, or too much.
    #[error("the schema cannot be enforced: {reason}")]
    Format {
        /// What is wrong with it.
        reason: String,
    },
    /// The parameters of a tool say something that cannot be enforced, or too much.
    #[error("the parameters of the strict tool {tool:?} cannot be enforced: {reason}")]
    Tool {
        /// Name of the tool.
        tool: String,
        /// What is wrong with them.
        reason: String,
    },
    /// The grammar of a free-form tool's text is wrong, or too much.
    #[error("the grammar of the tool {tool:?} cannot be enforced: {reason}")]
    Input {
        /// Name of the tool.
        tool: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Each part can be enforced, but not all together.
    #[error("the tools and the schema together cannot be enforced: {reason}")]
    Together {
        /// What is wrong.
        reason: String,
    },
    /// The vocabulary is none that grammars can be matched against.
    #[error("the model's vocabulary cannot be used to constrain answers: {reason}")]
    Vocabulary {
        /// What is wrong with it.
        reason: String,
    },
}

/// The same for a grammar that the client did write: with the line.
pub(crate) fn reason_in_lines(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let place = first.strip_prefix("ERROR: ").unwrap_or(first);
    let place = place.strip_prefix("at ").unwrap_or(place);
    let line = place.split_once('(').and_then(|(line, _)| line.parse::<usize>().ok());
    match (line, place.split_once("): ")) {
        // The lines after it may say what is wrong with a regular expression.
        (Some(line), Some((_, rest))) => format!("line {line}: {}", reason(&text.replacen(first, rest, 1))),
        _ => reason(error),
    }
}

/// Longest reason that is passed on, in characters.
const LONGEST_REASON: usize = 300;

/// What a library's error says, without the lines that quote the grammar, which the client did not write.
pub(crate) fn reason(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("no reason is known");
    // "at LINE(COLUMN): " is a place in the grammar.
    let first = match first.split_once("): ") {
        Some((place, rest)) if place.starts_with("at ") => rest,
        _ => first.strip_prefix("ERROR: ").unwrap_or(first),
    };
    let first = first.strip_prefix("failed to compile JSON schema: ").unwrap_or(first);
    let reason = match first {
        "NoExtension" | "NoExtensionBias" => "nothing satisfies it".to_owned(),
        "LexerTooComplex" | "ParserTooComplex" => "it is too complex".to_owned(),
        _ if first.contains("Too many items") || first.contains("Current row has") => "it is too complex".to_owned(),
        _ if first.starts_with("panic: ") => "the compiler cannot take it".to_owned(),
        // A regular expression is quoted over several lines, and then comes what is wrong with it.
        _ if first.ends_with(':') => match lines.find_map(|line| line.strip_prefix("error: ")) {
            Some(detail) => format!("{first} {detail}"),
            None => first.trim_end_matches(':').to_owned(),
        },
        _ => first.replace(" without 'referencing' feature", ", nothing is fetched"),
    };
    match reason.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    }
}
