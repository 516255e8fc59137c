//! Any sequence of text and control tokens as model output: parsing ends, never panics, and does not depend on how
//! the text was cut.

#![no_main]

use ds4_chat::dsml::{End, Event, Options, Parser, Start};
use ds4_chat::special::Special;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<(u8, String)>)| {
    let (switches, pieces) = input;
    let options = || Options {
        start: if switches & 8 != 0 { Start::Reasoning } else { Start::Content },
        tools: switches & 4 != 0,
        calls_in_reasoning: switches & 2 != 0,
        lenient: switches & 1 != 0,
        single_call: switches & 16 != 0,
    };
    let whole = run(options(), &pieces, |parser, text| parser.push_text(text));
    let split = run(options(), &pieces, |parser, text| {
        let mut events = Vec::new();
        for (start, c) in text.char_indices() {
            events.extend(parser.push_text(&text[start..start + c.len_utf8()]));
        }
        events
    });
    assert_eq!(joined(&whole), joined(&split));
});

fn run(
    options: Options,
    pieces: &[(u8, String)],
    mut push: impl FnMut(&mut Parser, &str) -> Vec<Event>,
) -> Vec<Event> {
    let mut parser = Parser::new(options);
    let mut events = Vec::new();
    for (control, text) in pieces {
        events.extend(push(&mut parser, text));
        if let Some(&control) = Special::ALL.get(usize::from(*control)) {
            events.extend(parser.push_control(control));
        }
    }
    events.extend(parser.finish(End::Stop));
    events
}

/// Neighbouring pieces of one kind joined: what a client would have put together.
fn joined(events: &[Event]) -> Vec<String> {
    let mut all: Vec<(String, String)> = Vec::new();
    for event in events {
        let (kind, text) = match event {
            Event::Reasoning(text) => ("reasoning".to_owned(), text.clone()),
            Event::Content(text) => ("content".to_owned(), text.clone()),
            Event::Arguments { index, delta } => (format!("arguments {index}"), delta.clone()),
            other => (format!("{other:?}"), String::new()),
        };
        match all.last_mut() {
            Some((last, joined)) if *last == kind && !text.is_empty() => joined.push_str(&text),
            _ => all.push((kind, text)),
        }
    }
    all.into_iter().map(|(kind, text)| format!("{kind}: {text}")).collect()
}
