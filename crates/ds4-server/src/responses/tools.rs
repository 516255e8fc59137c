//! The tools of a request, and what the names that the model calls stand for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ds4_chat::conversation::{Tool, ToolChoice};
use ds4_chat::json::Json;
use ds4_grammar::{INPUT, InputGrammar, Syntax};

use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::fields::{Field, Object};
use crate::generation::ToolInput;
use crate::request_fields::{AllowedTools, ToolList};

/// A tool as the client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTool {
    /// Its name within its namespace.
    pub name: String,
    /// The namespace.
    pub namespace: Option<String>,
    /// Whether it takes free text instead of JSON arguments.
    pub is_custom: bool,
}

/// The tools of a request: those that the model is shown, and their names as the client knows them.
#[derive(Debug, Default)]
pub struct Tools {
    /// For the prompt, in the request's order.
    pub shown: Vec<Tool>,
    /// Names, as the model knows them, of tools whose schema is to be followed to the letter.
    pub strict: BTreeSet<String>,
    /// What the texts of free-form tools have to be, by the name that the model knows.
    pub inputs: BTreeMap<String, ToolInput>,
    /// By the name that the model knows.
    known: HashMap<String, ClientTool>,
    /// What is left out, for the trace.
    pub left_out: Vec<String>,
}

/// The name that the model knows a tool of a namespace by.
pub fn flat_name(namespace: Option<&str>, name: &str) -> String {
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}__{name}"))
}

impl Tools {
    /// Reads `tools`. Types that the hosted service runs itself, such as `web_search`, are left out.
    ///
    /// # Errors
    /// The first tool that is wrong, by its path.
    pub fn read(object: &Object<'_>, config: &ServerConfig) -> Result<Self, ApiError> {
        let mut tools = Self::default();
        let mut list = ToolList::new(&config.limits);
        for field in object.get("tools").map(|field| field.array()).transpose()?.unwrap_or_default() {
            let tool = field.object()?;
            if tool.required("type")?.str()? != "namespace" {
                tools.add(&tool, None, &mut list)?;
                continue;
            }
            let namespace = tool.required("name")?.str()?;
            for field in tool.required("tools")?.array()? {
                tools.add(&field.object()?, Some(namespace), &mut list)?;
            }
        }
        tools.shown = list.into_tools();
        Ok(tools)
    }

    fn add(&mut self, tool: &Object<'_>, namespace: Option<&str>, list: &mut ToolList<'_>) -> Result<(), ApiError> {
        let kind = tool.get("type").map(|kind| kind.str()).transpose()?.unwrap_or("function");
        if !matches!(kind, "function" | "custom") {
            self.left_out.push(format!("{} of type {kind:?}", tool.path()));
            return Ok(());
        }
        let name = tool.required("name")?;
        let known = flat_name(namespace, name.str()?);
        let known_json = Json::from(known.as_str());
        let known_field = Field::at(&known_json, name.path());
        if kind == "custom" {
            let input = tool_input(tool)?;
            let description = tool.get("description").map(|field| field.str()).transpose()?.unwrap_or_default();
            let description = Json::String(custom_description(description, input.as_ref()));
            let parameters = custom_parameters();
            let description = Field::at(&description, tool.path_of("description"));
            list.add(&known_field, Some(&description), Some(&Field::at(&parameters, tool.path_of("format"))))?;
            if let Some(input) = input {
                self.inputs.insert(known.clone(), input);
            }
        } else {
            list.add(&known_field, tool.get("description").as_ref(), tool.get("parameters").as_ref())?;
        }
        // Of a free-form tool the schema is ours.
        if kind == "custom" || tool.get("strict").map(|strict| strict.bool()).transpose()?.unwrap_or(false) {
            self.strict.insert(known.clone());
        }
        let client_tool = ClientTool {
            name: name.str()?.to_owned(),
            namespace: namespace.map(str::to_owned),
            is_custom: kind == "custom",
        };
        self.known.insert(known, client_tool);
        Ok(())
    }

    /// The tool that the model calls by this name. One that does not exist is a function to the client, which tells the
    /// model so.
    pub fn by_known_name(&self, name: &str) -> ClientTool {
        self.known.get(name).cloned().unwrap_or_else(|| ClientTool {
            name: name.to_owned(),
            namespace: None,
            is_custom: false,
        })
    }
}

/// The grammar of a free-form tool's text, if the client gives one.
fn tool_input(tool: &Object<'_>) -> Result<Option<ToolInput>, ApiError> {
    let Some(format) = tool.get("format").map(|field| field.object()).transpose()? else { return Ok(None) };
    let kind = format.required("type")?;
    match kind.str()? {
        "text" => return Ok(None),
        "grammar" => {}
        _ => return Err(kind.must_be("text or grammar")),
    }
    // The definition stands beside the type, or in an object of its own.
    let nested = format.get("grammar").map(|field| field.object()).transpose()?;
    let grammar = nested.as_ref().unwrap_or(&format);
    let syntax = match grammar.get("syntax") {
        None => Syntax::Lark,
        Some(field) => match field.str()? {
            "lark" => Syntax::Lark,
            "regex" => Syntax::Regex,
            _ => return Err(field.must_be("lark or regex")),
        },
    };
    let definition = grammar.required("definition")?;
    let path = definition.path().to_owned();
    let grammar = InputGrammar { syntax, definition: definition.str()?.to_owned() };
    Ok(Some(ToolInput { grammar, path }))
}

/// A free-form tool is shown as a function of one text. What the text is held to is told in words, too, so that the model
/// knows what it is about.
fn custom_description(description: &str, input: Option<&ToolInput>) -> String {
    let Some(ToolInput { grammar, .. }) = input else { return description.to_owned() };
    let syntax = match grammar.syntax {
        Syntax::Lark => "lark",
        Syntax::Regex => "regex",
    };
    let gap = if description.is_empty() { "" } else { "\n\n" };
    let definition = grammar.definition.trim_end();
    format!("{description}{gap}The input must follow this grammar ({syntax}):\n{definition}")
}

fn custom_parameters() -> Json {
    let object = |entries: Vec<(&str, Json)>| {
        Json::Object(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let input = object(vec![("type", Json::from("string"))]);
    object(vec![
        ("type", Json::from("object")),
        ("properties", object(vec![(INPUT, input)])),
        ("required", Json::Array(vec![Json::from(INPUT)])),
    ])
}

/// Reads `tool_choice`: whether a tool is to be called, and the only ones that may be, if that is said.
///
/// # Errors
/// A value that means nothing, or that demands a tool which the model is not shown.
pub fn tool_choice(object: &Object<'_>, tools: &Tools) -> Result<(ToolChoice, Option<BTreeSet<String>>), ApiError> {
    let Some(field) = object.get("tool_choice") else { return Ok((ToolChoice::Auto, None)) };
    if field.json().as_str().is_some() {
        return Ok((mode(&field)?, None));
    }
    let choice = field.object()?;
    let kind = choice.required("type")?;
    match kind.str()? {
        "function" | "custom" => Ok((ToolChoice::Named(named(&choice)?), None)),
        "allowed_tools" => {
            let mut allowed = AllowedTools::new(&tools.shown);
            for field in choice.required("tools")?.array()? {
                let tool = field.object()?;
                if matches!(tool.required("type")?.str()?, "function" | "custom") {
                    allowed.add(&field, &named(&tool)?)?;
                }
            }
            Ok(allowed.choice(mode(&choice.required("mode")?)?))
        }
        other if tools.left_out.iter().any(|left_out| left_out.ends_with(&format!("{other:?}"))) => {
            let message = format!("{} demands a tool of type {other:?}, which this server does not run", field.path());
            Err(ApiError::unsupported(ErrorKind::UnsupportedValue, field.path(), message))
        }
        _ => Err(kind.must_be("\"function\", \"custom\" or \"allowed_tools\"")),
    }
}

fn mode(field: &Field<'_>) -> Result<ToolChoice, ApiError> {
    match field.str()? {
        "none" => Ok(ToolChoice::None),
        "auto" => Ok(ToolChoice::Auto),
        "required" | "any" => Ok(ToolChoice::Required),
        _ => Err(field.must_be("one of none, auto, required, or an object")),
    }
}

fn named(choice: &Object<'_>) -> Result<String, ApiError> {
    let namespace = choice.get("namespace").map(|field| field.str()).transpose()?;
    Ok(flat_name(namespace, choice.required("name")?.str()?))
}
