//! The tools of a request, and which of them stand at the prompt's beginning.

use std::collections::{BTreeSet, HashMap, HashSet};

use ds4_chat::conversation::{Tool, ToolChoice};

use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::fields::{Field, Object};
use crate::request_fields::ToolList;

/// The tools of a request.
#[derive(Debug, Default)]
pub struct Tools {
    /// Those that the model sees from the beginning, in order.
    pub shown: Vec<Tool>,
    shown_names: HashSet<String>,
    /// Those that it sees where a `tool_reference` names them. Clients with many tools let the model search for them; shown
    /// at the beginning, each one found would change the prompt there, and everything cached would be lost.
    pub deferred: HashMap<String, Tool>,
    /// Tools whose schema is to be followed to the letter, by name.
    pub strict: BTreeSet<String>,
    /// Whether, which and how many tools are to be called.
    pub choice: ToolChoice,
    /// Whether the turn ends with its first call.
    pub single_call: bool,
    /// Paths of the definitions that mean nothing here: tools that the hosted service would run itself.
    pub dropped: Vec<String>,
}

impl Tools {
    /// Reads `tools` and `tool_choice`.
    ///
    /// # Errors
    /// The first field that is wrong, by its path.
    pub fn read(object: &Object<'_>, config: &ServerConfig) -> Result<Self, ApiError> {
        let mut list = ToolList::new(&config.limits);
        let mut deferred = HashSet::new();
        let mut tools = Self::default();
        let mut run_by_service = HashSet::new();
        let fields = object.get("tools").map(|field| field.array()).transpose()?.unwrap_or_default();
        for field in &fields {
            let tool = field.object()?;
            let kind = tool.get("type").map(|kind| kind.str()).transpose()?;
            let schema = tool.get("input_schema");
            if !matches!(kind, None | Some("custom")) && schema.is_none() {
                tools.dropped.push(field.path().to_owned());
                run_by_service.extend(tool.get("name").map(|name| name.str()).transpose()?);
                continue;
            }
            let name = tool.required("name")?;
            list.add(&name, tool.get("description").as_ref(), schema.as_ref())?;
            let flag = |key| Ok::<_, ApiError>(tool.get(key).map(|flag| flag.bool()).transpose()?.unwrap_or(false));
            if flag("defer_loading")? {
                deferred.insert(name.str()?);
            }
            if flag("strict")? {
                tools.strict.insert(name.str()?.to_owned());
            }
        }
        if let Some(field) = object.get("tool_choice") {
            tools.read_choice(&field, &run_by_service)?;
        }
        if let ToolChoice::Named(name) = &tools.choice {
            // What is demanded has to be seen.
            deferred.remove(name.as_str());
        }
        let all = list.into_tools();
        // A search that the service would run never finds anything here, and without any tool no call would be understood.
        let is_searchable = !run_by_service.iter().any(|name| name.starts_with("tool_search_tool"));
        if !is_searchable || deferred.len() == all.len() {
            deferred.clear();
        }
        for tool in all {
            if deferred.contains(tool.name()) {
                tools.deferred.insert(tool.name().to_owned(), tool);
            } else {
                tools.shown_names.insert(tool.name().to_owned());
                tools.shown.push(tool);
            }
        }
        Ok(tools)
    }

    /// Whether a tool of this name stands at the prompt's beginning.
    pub fn is_shown(&self, name: &str) -> bool {
        self.shown_names.contains(name)
    }

    fn read_choice(&mut self, field: &Field<'_>, run_by_service: &HashSet<&str>) -> Result<(), ApiError> {
        let choice = field.object()?;
        let kind = choice.required("type")?;
        self.choice = match kind.str()? {
            "auto" => ToolChoice::Auto,
            "any" => ToolChoice::Required,
            "none" => ToolChoice::None,
            "tool" => {
                let name = choice.required("name")?;
                let text = name.str()?;
                if run_by_service.contains(text) {
                    let message = format!(
                        "{} is {text:?}, a tool that the hosted service runs itself; this server has no such tools",
                        name.path()
                    );
                    return Err(ApiError::unsupported(ErrorKind::UnsupportedValue, name.path(), message));
                }
                ToolChoice::Named(text.to_owned())
            }
            _ => return Err(kind.must_be("one of auto, any, tool, none")),
        };
        self.single_call =
            choice.get("disable_parallel_tool_use").map(|field| field.bool()).transpose()?.unwrap_or(false);
        Ok(())
    }
}
