//! The text of a grammar: JSON answers, and blocks of calls in DSML.
//!
//! ```text
//! block     = "tool_calls>\n" "<" D invoke ( "<" D invoke )* "</" D "tool_calls>"
//! invoke    = "invoke name=\"" name "\">\n" parameter* "</" D "invoke>\n"
//! parameter = "<" D "parameter name=\"" key "\" string=\"" ( "true\">" text | "false\">" JSON ) "</" D "parameter>\n"
//! ```
//!
//! The text of a free-form tool's parameter follows the client's own grammar, which stands beside this one under a name.
//!
//! `D` is the DSML token, matched by its id. A text goes on to the first `</` that the token follows: the lexeme below takes as
//! much as it can, and nothing else can take the token.

use std::fmt::Write;

use ds4_chat::json::{Json, quote};

use crate::GrammarError;
use crate::parameter::{Parameter, Value, strict_parameters};
use crate::shape::{Arguments, Entry, Format, INPUT, Shape, ToolShape};

/// What may stand between two parts of a JSON text. Bounded, because a model can lose itself in blanks.
const JSON_BLANKS: &str = r"[ ]|\r?\n[ \t]{0,64}";

/// The grammar of `shape`, where `dsml` is the id of the DSML token.
pub(crate) fn grammar_text(shape: &Shape, dsml: u32) -> Result<String, GrammarError> {
    let mut rules = Rules::default();
    let start = match &shape.entry {
        Entry::Answer => {
            let format = shape.format.as_ref().map(json_answer).transpose()?;
            let opening = (!shape.tools.is_empty()).then(|| r#""\n\n<" d "tool_calls>\n" block"#.to_owned());
            let ways: Vec<String> = format.into_iter().chain(opening).collect();
            if ways.is_empty() {
                let reason = "neither a schema nor tools were given".to_owned();
                return Err(GrammarError::Together { reason });
            }
            ways.join(" | ")
        }
        Entry::Opener => r#""tool_calls>\n" block"#.to_owned(),
        Entry::Block => "block".to_owned(),
        Entry::Call(name) => match shape.tools.iter().position(|tool| tool.name == *name) {
            Some(index) => format!("call{index} more"),
            None => {
                let reason = "there is no such tool".to_owned();
                return Err(GrammarError::Tool { tool: name.clone(), reason });
            }
        },
    };
    rules.add("start", &start);
    if !shape.tools.is_empty() {
        rules.calls(&shape.tools, dsml)?;
    }
    Ok(rules.text)
}

fn json_answer(format: &Format) -> Result<String, GrammarError> {
    json(&format.schema, format.strict).map_err(|reason| GrammarError::Format { reason })
}

/// JSON of this schema.
pub(crate) fn json(schema: &Json, strict: bool) -> Result<String, String> {
    let Json::Object(entries) = schema else {
        return match schema {
            Json::Bool(true) => json(&Json::Object(Vec::new()), strict),
            Json::Bool(false) => Err("the schema is false, which nothing satisfies".to_owned()),
            _ => Err("a schema must be an object, true or false".to_owned()),
        };
    };
    // Options of the compiler are ours, whatever the client's schema has in this place.
    let options = Json::Object(vec![
        ("whitespace_pattern".to_owned(), Json::from(JSON_BLANKS)),
        ("lenient".to_owned(), Json::Bool(!strict)),
    ]);
    let mut entries: Vec<(String, Json)> = entries.iter().filter(|(key, _)| key != "x-guidance").cloned().collect();
    entries.push(("x-guidance".to_owned(), options));
    Ok(format!("%json {}", Json::Object(entries)))
}

/// The rules so far.
#[derive(Default)]
struct Rules {
    text: String,
}

impl Rules {
    fn add(&mut self, name: &str, body: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{name}: {body}");
    }

    fn calls(&mut self, tools: &[ToolShape], dsml: u32) -> Result<(), GrammarError> {
        self.add("d", &format!("<[{dsml}]>"));
        self.add("block", r#""<" d invoke more"#);
        self.add("more", r#"("<" d invoke)* "</" d "tool_calls>""#);
        let names = (0..tools.len()).map(|index| format!("tool{index}")).collect::<Vec<_>>().join(" | ");
        self.add("invoke", &format!(r#""invoke name=\"" ({names})"#));
        self.add("TEXT", r"/(?s:.*)<\//");
        self.add("KEY", r#"/[^"<>\r\n]+/"#);
        let any = json(&Json::Object(Vec::new()), false).map_err(|reason| GrammarError::Together { reason })?;
        self.add("any", &any);
        self.add("parameter", r#""<" d "parameter name=\"" KEY "\" string=\"" value"#);
        self.add("value", r#"("true\">" TEXT | "false\">" any "</") d "parameter>\n""#);
        self.add("anycall", r#"(parameter* | "\n") "</" d "invoke>\n""#);
        for (index, tool) in tools.iter().enumerate() {
            let opening = lark_string(&format!("{}\">\n", tool.name));
            self.add(&format!("tool{index}"), &format!("{opening} call{index}"));
            let call = match &tool.arguments {
                Arguments::Any => "anycall".to_owned(),
                Arguments::Input(_) => {
                    // Where the text can hold a `</` itself, it may already be read as part of it: see `watch`.
                    let opening = lark_string(&format!("parameter name=\"{INPUT}\" string=\"true\">"));
                    let name = input_name(index);
                    format!(r#""<" d {opening} @{name} "</"? d "parameter>\n" "</" d "invoke>\n""#)
                }
                Arguments::Schema(schema) => {
                    let parameters = strict_parameters(schema).and_then(|found| self.parameters(index, &found));
                    let parameters =
                        parameters.map_err(|reason| GrammarError::Tool { tool: tool.name.clone(), reason })?;
                    format!(r#"{parameters} "</" d "invoke>\n""#)
                }
            };
            self.add(&format!("call{index}"), &call);
        }
        Ok(())
    }

    /// The parameters of a strict tool in the order of its schema.
    fn parameters(&mut self, tool: usize, parameters: &[Parameter<'_>]) -> Result<String, String> {
        if parameters.is_empty() {
            return Ok(r#""\n"?"#.to_owned());
        }
        let mut sequence = Vec::new();
        for (place, parameter) in parameters.iter().enumerate() {
            let mut ways = Vec::new();
            for (way, value) in parameter.values.iter().enumerate() {
                ways.push(match value {
                    Value::AnyText => r#""true\">" TEXT"#.to_owned(),
                    Value::Text(terminal) => {
                        let name = format!("TEXT_{tool}_{place}_{way}");
                        self.add(&name, &format!(r#"({terminal}) "</""#));
                        format!(r#""true\">" {name}"#)
                    }
                    Value::Json(schema) => {
                        let name = format!("json{tool}_{place}_{way}");
                        self.add(&name, &json(schema, true)?);
                        format!(r#""false\">" {name} "</""#)
                    }
                });
            }
            let opening = lark_string(&format!("parameter name=\"{}\" string=\"", parameter.name));
            let name = format!("parameter{tool}_{place}");
            self.add(&name, &format!(r#""<" d {opening} ({}) d "parameter>\n""#, ways.join(" | ")));
            sequence.push(if parameter.required { name } else { format!("{name}?") });
        }
        Ok(sequence.join(" "))
    }
}

/// The name by which the grammar of calls refers to that of a free-form tool's text, by the tool's place.
pub(crate) fn input_name(tool: usize) -> String {
    format!("input{tool}")
}

/// A string of the grammar's dialect that stands for `text`.
pub(crate) fn lark_string(text: &str) -> String {
    // JSON, except that the dialect does not take this control character as it is.
    quote(text).replace('\u{7f}', "\\u007f")
}
