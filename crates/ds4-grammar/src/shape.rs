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
    /// JSON Schema that the arguments must follow; `None`: any parameters with any values.
    pub parameters: Option<Json>,
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
