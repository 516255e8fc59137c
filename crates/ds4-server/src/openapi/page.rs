//! The document as a page: made here, so that it needs no script and fetches nothing.

use serde_json::Value;

/// What the browser lets the page do: nothing but its own style.
pub(super) const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}\
    code{font-size:.9em}table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;\
    border-top:1px solid #8884}summary{cursor:pointer;padding:.3rem 0}b{display:inline-block;min-width:4.5rem}";

/// The page.
pub(super) fn html(document: &Value) -> String {
    let info = &document["info"];
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><h1>{title} {version}</h1><p>{description}</p>\
         <p><a href=\"/openapi.json\">/openapi.json</a> is the same for programs.</p>",
        title = escaped(&info["title"]),
        version = escaped(&info["version"]),
        description = escaped(&info["description"]),
    );
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let method = method.to_uppercase();
            out.push_str(&format!(
                "<details><summary><b>{method}</b> <code>{}</code> {}</summary>",
                escape(path),
                escaped(&operation["summary"])
            ));
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let parameters: Vec<String> =
                parameters.map(|found| row(&found["name"], &found["schema"], &found["description"], false)).collect();
            table(&mut out, &parameters);
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            let name = schema.as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            let schema = &document["components"]["schemas"][name];
            let is_required =
                |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields: Vec<String> = fields
                .map(|(name, field)| row(&Value::from(name.as_str()), field, &field["description"], is_required(name)))
                .collect();
            table(&mut out, &fields);
            out.push_str("</details>");
        }
    }
    out.push_str("</html>");
    out
}

fn table(out: &mut String, rows: &[String]) {
    if !rows.is_empty() {
        out.push_str(&format!("<table><tr><th>field<th>values<th>meaning{}</table>", rows.concat()));
    }
}

fn row(name: &Value, schema: &Value, description: &Value, is_required: bool) -> String {
    let needed = if is_required { " (required)" } else { "" };
    format!("<tr><td><code>{}</code>{needed}<td>{}<td>{}", escaped(name), escape(&values(schema)), escaped(description))
}

/// The values of a schema in a few words.
fn values(schema: &Value) -> String {
    if let Some(listed) = schema["enum"].as_array() {
        return listed.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
    }
    if let Some(ways) = schema["anyOf"].as_array() {
        return ways.iter().map(values).collect::<Vec<_>>().join(" or ");
    }
    if let Some(only) = schema.get("const") {
        return only.to_string();
    }
    let kind = schema["type"].as_str().unwrap_or_default();
    let least = schema.get("minimum").map(|least| format!(" from {least}"));
    let least = least.or_else(|| schema.get("exclusiveMinimum").map(|least| format!(" above {least}")));
    let most = schema.get("maximum").map(|most| format!(" to {most}"));
    format!("{kind}{}{}", least.unwrap_or_default(), most.unwrap_or_default())
}

fn escaped(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
