//! What an answer must look like.

use ds4_chat::json::Json;

/// What the rest of a turn must look like, from an [`Entry`] on.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Where it begins.
    pub entry: Entry,
    /// What the answer must be, where it is not to be a call.
    pub format: Option<Format>,
    /// Tools that may be called. Empty: no calls.
    pub tools: Vec<ToolShape>,
}

/// Where a [`Shape`] begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// At the beginning of the answer: JSON of the format, or a block of calls if there are tools.
    Answer,
    /// After `<` and the DSML token: the rest of a block of calls.
    Opener,
    /// After the opening tag of a block: calls, at least one.
    Block,
    /// After the opening tag of a call of this tool.
    Call(String),
}

/// JSON that an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    /// Its schema.
    pub schema: Json,
    /// Whether everything in the schema must be enforced. Otherwise keywords that cannot be are passed over.
    pub strict: bool,
}

impl Format {
    /// Any JSON object.
    pub fn object() -> Self {
        let schema = Json::Object(vec![("type".to_owned(), Json::from("object"))]);
        Self { schema, strict: true }
    }
}

/// A tool, as far as its calls are concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolShape {
    /// Its name.
    pub name: String,
    /// What its calls may say.
    pub arguments: Arguments,
}

/// What the calls of a tool may say.
#[derive(Clone, Debug, PartialEq)]
pub enum Arguments {
    /// Any parameters with any values.
    Any,
    /// What follows this JSON Schema.
    Schema(Json),
    /// One parameter, [`INPUT`], with a text that follows this grammar.
    Input(InputGrammar),
}

/// Name of the one parameter of a free-form tool.
pub const INPUT: &str = "input";

/// A client's own grammar of the text that a free-form tool takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputGrammar {
    /// The language that it is written in.
    pub syntax: Syntax,
    /// The grammar.
    pub definition: String,
}

/// A language for grammars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Lark's, in the dialect of the crate `llguidance`, with `start` as the first rule.
    Lark,
    /// A regular expression in Rust's dialect, which the whole text must match.
    Regex,
}

impl Shape {
    /// An answer that is JSON.
    pub fn answer(format: Format) -> Self {
        Self { entry: Entry::Answer, format: Some(format), tools: Vec::new() }
    }

    /// Calls of `tools`, from `entry` on.
    pub fn calls(entry: Entry, tools: Vec<ToolShape>) -> Self {
        Self { entry, format: None, tools }
    }
}
