//! The list of tools.

use std::collections::{BTreeSet, HashSet};

use ds4_chat::conversation::{Tool, ToolChoice};
use ds4_chat::json::Json;

use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::Field;

/// Longest name of a tool.
const LONGEST_NAME: usize = 128;

/// Collects the tools of a request and checks what holds for all of them.
#[derive(Debug)]
pub struct ToolList<'l> {
    tools: Vec<Tool>,
    names: HashSet<String>,
    bytes: usize,
    limits: &'l Limits,
}

impl<'l> ToolList<'l> {
    /// No tools.
    pub fn new(limits: &'l Limits) -> Self {
        Self { tools: Vec::new(), names: HashSet::new(), bytes: 0, limits }
    }

    /// Adds a tool. `name` is a field of the request or what was made of one; `parameters` a JSON Schema of an object.
    ///
    /// # Errors
    /// A name that is not possible or not the only one; parameters that are no object; too many or too large.
    pub fn add(
        &mut self,
        name: &Field<'_>,
        description: Option<&Field<'_>>,
        parameters: Option<&Field<'_>>,
    ) -> Result<(), ApiError> {
        let text = checked_name(name)?;
        let description = description.map(|field| field.str().map(str::to_owned)).transpose()?;
        if let Some(parameters) = parameters {
            check_schema(parameters)?;
        }
        if !self.names.insert(text.to_owned()) {
            let message =
                format!("{} is {text:?}, which another tool is called already; names must be unique", name.path());
            return Err(name.refused(message));
        }
        let tool = Tool::new(text, description, parameters.map(|field| field.json().clone()));
        self.bytes += tool.definition().to_string().len();
        self.tools.push(tool);
        if self.tools.len() > self.limits.tools {
            return Err(name.refused(format!("the request has more than {} tools", self.limits.tools)));
        }
        if self.bytes > self.limits.tool_bytes {
            let message =
                format!("the definitions of the tools are larger than {} bytes together", self.limits.tool_bytes);
            return Err(name.refused(message));
        }
        Ok(())
    }

    /// The tools in order.
    pub fn into_tools(self) -> Vec<Tool> {
        self.tools
    }
}

/// Collects the names of the only tools that a request allows.
#[derive(Debug)]
pub struct AllowedTools<'t> {
    tools: &'t [Tool],
    names: BTreeSet<String>,
}

impl<'t> AllowedTools<'t> {
    /// None of `tools`.
    pub fn new(tools: &'t [Tool]) -> Self {
        Self { tools, names: BTreeSet::new() }
    }

    /// Allows the tool of this name; `field` names it.
    ///
    /// # Errors
    /// There is no such tool.
    pub fn add(&mut self, field: &Field<'_>, name: &str) -> Result<(), ApiError> {
        if !self.tools.iter().any(|tool| tool.name() == name) {
            let message = format!("{} is {name:?}, which is none of the request's tools", field.path());
            return Err(field.refused(message));
        }
        self.names.insert(name.to_owned());
        Ok(())
    }

    /// The choice among these tools, of which `mode` says whether one is to be called.
    pub fn choice(self, mode: ToolChoice) -> (ToolChoice, Option<BTreeSet<String>>) {
        if self.names.is_empty() { (ToolChoice::None, None) } else { (mode, Some(self.names)) }
    }
}

fn checked_name<'a>(name: &Field<'a>) -> Result<&'a str, ApiError> {
    let text = name.str()?;
    let is_possible = (1..=LONGEST_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_possible { Ok(text) } else { Err(name.must_be("1 to 128 letters, digits, underscores and hyphens")) }
}

/// Schemas are shown to the model, not understood; but it must be one of an object.
fn check_schema(parameters: &Field<'_>) -> Result<(), ApiError> {
    let object = parameters.object()?;
    match object.get("type") {
        Some(kind) if kind.json() != &Json::from("object") => Err(kind.must_be("\"object\"")),
        _ => Ok(()),
    }
}
