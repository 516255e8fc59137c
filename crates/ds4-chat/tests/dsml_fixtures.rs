//! The output parser against recorded outputs, fed in every way.

use ds4_chat::debug::parse_line;
use ds4_chat::dsml::{End, Options, ParsedOutput, Parser, Start, TokenParser};
use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;
use serde_json::{Value, json};

fn cases() -> Vec<Value> {
    let file = ds4_testdata::json("dsml/parse.json");
    let cases = file["cases"].as_array().expect("the file has cases").clone();
    assert!(cases.len() > 100);
    cases
}

fn as_value(output: &ParsedOutput) -> Value {
    let calls: Vec<Value> = output
        .tool_calls
        .iter()
        .map(|call| json!({"name": call.name, "arguments": call.arguments, "complete": call.complete}))
        .collect();
    json!({
        "reasoning_content": output.reasoning,
        "content": output.content,
        "tool_calls": calls,
        "finish_reason": output.finish_reason.map(|reason| reason.name()),
    })
}

/// Every way of running a case: its options, and the field with the result.
fn variants(case: &Value) -> Vec<(Options, End, Value)> {
    let input = &case["input"];
    let start = match (input["initial"].as_str(), input["thinking"].as_bool()) {
        (Some("reasoning"), _) => Start::ReasoningContinued,
        (Some("content"), _) => Start::ContentContinued,
        (_, Some(true)) => Start::Reasoning,
        _ => Start::Content,
    };
    let end = if input["finish"] == "length" { End::Length } else { End::Stop };
    let plain = Options { start, tools: input["tools"] == true, ..Options::default() };
    let expected = |name: &str| case.get(name).unwrap_or(&case["expected"]).clone();
    let calls_in_reasoning = Options { calls_in_reasoning: true, ..plain.clone() };
    let lenient = Options { lenient: true, ..plain.clone() };
    vec![
        (plain, end, expected("expected")),
        (calls_in_reasoning, end, expected("expected_calls_in_reasoning")),
        (lenient, end, expected("expected_lenient")),
    ]
}

/// A case's segments: text, or the spelling of a control token.
fn segments(case: &Value) -> Vec<(String, bool)> {
    let segments = case["input"]["segments"].as_array().expect("segments");
    segments.iter().map(|pair| (pair[0].as_str().expect("text").to_owned(), pair[1] == true)).collect()
}

fn feed(options: &Options, end: End, segments: &[(String, bool)], cut: impl Fn(&str) -> Vec<String>) -> ParsedOutput {
    let mut parser = Parser::new(options.clone());
    let mut output = ParsedOutput::default();
    for (text, is_control) in segments {
        if *is_control {
            let control = Special::ALL.into_iter().find(|special| special.spelling() == text).expect("a control token");
            output.apply_all(&parser.push_control(control));
        } else {
            cut(text).iter().for_each(|part| output.apply_all(&parser.push_text(part)));
        }
    }
    output.apply_all(&parser.finish(end));
    output
}

#[test]
fn outputs_are_understood_as_recorded() {
    let tokenizer = Tokenizer::official().expect("the official tokenizer loads");
    for case in cases() {
        let mut input = case["input"].clone();
        let got = parse_line(&input.to_string(), &tokenizer).expect("the line is valid");
        assert_eq!(got, case["expected"], "{}", case["id"]);
        for switch in ["calls_in_reasoning", "lenient"] {
            input[switch] = json!(true);
            let got = parse_line(&input.to_string(), &tokenizer).expect("the line is valid");
            let expected = case.get(format!("expected_{switch}")).unwrap_or(&case["expected"]);
            assert_eq!(&got, expected, "{} with {switch}", case["id"]);
            input[switch] = json!(false);
        }
    }
}

#[test]
fn the_result_does_not_depend_on_how_text_is_cut() {
    for case in cases() {
        let segments = segments(&case);
        for (options, end, expected) in variants(&case) {
            let whole = feed(&options, end, &segments, |text| vec![text.to_owned()]);
            assert_eq!(as_value(&whole), expected, "{} whole", case["id"]);
            let characters = feed(&options, end, &segments, |text| text.chars().map(String::from).collect());
            assert_eq!(as_value(&characters), expected, "{} by character", case["id"]);
            // One cut, at every place.
            let longest = segments.iter().map(|(text, _)| text.len()).max().unwrap_or(0).min(400);
            for at in 1..longest {
                let cut = feed(&options, end, &segments, |text| match text.is_char_boundary(at) && at < text.len() {
                    true => vec![text[..at].to_owned(), text[at..].to_owned()],
                    false => vec![text.to_owned()],
                });
                assert_eq!(cut, whole, "{} cut at {at}", case["id"]);
            }
        }
    }
}

#[test]
fn tokens_give_what_their_text_gives() {
    let tokenizer = Tokenizer::official().expect("the official tokenizer loads");
    for case in cases() {
        for (options, end, expected) in variants(&case) {
            let mut parser = TokenParser::new(&tokenizer, options);
            let mut output = ParsedOutput::default();
            for (text, is_control) in segments(&case) {
                let ids = if is_control { tokenizer.encode_with_special(&text) } else { tokenizer.encode(&text) };
                assert_eq!(is_control, ids.len() == 1 && tokenizer.is_control(ids[0]), "{text}");
                ids.iter().for_each(|id| output.apply_all(&parser.push(*id)));
            }
            output.apply_all(&parser.finish(end));
            assert_eq!(as_value(&output), expected, "{}", case["id"]);
        }
    }
}

#[test]
fn well_formed_outputs_are_understood_as_by_the_official_parsers() {
    let tokenizer = Tokenizer::official().expect("the official tokenizer loads");
    let mut compared = 0;
    for case in cases().iter().filter(|case| case["category"] == "well_formed") {
        let got = parse_line(&case["input"].to_string(), &tokenizer).expect("the line is valid");
        for oracle in ["official_parser", "recipe_parser"] {
            let recorded = &case[oracle];
            if recorded["tool_calls"].is_null() {
                continue;
            }
            compared += 1;
            assert_eq!(got["content"], recorded["content"], "{} {oracle}", case["id"]);
            assert_eq!(got["reasoning_content"], recorded["reasoning_content"], "{} {oracle}", case["id"]);
            let calls = |value: &Value| -> Vec<(Value, Value)> {
                let calls = value["tool_calls"].as_array().expect("calls");
                calls.iter().map(|call| (call["name"].clone(), call["arguments"].clone())).collect()
            };
            assert_eq!(calls(&got), calls(recorded), "{} {oracle}", case["id"]);
        }
    }
    assert!(compared >= 90, "only {compared} results were compared");
}
