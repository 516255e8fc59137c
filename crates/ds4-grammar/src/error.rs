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

/// Longest reason that is passed on, in characters.
const LONGEST_REASON: usize = 300;

/// The first line of a library's error: what follows it quotes the grammar, which the client did not write.
pub(crate) fn reason(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason is known").trim();
    let line = line.strip_prefix("ERROR:").unwrap_or(line).trim();
    let line = match line {
        "NoExtension" | "NoExtensionBias" => "nothing satisfies it",
        "LexerTooComplex" | "ParserTooComplex" => "it is too complex",
        line => line,
    };
    match line.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
