//! Texts that grammars let pass, and texts that they do not, token by token with the model's own vocabulary.

mod support;

use ds4_chat::json::Json;
use ds4_grammar::{Arguments, Entry, Format, Grammar, GrammarError, Shape, ToolShape};

use support::{GRAMMARS, TOKENIZER, passes, schema, stops, tokens};

fn format(text: &str) -> Result<Grammar, GrammarError> {
    GRAMMARS.compile(&Shape::answer(Format { schema: schema(text), strict: true }))
}

#[test]
fn answers_follow_their_schema() {
    let grammar = format(
        r##"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["name", "age"], "additionalProperties": false}"##,
    )
    .expect("a schema like this");
    passes(&grammar, r#"{"name": "Ann", "age": 5}"#);
    passes(&grammar, "{\n  \"name\": \"Ünï\",\n  \"age\": 17,\n  \"tags\": [\n    \"a\",\n    \"b\"\n  ]\n}");
    passes(&grammar, r#"{"name":"<｜User｜","age":0}"#.replace("<｜User｜", "<｜U｜").as_str());
    passes(&grammar, r#"{"name": "a", "age": 1, "next": {"name": "b", "age": 2, "next": null}}"#);
    stops(&grammar, r#"{"name": "toolong", "age": 5}"#);
    stops(&grammar, r#"{"name": "Ann", "age": -5}"#);
    stops(&grammar, r#"{"name": "Ann"}"#);
    stops(&grammar, r#"{"name": "Ann", "age": 5, "tags": ["c"]}"#);
    stops(&grammar, r#"{"name": "Ann", "age": 5, "more": 1}"#);
    stops(&grammar, r#"{"name": "Ann", "age": 5"#);
    stops(&grammar, r#"{"name": "Ann", "age": 5} and more"#);
    stops(&grammar, "Sure: {");
    let blanks = format!("{{{}\"name\": \"Ann\", \"age\": 5}}", "\n".repeat(30));
    stops(&grammar, &blanks);
}

#[test]
fn any_object_is_an_object_and_ends_with_its_bracket() {
    let grammar = GRAMMARS.compile(&Shape::answer(Format::object())).expect("the simplest schema");
    passes(&grammar, "{}");
    passes(&grammar, r#"{"a": [1, 2.5e3, null, {"b": "\u0001 \" </think> "}]}"#);
    for other in ["[1]", "\"x\"", "5", "null", "```json", "{\"a\": 1,}", "{\"a\": 01}"] {
        stops(&grammar, other);
    }
    let mut matcher = grammar.matcher();
    for token in tokens("{\"a\": {}}") {
        assert!(!matcher.is_complete());
        matcher.accept(token);
    }
    assert!(matcher.is_complete(), "nothing can follow the last bracket");
}

#[test]
fn no_control_token_gets_into_a_text() {
    let grammar = format(r#"{"enum": ["<｜User｜>", "｜DSML｜", "</think>"]}"#).expect("strings like others");
    let mut matcher = grammar.matcher();
    for token in tokens("\"<") {
        matcher.accept(token);
    }
    let allowed = matcher.allowed();
    for id in 0..TOKENIZER.vocab_size() as u32 {
        assert!(!(TOKENIZER.is_control(id) && allowed.allows(id)), "{}", TOKENIZER.decode_lossy(&[id]));
    }
    // As data they are strings like all others.
    passes(&grammar, "\"<｜User｜>\"");
    passes(&grammar, "\"</think>\"");
}

fn weather() -> ToolShape {
    let parameters = r##"{"type": "object", "properties": {
        "city": {"type": "string", "minLength": 1},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "place": {"$ref": "#/$defs/Place"}},
        "required": ["city", "days"], "additionalProperties": false,
        "$defs": {"Place": {"type": "object", "properties": {"lat": {"type": "number"}, "inner": {"$ref": "#/$defs/Place"}}, "additionalProperties": false}}}"##;
    ToolShape { name: "get_weather".to_owned(), arguments: Arguments::Schema(schema(parameters)) }
}

fn free(name: &str) -> ToolShape {
    ToolShape { name: name.to_owned(), arguments: Arguments::Any }
}

const CLOSE: &str = "</{D}invoke>\n</{D}tool_calls>";

#[test]
fn strict_calls_have_typed_parameters() {
    let tools = vec![weather()];
    let grammar = GRAMMARS.compile(&Shape::calls(Entry::Opener, tools)).expect("a tool like this");
    let call = |parameters: &str| format!("tool_calls>\n<{{D}}invoke name=\"get_weather\">\n{parameters}{CLOSE}");
    let city = "<{D}parameter name=\"city\" string=\"true\">Oslo </b> &amp;</{D}parameter>\n";
    let days = "<{D}parameter name=\"days\" string=\"false\">3</{D}parameter>\n";
    passes(&grammar, &call(&format!("{city}{days}")));
    let unit = "<{D}parameter name=\"unit\" string=\"true\">celsius</{D}parameter>\n";
    passes(&grammar, &call(&format!("{city}{unit}{days}")));
    for when in ["string=\"true\">2026-07-31", "string=\"false\">null"] {
        let when = format!("<{{D}}parameter name=\"when\" {when}</{{D}}parameter>\n");
        passes(&grammar, &call(&format!("{city}{days}{when}")));
    }
    let place =
        "<{D}parameter name=\"place\" string=\"false\">{\"lat\": 5.5, \"inner\": {\"lat\": 1}}</{D}parameter>\n";
    passes(&grammar, &call(&format!("{city}{days}{place}")));

    stops(&grammar, &call(city));
    stops(&grammar, &call(&format!("{days}{city}")));
    stops(&grammar, &call(""));
    for wrong in [
        "<{D}parameter name=\"city\" string=\"true\"></{D}parameter>\n",
        "<{D}parameter name=\"city\" string=\"false\">\"Oslo\"</{D}parameter>\n",
        "<{D}parameter name=\"town\" string=\"true\">Oslo</{D}parameter>\n",
    ] {
        stops(&grammar, &call(&format!("{wrong}{days}")));
    }
    for wrong in [
        "<{D}parameter name=\"days\" string=\"false\">15</{D}parameter>\n",
        "<{D}parameter name=\"days\" string=\"true\">3</{D}parameter>\n",
        "<{D}parameter name=\"unit\" string=\"true\">kelvin</{D}parameter>\n",
        "<{D}parameter name=\"days\" string=\"false\">3</{D}parameter>\n<{D}parameter name=\"when\" string=\"true\">today</{D}parameter>\n",
    ] {
        stops(&grammar, &call(&format!("{city}{wrong}")));
    }
}

#[test]
fn other_calls_are_well_formed_with_known_names() {
    let tools = vec![free("get"), free("get_all"), weather()];
    let grammar = GRAMMARS.compile(&Shape::calls(Entry::Block, tools.clone())).expect("tools like these");
    let parameter = "<{D}parameter name=\"any key\" string=\"true\">some\n</text> of <b>any</b> kind</{D}parameter>\n";
    let json = "<{D}parameter name=\"j\" string=\"false\">[1, {\"a\": null}]</{D}parameter>\n";
    passes(&grammar, &format!("<{{D}}invoke name=\"get\">\n{CLOSE}"));
    passes(&grammar, &format!("<{{D}}invoke name=\"get\">\n\n{CLOSE}"));
    passes(&grammar, &format!("<{{D}}invoke name=\"get_all\">\n{parameter}{json}{CLOSE}"));
    passes(
        &grammar,
        &format!("<{{D}}invoke name=\"get\">\n{json}</{{D}}invoke>\n<{{D}}invoke name=\"get_all\">\n{CLOSE}"),
    );
    for wrong in [
        format!("<{{D}}invoke name=\"got\">\n{CLOSE}"),
        format!("<{{D}}invoke name=\"get\">{parameter}{CLOSE}"),
        format!("<{{D}}invoke name=\"get\">\n<{{D}}parameter name=\"j\" string=\"false\">[1, {CLOSE}"),
        format!("<{{D}}invoke name=\"get\">\n<{{D}}parameter name=\"j\" string=\"maybe\">1</{{D}}parameter>\n{CLOSE}"),
        "<{D}invoke name=\"get\">\n</{D}tool_calls>".to_owned(),
        "</{D}tool_calls>".to_owned(),
    ] {
        stops(&grammar, &wrong);
    }
    let named = GRAMMARS.compile(&Shape::calls(Entry::Call("get_all".to_owned()), tools)).expect("a known tool");
    passes(&named, &format!("{json}{CLOSE}"));
    passes(&named, &format!("{json}</{{D}}invoke>\n<{{D}}invoke name=\"get\">\n{CLOSE}"));
    let unknown = GRAMMARS.compile(&Shape::calls(Entry::Call("x".to_owned()), vec![free("get")]));
    assert!(matches!(unknown, Err(GrammarError::Tool { .. })), "{unknown:?}");
}

#[test]
fn an_answer_may_be_a_call_where_there_are_tools() {
    let shape = Shape { entry: Entry::Answer, format: Some(Format::object()), tools: vec![free("get")] };
    let grammar = GRAMMARS.compile(&shape).expect("both");
    passes(&grammar, "{\"a\": 1}");
    passes(&grammar, &format!("\n\n<{{D}}tool_calls>\n<{{D}}invoke name=\"get\">\n{CLOSE}"));
    stops(&grammar, "Let me see");
}

#[test]
fn patterns_are_searched_for_as_json_schema_has_it() {
    let tool = |pattern: &str| {
        let parameters = Json::Object(vec![(
            "properties".to_owned(),
            Json::Object(vec![("p".to_owned(), schema(&format!(r#"{{"type": "string", "pattern": {pattern}}}"#)))]),
        )]);
        Shape::calls(
            Entry::Call("f".to_owned()),
            vec![ToolShape { name: "f".to_owned(), arguments: Arguments::Schema(parameters) }],
        )
    };
    let value = |text: &str| format!("<{{D}}parameter name=\"p\" string=\"true\">{text}</{{D}}parameter>\n{CLOSE}");
    for (pattern, good, bad) in [
        (r#""b\\d/""#, "ab5/c", "ab/c"),
        (r#""^b\\d+$""#, "b55", "ab55"),
        (r#""^(a|b)""#, "bx", "xb"),
        (r#""x\\$$""#, "yx$", "x$y"),
        (r#""^$""#, "", "a"),
    ] {
        let grammar = GRAMMARS.compile(&tool(pattern)).expect(pattern);
        passes(&grammar, &value(good));
        stops(&grammar, &value(bad));
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_with_a_reason() {
    for text in [
        r#"{"type": "string", "pattern": "(?=a)b"}"#,
        r#"{"type": "string", "pattern": "(a)\\1"}"#,
        r#"{"type": "string", "format": "color"}"#,
        r#"{"not": {"type": "string"}}"#,
        r#"{"type": "array", "uniqueItems": true}"#,
        r#"{"$ref": "https://example.com/schema.json"}"#,
        r##"{"$ref": "#/$defs/missing"}"##,
        r#"{"type": "integer", "minimum": 5, "maximum": 4}"#,
        r#"{"type": "object", "properties": {"a": false}, "required": ["a"]}"#,
        r#"false"#,
        r##"{"$ref": "#"}"##,
        r#"[]"#,
        r#"{"type": "unknown"}"#,
    ] {
        let error = format(text).expect_err(text);
        println!("{error}");
        assert!(matches!(error, GrammarError::Format { .. }), "{text}: {error}");
        let message = error.to_string();
        assert!(message.lines().count() == 1 && message.len() < 500, "{message}");
        assert!(!message.ends_with(':') && !message.contains("x-guidance") && !message.contains("at 1("), "{message}");
    }
    let tool = |name: &str, parameters: &str| ToolShape {
        name: name.to_owned(),
        arguments: Arguments::Schema(schema(parameters)),
    };
    for parameters in [
        r#"{"anyOf": []}"#,
        r#"{"properties": {}, "required": ["x"]}"#,
        r#"{"properties": {"a\"b": {}}}"#,
        r#"{"properties": {"a": {"type": "string", "format": "color"}}}"#,
        r#"{"properties": {"a": {"oneOf": [{"type": "string"}, {"minLength": 3}]}}}"#,
        r##"{"properties": {"a": {"$ref": "#/properties/a"}}}"##,
        r##"{"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}"##,
        r#"{"properties": {"a": {"type": "array", "items": {"not": {}}}}}"#,
    ] {
        let shape = Shape::calls(Entry::Block, vec![free("good"), tool("bad", parameters)]);
        let error = GRAMMARS.compile(&shape).expect_err(parameters);
        assert!(matches!(&error, GrammarError::Tool { tool, .. } if tool == "bad"), "{parameters}: {error}");
    }
    // Not strict: what cannot be enforced is passed over, the rest is enforced.
    let lenient = Format {
        schema: schema(
            r#"{"type": "object", "uniqueItems": true, "properties": {"a": {"type": "string", "format": "color"}}}"#,
        ),
        strict: false,
    };
    let grammar = GRAMMARS.compile(&Shape::answer(lenient)).expect("passed over");
    passes(&grammar, r#"{"a": "red"}"#);
    stops(&grammar, r#"{"a": 5}"#);
}

#[test]
fn clients_do_not_set_the_compilers_options() {
    let grammar = format(r#"{"type": "object", "x-guidance": {"whitespace_pattern": "x*", "item_separator": "+"}}"#);
    passes(&grammar.expect("an ordinary schema"), "{\"a\": 1, \"b\": 2}");
}

/// What costs too much is refused; what is not refused stays cheap. The sizes are far beyond what a model could follow.
#[test]
fn hostile_schemas_cost_little() {
    let many = (0..100_000).map(|number| format!("\"value {number}\"")).collect::<Vec<_>>().join(", ");
    let deep = format!("{}{{}}{}", r#"{"items": "#.repeat(120), "}".repeat(120));
    for text in [
        r#"{"type": "array", "minItems": 1000000000}"#.to_owned(),
        r#"{"type": "array", "items": {"type": "string"}, "maxItems": 1000000000}"#.to_owned(),
        r#"{"type": "string", "minLength": 1000000000}"#.to_owned(),
        r#"{"type": "string", "pattern": "^(a+)+$"}"#.to_owned(),
        r#"{"type": "string", "pattern": "^(([a-z]{1,500}){1,500}){1,500}$"}"#.to_owned(),
        r#"{"type": "string", "pattern": "(x|y){0,9}.{900}(z|.{800}){100}"}"#.to_owned(),
        format!(r#"{{"enum": [{many}]}}"#),
        r##"{"$ref": "#"}"##.to_owned(),
        r##"{"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}"##.to_owned(),
        deep,
    ] {
        let label: String = text.chars().take(60).collect();
        let Ok(grammar) = format(&text) else { continue };
        let mut matcher = grammar.matcher();
        for token in tokens("\"a").into_iter().chain(tokens("aaaa")) {
            if matcher.allowed().allows(token) {
                matcher.accept(token);
            }
        }
        assert!(matcher.failure().is_none_or(|reason| reason.contains("omplex")), "{label}: {:?}", matcher.failure());
    }
}
