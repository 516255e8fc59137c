//! Tool calls of the history, in the markup in which the model writes them.

use crate::conversation::ToolCall;
use crate::dsml::Start;
use crate::json::Json;
use crate::special::{Prompt, Special};

/// The block of calls, from the blank line before it to its closing tag.
pub(super) fn block(out: &mut Prompt, calls: &[ToolCall]) {
    open_block(out);
    for call in calls {
        open_invoke(out, &call.name);
        parameters(out, &call.arguments);
        out.text("\n</").control(Special::Dsml).text("invoke>\n");
    }
    out.text("</").control(Special::Dsml).text("tool_calls>");
}

/// The opening of a block that the model is to go on with.
pub(super) struct Opening {
    /// Tool that the first call is to.
    pub(super) name: Option<String>,
}

impl Opening {
    pub(super) fn write(&self, out: &mut Prompt) {
        open_block(out);
        if let Some(name) = &self.name {
            open_invoke(out, name);
        }
    }

    /// Where an output after it starts.
    pub(super) fn start(&self) -> Start {
        self.name.clone().map_or(Start::Block, Start::Invoke)
    }
}

/// Up to where the first call starts.
fn open_block(out: &mut Prompt) {
    out.text("\n\n<").control(Special::Dsml).text("tool_calls>\n");
}

/// The opening tag of a call.
fn open_invoke(out: &mut Prompt, name: &str) {
    out.text("<").control(Special::Dsml).text("invoke name=\"").text(name).text("\">\n");
}

/// One line per argument; an empty line if there are none (as the model's reference encoder writes it).
fn parameters(out: &mut Prompt, arguments: &str) {
    let entries = match Json::parse_python(arguments) {
        Ok(Json::Object(entries)) => entries,
        _ => vec![("arguments".to_owned(), Json::String(arguments.to_owned()))],
    };
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 {
            out.text("\n");
        }
        out.text("<").control(Special::Dsml).text("parameter name=\"").text(key);
        match value {
            Json::String(text) => out.text("\" string=\"true\">").text(text),
            other => out.text("\" string=\"false\">").text(other.to_string()),
        };
        out.text("</").control(Special::Dsml).text("parameter>");
    }
}
