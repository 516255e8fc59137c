//! Thinking mode and effort.

use ds4_chat::render::{Effort, Thinking};

use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::fields::Field;

/// Where a request says how to think. All may be absent.
#[derive(Debug, Default)]
pub struct ThinkingFields<'a> {
    /// `thinking`: `{"type": "enabled" | "adaptive" | "disabled"}`.
    pub thinking: Option<Field<'a>>,
    /// `think`: true or false.
    pub think: Option<Field<'a>>,
    /// The effort, by whatever name: `reasoning_effort`, `reasoning.effort`, `output_config.effort`.
    pub effort: Option<Field<'a>>,
    /// Name of the model: `deepseek-chat` and `deepseek-reasoner` are the hosted service's names of the two modes.
    pub model: &'a str,
}

/// The thinking mode that a request asks for, or the server's.
///
/// # Errors
/// A value that means nothing.
pub fn thinking(fields: &ThinkingFields<'_>, config: &ServerConfig) -> Result<Thinking, ApiError> {
    let effort = fields.effort.as_ref().map(effort).transpose()?;
    let switch = match (&fields.thinking, &fields.think) {
        (Some(field), _) => Some(thinking_type(field)?),
        (None, Some(field)) => Some(field.bool()?),
        (None, None) => None,
    };
    let usual = match config.thinking {
        Thinking::On(effort) => effort,
        Thinking::Off => Effort::default(),
    };
    Ok(match (switch, effort) {
        (Some(false), _) | (None, Some(None)) => Thinking::Off,
        (_, Some(Some(effort))) => Thinking::On(effort),
        (Some(true), _) => Thinking::On(usual),
        (None, None) => match fields.model {
            "deepseek-chat" => Thinking::Off,
            "deepseek-reasoner" => Thinking::On(usual),
            _ => config.thinking,
        },
    })
}

fn thinking_type(field: &Field<'_>) -> Result<bool, ApiError> {
    // A budget of tokens, which the model does not know, is ignored; so is how the client displays it.
    let kind = field.object()?.required("type")?;
    match kind.str()? {
        "enabled" | "adaptive" | "auto" => Ok(true),
        "disabled" => Ok(false),
        _ => Err(kind.must_be("\"enabled\", \"adaptive\" or \"disabled\"")),
    }
}

/// `None`: no thinking.
fn effort(field: &Field<'_>) -> Result<Option<Effort>, ApiError> {
    Ok(match field.str()? {
        "none" => None,
        "minimal" | "low" => Some(Effort::Low),
        "medium" | "high" | "xhigh" => Some(Effort::High),
        "max" | "ultra" => Some(Effort::Max),
        _ => return Err(field.must_be("one of none, minimal, low, medium, high, xhigh, max")),
    })
}

#[cfg(test)]
mod tests {
    use ds4_chat::json::Json;

    use super::*;
    use crate::fields::Object;

    fn mode(json: &str) -> Result<Thinking, String> {
        let json = Json::parse(json).expect("valid");
        let object = Object::root(&json).expect("an object");
        let model = object.get("model").and_then(|field| field.str().ok()).unwrap_or_default();
        let fields = ThinkingFields {
            thinking: object.get("thinking"),
            think: object.get("think"),
            effort: object.get("reasoning_effort"),
            model,
        };
        thinking(&fields, &ServerConfig::default()).map_err(|error| error.param.unwrap_or_default())
    }

    #[test]
    fn every_way_to_say_it_is_understood() {
        let (low, high, max) = (Thinking::On(Effort::Low), Thinking::On(Effort::High), Thinking::On(Effort::Max));
        for (json, expected) in [
            (r"{}", high),
            (r#"{"thinking": {"type": "disabled"}}"#, Thinking::Off),
            (r#"{"thinking": {"type": "enabled", "budget_tokens": 5}}"#, high),
            (r#"{"thinking": {"type": "adaptive", "display": "omitted"}, "reasoning_effort": "max"}"#, max),
            (r#"{"thinking": {"type": "enabled"}, "reasoning_effort": "none"}"#, high),
            (r#"{"thinking": {"type": "disabled"}, "reasoning_effort": "max"}"#, Thinking::Off),
            (r#"{"think": false}"#, Thinking::Off),
            (r#"{"think": true, "reasoning_effort": "low"}"#, low),
            (r#"{"reasoning_effort": "none"}"#, Thinking::Off),
            (r#"{"reasoning_effort": "minimal"}"#, low),
            (r#"{"reasoning_effort": "medium"}"#, high),
            (r#"{"reasoning_effort": "xhigh"}"#, high),
            (r#"{"reasoning_effort": "ultra"}"#, max),
            (r#"{"model": "deepseek-chat"}"#, Thinking::Off),
            (r#"{"model": "deepseek-chat", "reasoning_effort": "low"}"#, low),
            (r#"{"model": "deepseek-reasoner"}"#, high),
            (r#"{"thinking": null, "reasoning_effort": null}"#, high),
        ] {
            assert_eq!(mode(json), Ok(expected), "{json}");
        }
        for (json, field) in [
            (r#"{"reasoning_effort": "much"}"#, "reasoning_effort"),
            (r#"{"reasoning_effort": 3}"#, "reasoning_effort"),
            (r#"{"thinking": "enabled"}"#, "thinking"),
            (r#"{"thinking": {"type": "on"}}"#, "thinking.type"),
            (r#"{"thinking": {}}"#, "thinking.type"),
            (r#"{"think": 1}"#, "think"),
        ] {
            assert_eq!(mode(json), Err(field.to_owned()), "{json}");
        }
    }
}
