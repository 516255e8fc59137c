//! The parameters of strict tools: which values their schemas allow, in the two forms that DSML has.
//!
//! A string is written as it is, with `string="true"`; anything else is JSON, with `string="false"`. A schema that allows both gives
//! both ways. What a text cannot be held to is refused, because strict is a promise.

use ds4_chat::json::Json;
use llguidance::regex_to_lark;

use crate::calls::lark_string;

/// A parameter of a strict tool.
pub(crate) struct Parameter<'s> {
    pub(crate) name: &'s str,
    pub(crate) required: bool,
    /// Ways to write its value, at least one.
    pub(crate) values: Vec<Value>,
}

/// A way to write a value.
pub(crate) enum Value {
    /// Any text.
    AnyText,
    /// Text that this terminal of the grammar matches.
    Text(String),
    /// JSON of this schema.
    Json(Json),
}

/// Deepest chain of references and unions.
const DEEPEST: usize = 16;

/// Keywords of the parameters' own schema that are understood or mean nothing for the values.
const ROOT_KEYWORDS: [&str; 15] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "$defs",
    "definitions",
    "description",
    "title",
    "default",
    "examples",
    "$schema",
    "$id",
    "$comment",
    "strict",
    "x-guidance",
];

/// Keywords that say nothing about which values are valid.
const ANNOTATIONS: [&str; 8] =
    ["description", "title", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly"];

/// Types that a JSON value can have, beside strings.
const JSON_TYPES: [&str; 5] = ["null", "boolean", "number", "array", "object"];

/// The parameters of `schema` in order.
///
/// # Errors
/// What cannot be enforced, in words for whoever wrote the schema.
pub(crate) fn strict_parameters(schema: &Json) -> Result<Vec<Parameter<'_>>, String> {
    let entries = schema.as_object().ok_or("they must be a JSON Schema of an object")?;
    if let Some((key, _)) = entries.iter().find(|(key, _)| !ROOT_KEYWORDS.contains(&key.as_str())) {
        return Err(format!("the keyword {key:?} is not possible beside \"properties\" in strict parameters"));
    }
    let required = match schema.get("required") {
        None => Vec::new(),
        Some(names) => {
            let names = names.as_array().ok_or("\"required\" must be an array of names")?;
            let names: Option<Vec<&str>> = names.iter().map(Json::as_str).collect();
            names.ok_or("\"required\" must be an array of names")?
        }
    };
    let properties = match schema.get("properties") {
        None => &[],
        Some(properties) => properties.as_object().ok_or("\"properties\" must be an object")?,
    };
    if let Some(name) = required.iter().find(|name| !properties.iter().any(|(key, _)| key == *name)) {
        return Err(format!("{name:?} is required, but it is no property"));
    }
    let root = Root(schema);
    properties.iter().map(|(name, schema)| root.parameter(name, schema, &required)).collect()
}

/// The parameters' own schema, to which references point.
struct Root<'s>(&'s Json);

impl Root<'_> {
    fn parameter<'n>(&self, name: &'n str, schema: &Json, required: &[&str]) -> Result<Parameter<'n>, String> {
        // The markup has no escapes, so a name must not end its own tag.
        if name.is_empty() || name.contains(['"', '<', '>', '\n', '\r']) {
            return Err(format!("the name {name:?} of a parameter cannot be written in a call"));
        }
        let mut values = Vec::new();
        self.values(schema, DEEPEST, &mut values).map_err(|reason| format!("the parameter {name:?}: {reason}"))?;
        if values.is_empty() {
            return Err(format!("the parameter {name:?}: no value is valid"));
        }
        Ok(Parameter { name, required: required.contains(&name), values })
    }

    /// Adds the ways to write a value of `schema`.
    fn values(&self, schema: &Json, depth: usize, out: &mut Vec<Value>) -> Result<(), String> {
        let depth = depth.checked_sub(1).ok_or("its references or unions are nested too deeply")?;
        let entries = match schema {
            Json::Bool(true) => &[],
            Json::Object(entries) => entries.as_slice(),
            Json::Bool(false) => return Ok(()),
            _ => return Err("a schema must be an object, true or false".to_owned()),
        };
        let constraints: Vec<&(String, Json)> =
            entries.iter().filter(|(key, _)| !ANNOTATIONS.contains(&key.as_str())).collect();
        if let [(key, value)] = constraints.as_slice() {
            match (key.as_str(), value) {
                ("$ref", Json::String(reference)) => return self.values(self.resolve(reference)?, depth, out),
                ("anyOf", Json::Array(ways)) => return ways.iter().try_for_each(|way| self.values(way, depth, out)),
                ("allOf", Json::Array(parts)) if parts.len() == 1 => return self.values(&parts[0], depth, out),
                _ => {}
            }
        }
        if let Some(allowed) = schema.get("const") {
            return self.listed(schema, std::slice::from_ref(allowed), out);
        }
        if let Some(allowed) = schema.get("enum") {
            return self.listed(schema, allowed.as_array().ok_or("\"enum\" must be an array")?, out);
        }
        let types = types(schema)?;
        if types.contains(&"string") {
            out.push(text(schema)?);
        }
        let others: Vec<Json> = types.into_iter().filter(|kind| *kind != "string").map(Json::from).collect();
        if !others.is_empty() {
            out.push(Value::Json(self.with_definitions(schema, "type", Json::Array(others))));
        }
        Ok(())
    }

    /// Values that are listed one by one: the strings among them as text.
    fn listed(&self, schema: &Json, allowed: &[Json], out: &mut Vec<Value>) -> Result<(), String> {
        const KNOWN: [&str; 3] = ["const", "enum", "type"];
        let entries = schema.as_object().unwrap_or_default();
        let other =
            entries.iter().find(|(key, _)| !ANNOTATIONS.contains(&key.as_str()) && !KNOWN.contains(&key.as_str()));
        if let Some((key, _)) = other {
            return Err(format!("the keyword {key:?} is not possible beside listed values in strict parameters"));
        }
        let types = types(schema)?;
        let (texts, others): (Vec<&Json>, Vec<&Json>) = allowed.iter().partition(|value| value.as_str().is_some());
        if !texts.is_empty() && types.contains(&"string") {
            let texts: Vec<String> = texts.iter().filter_map(|text| text.as_str()).map(lark_string).collect();
            out.push(Value::Text(texts.join(" | ")));
        }
        if !others.is_empty() {
            let others = others.into_iter().cloned().collect();
            let mut listed = vec![("enum".to_owned(), Json::Array(others))];
            listed.extend(schema.get("type").map(|kind| ("type".to_owned(), kind.clone())));
            out.push(Value::Json(Json::Object(listed)));
        }
        Ok(())
    }

    fn resolve(&self, reference: &str) -> Result<&Json, String> {
        let definition = ["#/$defs/", "#/definitions/"].iter().find_map(|place| {
            let name = reference.strip_prefix(place)?;
            self.0.get(place.trim_matches(['#', '/']))?.get(name)
        });
        definition.ok_or_else(|| format!("the reference {reference:?} leads to no definition in \"$defs\""))
    }

    /// `schema` with another value of `key`, and with the definitions that its references lead to.
    fn with_definitions(&self, schema: &Json, key: &str, value: Json) -> Json {
        let own = schema.as_object().unwrap_or_default().iter().filter(|(other, _)| other != key).cloned();
        let definitions = ["$defs", "definitions"]
            .into_iter()
            .filter_map(|place| self.0.get(place).map(|found| (place.to_owned(), found.clone())));
        Json::Object(own.chain([(key.to_owned(), value)]).chain(definitions).collect())
    }
}

/// The types that `schema` allows.
fn types(schema: &Json) -> Result<Vec<&str>, String> {
    let all = || std::iter::once("string").chain(JSON_TYPES).collect();
    match schema.get("type") {
        None => Ok(all()),
        Some(Json::String(kind)) => Ok(vec![kind]),
        Some(Json::Array(kinds)) => {
            let kinds: Option<Vec<&str>> = kinds.iter().map(Json::as_str).collect();
            kinds.ok_or_else(|| "\"type\" must be a name or an array of names".to_owned())
        }
        Some(_) => Err("\"type\" must be a name or an array of names".to_owned()),
    }
}

/// The texts that a schema of strings allows.
fn text(schema: &Json) -> Result<Value, String> {
    const KNOWN: [&str; 5] = ["type", "pattern", "format", "minLength", "maxLength"];
    let entries = schema.as_object().unwrap_or_default();
    let is_known = |key: &str| KNOWN.contains(&key) || ANNOTATIONS.contains(&key);
    // Keywords for other types mean nothing for a string.
    const FOR_ALL: [&str; 7] = ["$ref", "anyOf", "oneOf", "allOf", "not", "if", "contentEncoding"];
    if let Some((key, _)) = entries.iter().find(|(key, _)| FOR_ALL.contains(&key.as_str()) && !is_known(key)) {
        return Err(format!("the keyword {key:?} cannot be enforced for a string in strict parameters"));
    }
    let mut parts = Vec::new();
    let bound = |key: &str| -> Result<Option<u32>, String> {
        let Some(value) = schema.get(key) else { return Ok(None) };
        match value {
            Json::Number(text) => text.parse().map(Some).map_err(|_| format!("{key:?} is no length: {text}")),
            _ => Err(format!("{key:?} must be a number")),
        }
    };
    let (least, most) = (bound("minLength")?, bound("maxLength")?);
    if least.is_some() || most.is_some() {
        let most = most.map_or_else(String::new, |most| most.to_string());
        parts.push(format!("/(?s:.{{{},{most}}})/", least.unwrap_or(0)));
    }
    if let Some(pattern) = schema.get("pattern") {
        parts.push(searched(pattern.as_str().ok_or("\"pattern\" must be a string")?)?);
    }
    if let Some(format) = schema.get("format") {
        let name = format.as_str().ok_or("\"format\" must be a string")?;
        let pattern = format_pattern(name).ok_or_else(|| format!("the format {name:?} cannot be enforced"))?;
        parts.push(format!("/{pattern}/"));
    }
    Ok(if parts.is_empty() { Value::AnyText } else { Value::Text(parts.join(" & ")) })
}

/// A terminal for texts in which the regular expression is found somewhere, as JSON Schema has it.
fn searched(pattern: &str) -> Result<String, String> {
    let Anchored { inner, at_start, at_end } = anchored(pattern);
    let anything = |is_anchored: bool| if is_anchored { "" } else { "(?s:.*)" };
    let (before, after) = (anything(at_start), anything(at_end));
    if inner.is_empty() {
        return Ok(if before.is_empty() && after.is_empty() { "\"\"".to_owned() } else { "/(?s:.*)/".to_owned() });
    }
    Ok(format!("/{before}(?:{}){after}/", regex_to_lark(inner, "dw")))
}

/// A regular expression without the anchors around it.
pub(crate) struct Anchored<'p> {
    pub(crate) inner: &'p str,
    pub(crate) at_start: bool,
    pub(crate) at_end: bool,
}

/// Takes `^` and `$` off a regular expression. They belong to the first or last of several alternatives only, so these keep
/// them.
pub(crate) fn anchored(pattern: &str) -> Anchored<'_> {
    if has_alternatives(pattern) {
        return Anchored { inner: pattern, at_start: false, at_end: false };
    }
    let started = pattern.strip_prefix('^');
    let inner = started.unwrap_or(pattern);
    let ended =
        inner.strip_suffix('$').filter(|rest| rest.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 0);
    Anchored { inner: ended.unwrap_or(inner), at_start: started.is_some(), at_end: ended.is_some() }
}

/// Whether a regular expression has alternatives outside of any group.
fn has_alternatives(pattern: &str) -> bool {
    let (mut depth, mut in_class, mut escaped) = (0usize, false, false);
    for character in pattern.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            _ if in_class => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// Regular expressions, in the grammar's dialect, of formats that a text can be held to.
fn format_pattern(format: &str) -> Option<String> {
    const DATE: &str = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
    const TIME: &str = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
    const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    const LABEL: &str = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
    Some(match format {
        "date" => DATE.to_owned(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{DATE}T{TIME}"),
        "ipv4" => format!(r"{OCTET}(\.{OCTET}){{3}}"),
        "uuid" => "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}".to_owned(),
        "hostname" => format!(r"{LABEL}(\.{LABEL}){{0,8}}"),
        "email" => format!(r"[A-Za-z0-9._%+-]{{1,64}}@{LABEL}(\.{LABEL}){{1,8}}"),
        "uri" => r"[A-Za-z][A-Za-z0-9+.-]{0,30}:[!-;=?-~]{1,2000}".to_owned(),
        _ => return None,
    })
}
