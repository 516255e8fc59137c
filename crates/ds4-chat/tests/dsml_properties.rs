//! What holds for every output: no input makes the parser panic, cutting does not matter, finished calls have JSON
//! arguments, and what rendering writes, parsing reads.

use ds4_chat::conversation::{AssistantMessage, Content, Conversation, Message, ToolCall, TurnEnd};
use ds4_chat::dsml::{End, Options, ParsedOutput, Parser, Start};
use ds4_chat::json::{Json, quote};
use ds4_chat::render::{Ending, RenderOptions, Thinking, render};
use ds4_chat::special::{Piece, Special};
use proptest::prelude::*;

/// One step of an output: text, a control token, or a control token that chats do not use.
#[derive(Clone, Debug)]
enum Step {
    Text(String),
    Control(Special),
    Unused,
}

/// Fragments that markup is made of, so that random sequences come near to it.
fn step() -> impl Strategy<Value = Step> {
    let fragments = prop::sample::select(vec![
        "<",
        "</",
        ">",
        "\n",
        "\n\n",
        " ",
        "/",
        "\"",
        "tool_calls>",
        "tool_calls>\n<",
        "invoke name=\"",
        "invoke",
        "t\">\n",
        "t\">\n<",
        "parameter name=\"a\" string=\"true\">",
        "parameter name=\"b\" string=\"false\">",
        "parameter name=\"c\">",
        "parameter>\n</",
        "parameter>\n<",
        "invoke>\n</",
        "invoke>\n<",
        "name=\"",
        "{\"a\": 1}",
        "[1, 2",
        "True",
        "word",
        "é中",
        "<tool_calls>",
        "<invoke name=\"s\">",
        "</invoke>",
        "</tool_calls>",
        "｜DSML｜",
        "<｜DSML｜tool_calls>",
    ]);
    prop_oneof![
        8 => fragments.prop_map(|text| Step::Text(text.to_owned())),
        1 => ".{0,4}".prop_map(Step::Text),
        8 => Just(Step::Control(Special::Dsml)),
        1 => prop::sample::select(Special::ALL.to_vec()).prop_map(Step::Control),
        1 => Just(Step::Unused),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let starts = prop::sample::select(vec![
        Start::Reasoning,
        Start::ReasoningContinued,
        Start::Content,
        Start::ContentContinued,
        Start::Block,
        Start::Invoke("f".to_owned()),
    ]);
    (starts, prop::bool::weighted(0.9), any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(start, tools, calls_in_reasoning, lenient, single_call)| Options {
            start,
            tools,
            calls_in_reasoning,
            lenient,
            single_call,
        },
    )
}

/// Feeds the steps; with `split`, text goes in character by character.
fn parse(options: &Options, end: End, steps: &[Step], split: bool) -> ParsedOutput {
    let mut parser = Parser::new(options.clone());
    let mut output = ParsedOutput::default();
    for step in steps {
        match step {
            Step::Text(text) if split => {
                for character in text.chars() {
                    output.apply_all(&parser.push_text(character.encode_utf8(&mut [0; 4])));
                }
            }
            Step::Text(text) => output.apply_all(&parser.push_text(text)),
            Step::Control(control) => output.apply_all(&parser.push_control(*control)),
            Step::Unused => output.apply_all(&parser.push_unused_control("<｜fim▁hole｜>")),
        }
    }
    output.apply_all(&parser.finish(end));
    output
}

/// Joins neighbouring text.
fn joined(steps: &[Step]) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::new();
    for step in steps {
        match (out.last_mut(), step) {
            (Some(Step::Text(last)), Step::Text(text)) => last.push_str(text),
            _ => out.push(step.clone()),
        }
    }
    out
}

fn json() -> impl Strategy<Value = Json> {
    let text = prop_oneof![
        ".{0,12}",
        prop::sample::select(vec![
            "</｜DSML｜parameter>".to_owned(),
            "</think>\n<".to_owned(),
            "True".to_owned(),
            " {} ".to_owned()
        ])
    ];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any::<i64>().prop_map(|number| Json::Number(number.to_string())),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| { Json::parse(&format!("{number:e}")).expect("a float is JSON") }),
        text.prop_map(Json::String),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

/// Argument objects. A name that holds what looks like further attributes would be ambiguous, as names are not escaped.
fn arguments() -> impl Strategy<Value = Json> {
    let key = "[^\"<>=/ ]{0,8}|[a-z]{1,4} [a-z]{1,4}|[a-z]>[a-z]|[a-z]\"[a-z]";
    prop::collection::btree_map(key, json(), 0..4).prop_map(|map| Json::Object(map.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_output_is_parsed_alike_however_it_is_cut(
        options in options(),
        steps in prop::collection::vec(step(), 0..60),
        stop in any::<bool>(),
    ) {
        let end = if stop { End::Stop } else { End::Length };
        let whole = parse(&options, end, &joined(&steps), false);
        prop_assert_eq!(&parse(&options, end, &steps, false), &whole);
        prop_assert_eq!(&parse(&options, end, &steps, true), &whole);
        prop_assert!(whole.finish_reason.is_some());
        for call in &whole.tool_calls {
            let arguments = Json::parse(&call.arguments);
            if call.complete {
                prop_assert!(matches!(arguments, Ok(Json::Object(_))), "{}", call.arguments);
            } else {
                prop_assert!(arguments.is_err(), "unfinished arguments are whole: {}", call.arguments);
            }
        }
        if !options.tools && !matches!(options.start, Start::Block | Start::Invoke(_)) {
            prop_assert_eq!(whole.tool_calls.len(), 0);
        }
    }

    #[test]
    fn what_rendering_writes_parsing_reads(
        reasoning in "([a-z<]{1,8}(\n[a-z]{1,4}){0,2})?",
        content in "([a-z<]{1,8}( [a-z|>]{1,4}){0,2})?",
        calls in prop::collection::vec(("[a-zA-Z0-9_-]{1,12}", arguments()), 0..4),
    ) {
        let tool_calls: Vec<ToolCall> = calls
            .iter()
            .map(|(name, arguments)| ToolCall { id: None, name: name.clone(), arguments: arguments.to_string() })
            .collect();
        let message = AssistantMessage {
            reasoning: reasoning.clone(),
            content: Content::text(&content),
            tool_calls: tool_calls.clone(),
            end: TurnEnd::Finished,
            ..AssistantMessage::default()
        };
        let conversation = Conversation {
            messages: vec![Message::user("go"), Message::Assistant(message)],
            ..Conversation::default()
        };
        let options = RenderOptions {
            thinking: Thinking::On(Default::default()),
            ending: Ending::History,
            ..RenderOptions::default()
        };
        let rendered = render(&conversation, &options).expect("it can be rendered");
        let pieces = rendered.prompt.pieces();
        let start = pieces.iter().position(|piece| *piece == Piece::Control(Special::Think)).expect("a think marker");
        let steps: Vec<Step> = pieces[start + 1..]
            .iter()
            .map(|piece| match piece {
                Piece::Control(control) => Step::Control(*control),
                Piece::Text(text) => Step::Text(text.clone()),
                Piece::Tokens(_) => Step::Unused,
            })
            .collect();
        let options = Options { start: Start::Reasoning, tools: true, ..Options::default() };
        let output = parse(&options, End::Stop, &steps, false);
        prop_assert_eq!(output.reasoning, reasoning);
        prop_assert_eq!(output.content, content);
        prop_assert_eq!(output.tool_calls.len(), tool_calls.len());
        for (got, sent) in output.tool_calls.iter().zip(&tool_calls) {
            prop_assert!(got.complete);
            prop_assert_eq!(&got.name, &sent.name);
            prop_assert_eq!(&got.arguments, &sent.arguments);
        }
    }

    #[test]
    fn strings_survive_quoting(text in "\\PC*|.*") {
        let parsed = Json::parse(&quote(&text)).expect("a quoted string is JSON");
        prop_assert_eq!(parsed.as_str(), Some(text.as_str()));
    }

    #[test]
    fn json_is_what_serde_json_takes_for_json(text in "[-0-9eE.+]{1,8}|[\\[\\]{}:,\"a1 \\\\n-]{0,16}") {
        let ours = Json::parse(&text);
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => {
                let ours = ours.expect("serde_json accepts it");
                prop_assert_eq!(Json::parse(&ours.to_string()), Ok(ours));
            }
            // serde_json alone refuses numbers beyond the range of floats.
            Err(error) => prop_assert!(ours.is_err() || error.to_string().contains("out of range"), "{text}"),
        }
    }
}
