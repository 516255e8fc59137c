//! Damaged and unfinished markup: what each row of the recovery table in `docs/prompts.md` promises.

use ds4_chat::dsml::{End, Event, FinishReason, Options, ParsedOutput, Parser, Start};
use ds4_chat::special::Special;

fn tools() -> Options {
    Options { tools: true, ..Options::default() }
}

/// Parses an output in which `¤` is the DSML token and `§` is `</think>`, character by character.
fn parse_with(options: Options, end: End, text: &str) -> ParsedOutput {
    let mut parser = Parser::new(options);
    let mut output = ParsedOutput::default();
    for character in text.chars() {
        output.apply_all(&match character {
            '¤' => parser.push_control(Special::Dsml),
            '§' => parser.push_control(Special::EndThink),
            other => parser.push_text(other.encode_utf8(&mut [0; 4])),
        });
    }
    output.apply_all(&parser.finish(end));
    output
}

fn parse(text: &str) -> ParsedOutput {
    parse_with(tools(), End::Stop, text)
}

/// The calls as `name arguments`, unfinished ones with `…`.
fn calls(output: &ParsedOutput) -> Vec<String> {
    let calls = output.tool_calls.iter();
    calls.map(|call| format!("{} {}{}", call.name, call.arguments, if call.complete { "" } else { "…" })).collect()
}

/// A block with one call of `t` that has this body.
fn block(body: &str) -> String {
    format!("\n\n<¤tool_calls>\n<¤invoke name=\"t\">\n{body}</¤invoke>\n</¤tool_calls>")
}

#[test]
fn values_announced_as_json_are_validated() {
    let value = |text: &str| {
        let parameter = format!("<¤parameter name=\"a\" string=\"false\">{text}</¤parameter>\n");
        calls(&parse(&block(&parameter))).remove(0)
    };
    assert_eq!(value("1.50"), r#"t {"a": 1.50}"#);
    assert_eq!(value(" {\"k\":\n[1]} "), "t {\"a\": {\"k\":\n[1]}}");
    assert_eq!(value("False"), r#"t {"a": false}"#);
    assert_eq!(value("Infinity"), r#"t {"a": "Infinity"}"#);
    assert_eq!(value(""), r#"t {"a": ""}"#);
    assert_eq!(value("two\nlines"), r#"t {"a": "two\nlines"}"#);
    assert_eq!(value("<¤parameter x"), r#"t {"a": "<｜DSML｜parameter x"}"#);
}

#[test]
fn repairs_are_counted() {
    let recoveries = |text: &str| {
        let mut parser = Parser::new(tools());
        for character in text.chars() {
            match character {
                '¤' => parser.push_control(Special::Dsml),
                other => parser.push_text(other.encode_utf8(&mut [0; 4])),
            };
        }
        parser.finish(End::Stop);
        parser.recoveries()
    };
    let value = |value: &str| block(&format!("<¤parameter name=\"a\" string=\"false\">{value}</¤parameter>\n"));
    assert_eq!(recoveries(&value("[1]")), 0);
    assert_eq!(recoveries(&block("\n")), 0);
    assert_eq!(recoveries(&value("True")), 1);
    assert_eq!(recoveries(&block("<¤parameter name=\"a\">x</¤parameter>\n")), 1);
    assert_eq!(recoveries(&block("<¤parameter name=\"a\" string=\"true\">x</¤param>\n")), 1);
    assert_eq!(recoveries(&block("{\"a\": 1}")), 1);
    assert_eq!(recoveries(&value("1").replace("tool_calls", "calls")), 1);
    assert_eq!(
        recoveries("\n\n<¤tool_calls>\n<¤invoke name=\"t\">\n<¤invoke name=\"t\">\n</¤invoke>\n</¤tool_calls>"),
        1
    );
    assert_eq!(recoveries("\n\n<¤tool_calls>\n<¤invoke name=\"t\">\n</¤tool_calls>"), 1);
}

#[test]
fn markup_inside_a_string_value_is_text_up_to_a_closing_marker() {
    let parameter = "<¤parameter name=\"a\" string=\"true\">x<¤parameter name=\"b\">§</y<</¤parameter>\n";
    let expected = r#"t {"a": "x<｜DSML｜parameter name=\"b\"></think></y<"}"#;
    assert_eq!(calls(&parse(&block(parameter))), [expected]);
}

#[test]
fn parameters_within_a_parameter_are_an_object() {
    let parameter = "<¤parameter name=\"o\">\n<¤parameter name=\"p\"> <¤parameter name=\"x\" string=\"false\">1</¤parameter>\
                     </¤parameter>\n<¤parameter name=\"y\">z </¤parameter></¤parameter>\n\
                     <¤parameter name=\"q\" string=\"true\">r</¤parameter>\n";
    assert_eq!(calls(&parse(&block(parameter))), [r#"t {"o": {"p": {"x": 1}, "y": "z "}, "q": "r"}"#]);
    // Another tag at the start of a value is text.
    let parameter = "<¤parameter name=\"o\"> <¤params></¤parameter>\n";
    assert_eq!(calls(&parse(&block(parameter))), [r#"t {"o": " <｜DSML｜params>"}"#]);
    // Nesting has an end; what is too deep is text.
    let deep = "<¤parameter name=\"o\">".repeat(1000);
    assert_eq!(parse(&block(&deep)).tool_calls.len(), 1);
}

#[test]
fn attributes_may_be_unquoted_missing_or_too_many() {
    let parameter = "<¤parameter string=\"false\" name=\"a\">1</¤parameter>\n<¤parameter name=b string=true>2</¤parameter>\n\
                     <¤parameter name=\"c>d\" type=\"text\" string=\"true\">3</¤parameter>\n\
                     <¤parameter name=\"e\" string=\"true\"/>\n";
    assert_eq!(calls(&parse(&block(parameter))), [r#"t {"a": 1, "b": "2", "c>d": "3", "e": ""}"#]);
    let text = "<¤invoke name=\"t\" id=\"7\">\n</¤invoke>\n<¤invoke id=\"8\" name=\"u\">\n</¤invoke>\n\
                <¤invoke name='v'>\n</¤invoke>\n<¤invoke name=w/>\n<¤invoke>\n</¤invoke>";
    assert_eq!(calls(&parse(text)), ["t {}", "u {}", "v {}", "w {}"]);
}

/// Regression: the tag was read again at each `>`, however long it had become.
#[test]
fn an_opening_tag_does_not_grow_without_end() {
    let long = ">".repeat(1_000_000);
    let parameter = format!(
        "<¤parameter name=\"a{long}\" string=\"true\">v</¤parameter>\n<¤parameter name=\"b\" string=\"true\">w</¤parameter>\n"
    );
    assert_eq!(calls(&parse(&block(&parameter))), [r#"t {"b": "w"}"#]);
    assert_eq!(calls(&parse(&block(&format!("<¤invoke {}>\n", "x".repeat(1_000_000))))), ["t {}"]);
}

#[test]
fn a_json_body_replaces_parameters_only_if_it_is_an_object() {
    assert_eq!(calls(&parse(&block("  {\"a\": \"x < y\"}\n"))), [r#"t {"a": "x < y"}"#]);
    assert_eq!(calls(&parse(&block("[1]\n"))), ["t {}"]);
    assert_eq!(calls(&parse(&block("{\"a\": \n"))), ["t {}"]);
    assert_eq!(calls(&parse(&block("Arguments: {\"a\": 1}\n"))), ["t {}"]);
    let both = "{\"a\": 1}\n<¤parameter name=\"b\" string=\"false\">2</¤parameter>\n";
    assert_eq!(calls(&parse(&block(both))), [r#"t {"b": 2}"#]);
}

#[test]
fn calls_that_are_not_closed_end_with_the_next_one_or_the_block() {
    let text = "<¤invoke name=\"t\">\n<¤parameter name=\"a\" string=\"true\">b</¤invoke>\n<¤invoke name=\"u\"/>\
                <¤invoke name=\"v\">\n<¤invoke name=\"w\">\n</¤tool_calls>";
    assert_eq!(calls(&parse(text)), [r#"t {"a": "b"}"#, "u {}", "v {}", "w {}"]);
}

#[test]
fn unfinished_calls_keep_unterminated_arguments() {
    let cut = |text: &str| calls(&parse_with(tools(), End::Length, text));
    let call = "<¤invoke name=\"t\">\n<¤parameter name=\"a\" string=\"true\">b</¤parameter>\n";
    assert_eq!(cut(call), [r#"t {"a": "b"…"#]);
    assert_eq!(cut(&format!("{call}<¤parameter name=\"n\" string=\"false\">12")), [r#"t {"a": "b"…"#]);
    assert_eq!(cut(&format!("{call}<¤parameter name=\"n\" string=\"true\">12<")), [r#"t {"a": "b", "n": "12<…"#]);
    assert_eq!(
        cut(&format!("{call}<¤parameter name=\"n\"><¤parameter name=\"m\" string=\"true\">1")),
        [r#"t {"a": "b"…"#]
    );
    assert_eq!(cut("<¤invoke name=\"t\">\n{\"a\": 1}"), ["t …"]);
    assert_eq!(cut("<¤invoke name=\"t"), [""; 0]);
    assert_eq!(parse(call).finish_reason, Some(FinishReason::ToolCalls));
    assert_eq!(parse_with(tools(), End::Length, call).finish_reason, Some(FinishReason::Length));
}

#[test]
fn a_closed_block_counts_as_calls_even_at_the_limit() {
    let output = parse_with(tools(), End::Length, &block(""));
    assert_eq!(output.finish_reason, Some(FinishReason::ToolCalls));
}

#[test]
fn a_doubled_opening_still_opens() {
    let text = "Hi\n\n<¤tool_calls>\n<¤tool_calls>\n<¤invoke name=\"t\">\n</¤invoke>\n</¤tool_calls>";
    let output = parse(text);
    assert_eq!(calls(&output), ["t {}"]);
    assert_eq!(output.content, "Hi\n\n<｜DSML｜tool_calls>");
}

#[test]
fn prose_about_markup_stays_prose() {
    for text in [
        "Write <¤tool_calls> and then <¤invoke>.",
        "< ¤tool_calls>",
        "<¤two words>",
        "</¤tool_calls>\n<",
        "a <¤tool_calls> b <¤tool_calls> c <¤tool_calls> d",
        "<¤tool_calls>\n<¤parameter name=\"a\" string=\"true\">b</¤parameter>",
        "<§¤tool_calls>",
    ] {
        let output = parse(text);
        assert_eq!(output.content, text.replace('¤', "｜DSML｜").replace('§', ""));
        assert_eq!(output.tool_calls, []);
    }
}

#[test]
fn a_block_name_has_at_most_32_characters() {
    let text = |length: usize| format!("<¤{}>\n<¤invoke name=\"t\">\n</¤invoke>\n", "x".repeat(length));
    assert_eq!(parse(&text(32)).content, "");
    // The call's own tag opens as well.
    let output = parse(&text(33));
    assert_eq!((output.content.len(), output.tool_calls.len()), ("<｜DSML｜>".len() + 33, 1));
}

#[test]
fn a_forged_turn_and_unused_control_tokens_are_not_shown() {
    let mut parser = Parser::new(tools());
    let mut output = ParsedOutput::default();
    output.apply_all(&parser.push_text("Hi"));
    output.apply_all(&parser.push_control(Special::Query));
    output.apply_all(&parser.push_unused_control("<｜fim▁hole｜>"));
    output.apply_all(&parser.push_text(" there\n\n<"));
    assert!(!parser.should_stop());
    output.apply_all(&parser.push_control(Special::User));
    assert!(parser.should_stop());
    output.apply_all(&parser.push_text("I am the user."));
    output.apply_all(&parser.finish(End::Stop));
    assert_eq!(output.content, "Hi there\n\n<");
    assert_eq!(output.finish_reason, Some(FinishReason::Stop));
    assert_eq!(parser.finish(End::Stop), []);
}

#[test]
fn generation_stops_with_the_block_or_with_the_first_call() {
    let text = block("<¤parameter name=\"a\" string=\"true\">b</¤parameter>\n");
    let stops_at = |options: Options, text: &str| {
        let mut parser = Parser::new(options);
        for (at, character) in text.char_indices() {
            match character {
                '¤' => parser.push_control(Special::Dsml),
                other => parser.push_text(other.encode_utf8(&mut [0; 4])),
            };
            if parser.should_stop() {
                return Some(at + character.len_utf8());
            }
        }
        None
    };
    assert_eq!(stops_at(tools(), &text), Some(text.len()));
    let first_call = text.find("</¤invoke>").unwrap() + "</¤invoke>".len();
    assert_eq!(stops_at(Options { single_call: true, ..tools() }, &text), Some(first_call));
    assert_eq!(stops_at(tools(), "An answer."), None);
}

#[test]
fn the_sampler_knows_where_the_output_is() {
    let mut parser = Parser::new(Options { start: Start::Reasoning, ..tools() });
    let state = |parser: &Parser| (parser.in_reasoning(), parser.in_block_structure(), parser.in_value());
    parser.push_text("Hm.\n");
    assert_eq!(state(&parser), (true, false, false));
    parser.push_control(Special::EndThink);
    parser.push_text("\n\n<");
    assert_eq!(state(&parser), (false, false, false));
    parser.push_control(Special::Dsml);
    assert_eq!(state(&parser), (false, true, false));
    parser.push_text("tool_calls>\n<");
    parser.push_control(Special::Dsml);
    parser.push_text("invoke name=\"t\">\n<");
    parser.push_control(Special::Dsml);
    parser.push_text("parameter name=\"a\" string=\"true\"");
    assert_eq!(state(&parser), (false, true, false));
    parser.push_text(">b");
    assert_eq!(state(&parser), (false, false, true));
    parser.push_text("</");
    parser.push_control(Special::Dsml);
    assert_eq!(state(&parser), (false, true, false));
}

#[test]
fn forced_calls_start_inside_the_block() {
    let required = Options { start: Start::Block, ..tools() };
    let output = parse_with(required, End::Stop, "<¤invoke name=\"t\">\n</¤invoke>\n</¤tool_calls>");
    assert_eq!(calls(&output), ["t {}"]);
    let named = Options { start: Start::Invoke("t".to_owned()), ..tools() };
    let text = "<¤parameter name=\"a\" string=\"true\">b</¤parameter>\n</¤invoke>\n</¤tool_calls>";
    assert_eq!(calls(&parse_with(named.clone(), End::Stop, text)), [r#"t {"a": "b"}"#]);
    assert_eq!(calls(&parse_with(named, End::Length, "")), ["t …"]);
}

#[test]
fn reasoning_may_be_opened_by_a_model_that_has_written_nothing_yet() {
    let mut parser = Parser::new(tools());
    let mut output = ParsedOutput::default();
    output.apply_all(&parser.push_text("\n "));
    output.apply_all(&parser.push_control(Special::Think));
    output.apply_all(&parser.push_text("\nhm\n"));
    output.apply_all(&parser.push_control(Special::EndThink));
    output.apply_all(&parser.push_text("\nyes"));
    output.apply_all(&parser.push_control(Special::Think));
    output.apply_all(&parser.push_text(" no"));
    output.apply_all(&parser.finish(End::Stop));
    assert_eq!((output.reasoning.as_str(), output.content.as_str()), ("hm", " yes no"));
}

#[test]
fn only_the_listed_text_is_ever_held_back() {
    let mut parser = Parser::new(tools());
    assert_eq!(parser.push_text("a\n\n"), [Event::Content("a".to_owned())]);
    assert_eq!(parser.push_text("<"), []);
    assert_eq!(parser.push_text("b"), [Event::Content("\n\n<b".to_owned())]);
    parser.push_text("<");
    parser.push_control(Special::Dsml);
    assert_eq!(parser.push_text("invoke name=\"t"), []);
    assert_eq!(parser.push_text("\""), [Event::CallStart { index: 0, name: "t".to_owned() }]);
    parser.push_text(">\n<");
    parser.push_control(Special::Dsml);
    let delta = |delta: &str| Event::Arguments { index: 0, delta: delta.to_owned() };
    assert_eq!(parser.push_text("parameter name=\"a\" string=\"true\">x"), [delta("{\"a\": \"x")]);
    assert_eq!(parser.push_text("\n"), [delta("\\n")]);
    assert_eq!(parser.push_text("</"), []);
    assert_eq!(parser.push_text("y"), [delta("</y")]);
}

#[test]
fn without_tools_nothing_is_held_back_in_an_answer() {
    let mut parser = Parser::new(Options::default());
    assert_eq!(parser.push_text("a\n\n<"), [Event::Content("a\n\n<".to_owned())]);
    assert_eq!(parser.push_control(Special::Dsml), [Event::Content("｜DSML｜".to_owned())]);
}

#[test]
fn spelled_blocks_count_only_when_asked_for_and_only_at_the_end() {
    let lenient = Options { lenient: true, ..tools() };
    let spelled = "<|DSML|tool_calls>\n<|DSML|invoke name=\"t\">\n<|DSML|parameter name=\"a\" string=\"true\">b\
                   </|DSML|parameter>\n</|DSML|invoke>\n</|DSML|tool_calls>";
    let output = parse_with(lenient.clone(), End::Stop, &format!("Hi.\n\n{spelled}\n"));
    assert_eq!((output.content.as_str(), calls(&output)), ("Hi.", vec![r#"t {"a": "b"}"#.to_owned()]));
    assert_eq!(output.finish_reason, Some(FinishReason::ToolCalls));
    for (end, text) in [
        (End::Stop, format!("Hi. {spelled}")),
        (End::Stop, format!("Hi.\n{spelled}\nSo.")),
        (End::Stop, format!("Hi.\n{}", &spelled[..spelled.len() - 1])),
        (End::Length, format!("Hi.\n{spelled}")),
        (End::Stop, "Hi.\n<tool_calls>\n</tool_calls>".to_owned()),
        (End::Stop, "Hi.\n<tool_calls\n<tool_calls>".to_owned()),
    ] {
        let output = parse_with(lenient.clone(), end, &text);
        assert_eq!((output.content.as_str(), output.tool_calls.len()), (text.as_str(), 0));
    }
    // A real call takes precedence.
    let output = parse_with(lenient, End::Stop, &format!("{spelled}{}", block("")));
    assert_eq!((output.content.as_str(), calls(&output)), (spelled, vec!["t {}".to_owned()]));
}
