//! A field of a request, documented.

use serde_json::{Map, Value, json};

/// A field of a request.
pub(super) struct Property {
    pub(super) name: &'static str,
    /// Its JSON Schema, without the description. The first of its examples is one that is accepted.
    pub(super) schema: Value,
    pub(super) description: &'static str,
    pub(super) required: bool,
}

/// An optional field, with an example.
pub(super) fn optional(name: &'static str, mut schema: Value, example: Value, description: &'static str) -> Property {
    schema["examples"] = json!([example]);
    Property { name, schema, description, required: false }
}

/// A field that must be there, with an example.
pub(super) fn required(name: &'static str, schema: Value, example: Value, description: &'static str) -> Property {
    Property { required: true, ..optional(name, schema, example, description) }
}

/// A field that is known and has no effect.
pub(super) fn without_effect(name: &'static str) -> Property {
    Property { name, schema: json!({}), description: "Accepted, without effect.", required: false }
}

/// The schema of a request with these fields.
pub(super) fn object(properties: &[Property]) -> Value {
    let mut documented = Map::new();
    for property in properties {
        let mut schema = property.schema.clone();
        schema["description"] = json!(property.description);
        documented.insert(property.name.to_owned(), schema);
    }
    let required: Vec<&str> =
        properties.iter().filter(|property| property.required).map(|property| property.name).collect();
    json!({ "type": "object", "properties": documented, "required": required })
}
