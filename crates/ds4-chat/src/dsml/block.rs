//! Inside a block of calls.
//!
//! Tags are found by the DSML token directly after `<` or `</`. What stands between tags is skipped. Damage is repaired
//! where the meaning is plain: see the recovery table in `docs/prompts.md`.

use super::event::{Event, Events};
use super::parameter::{Flag, ParameterTag, json_value, parse_tag};
use super::{dsml, opener::Atom};
use crate::json::{Json, quote, quote_into};

/// Longest opening tag, in bytes; a longer one is skipped. It is read again at each `>`, so it must not grow.
const MAX_OPENING_TAG: usize = 1024;
/// Longest name that a tag may have, in bytes.
const MAX_TAG_NAME: usize = 64;
/// Deepest nesting of parameters within parameters.
const MAX_NESTED: usize = 32;

/// What a block is called.
const CANONICAL_NAME: &str = "tool_calls";

/// The calls of a turn while they are being written.
pub(super) struct Block {
    /// What the block was opened with; what closes it.
    name: String,
    /// Whether the turn ends with its first call.
    single_call: bool,
    /// Number of calls reported.
    calls: usize,
    call: Option<Call>,
    bracket: Bracket,
    state: State,
    done: bool,
    /// How much damage was repaired.
    recoveries: usize,
}

/// A call that is not over.
struct Call {
    index: usize,
    has_arguments: bool,
    /// JSON that stands in the place of parameters, as long as it may be.
    body: Body,
    /// Objects that are written as parameters within a parameter, outermost first: their key and their JSON so far.
    nested: Vec<(String, String)>,
}

enum Body {
    Blank,
    Json(String),
    Other,
}

/// The start of a tag that was held back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bracket {
    None,
    Open,
    Close,
}

enum State {
    /// Between tags.
    Between,
    /// In the name of an opening tag.
    OpeningName(String),
    /// In an invoke tag, before the tool's name.
    InvokeTag(String),
    /// In the tool's name.
    InvokeName(String),
    /// After the tool's name; whether the last character was a slash.
    InvokeRest { slash: bool },
    /// In a parameter's opening tag.
    ParameterTag(String),
    /// In a string value.
    Text,
    /// In a value that is kept, with its key, until it is complete.
    Kept { key: String, flag: Flag, text: String },
    /// In the name of an opening tag at the start of a value that has no `string` attribute; the blanks before it.
    Nested { key: String, blanks: String, name: String },
    /// In the name of a closing tag; whether it is the one that ends a value.
    ClosingName { name: String, after_value: bool },
    /// In the rest of a tag that means nothing.
    SkippedTag,
}

impl Block {
    pub(super) fn new(name: &str, single_call: bool) -> Self {
        Block {
            name: name.to_owned(),
            single_call,
            calls: 0,
            call: None,
            bracket: Bracket::None,
            state: State::Between,
            done: false,
            recoveries: usize::from(name != CANONICAL_NAME),
        }
    }

    /// Goes on in the name of a call.
    pub(super) fn in_invoke_name(mut self) -> Self {
        self.state = State::InvokeName(String::new());
        self
    }

    /// Starts a call whose opening tag is complete.
    pub(super) fn start_call(&mut self, name: &str, events: &mut Events) {
        self.report_call(name.to_owned(), events);
        self.state = State::Between;
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// How much damage of the markup was repaired so far.
    pub(super) fn recoveries(&self) -> usize {
        self.recoveries
    }

    /// Whether the next characters belong to a value.
    pub(super) fn in_value(&self) -> bool {
        matches!(self.state, State::Text | State::Kept { .. })
    }

    pub(super) fn push(&mut self, atom: Atom, events: &mut Events) {
        if self.done {
            return;
        }
        let bracket = std::mem::replace(&mut self.bracket, Bracket::None);
        match (atom, bracket) {
            (Atom::Dsml, Bracket::Open) => self.opening(events),
            (Atom::Dsml, Bracket::Close) => self.closing(events),
            (Atom::Dsml, Bracket::None) => self.spelled_in_value(dsml(), events),
            (Atom::Char('/'), Bracket::Open) => self.bracket = Bracket::Close,
            (Atom::Char(character), bracket) => {
                self.release(bracket, events);
                if character == '<' {
                    self.bracket = Bracket::Open;
                } else {
                    self.character(character, events);
                }
            }
        }
    }

    /// A control token that is neither markup nor an end: part of a value, nothing elsewhere.
    pub(super) fn push_other(&mut self, spelling: &str, events: &mut Events) {
        let bracket = std::mem::replace(&mut self.bracket, Bracket::None);
        self.release(bracket, events);
        self.spelled_in_value(spelling, events);
    }

    /// The output is over, wherever it is.
    pub(super) fn finish(&mut self, events: &mut Events) {
        if self.done {
            return;
        }
        let bracket = std::mem::replace(&mut self.bracket, Bracket::None);
        self.release(bracket, events);
        // What closes is decided by the marker; the name may be cut.
        self.end_closing_name(events);
        if let Some(call) = self.call.take() {
            events.push(Event::CallEnd { index: call.index, complete: false });
        }
        self.done = true;
    }

    fn release(&mut self, bracket: Bracket, events: &mut Events) {
        if bracket != Bracket::None {
            self.character('<', events);
        }
        if bracket == Bracket::Close {
            self.character('/', events);
        }
    }

    fn spelled_in_value(&mut self, spelling: &str, events: &mut Events) {
        if matches!(self.state, State::Nested { .. }) {
            self.nested_was_text();
        }
        if self.in_value() {
            spelling.chars().for_each(|character| self.character(character, events));
        }
    }

    /// `<` and the token.
    fn opening(&mut self, events: &mut Events) {
        match &mut self.state {
            State::Text => {
                self.character('<', events);
                self.spelled_in_value(dsml(), events);
                return;
            }
            State::Kept { key, flag: Flag::Missing, text } if text.trim().is_empty() => {
                let (key, blanks) = (std::mem::take(key), std::mem::take(text));
                self.state = State::Nested { key, blanks, name: String::new() };
                return;
            }
            State::Kept { .. } => {
                self.character('<', events);
                self.spelled_in_value(dsml(), events);
                return;
            }
            State::Nested { .. } => {
                self.nested_was_text();
                self.character('<', events);
                self.spelled_in_value(dsml(), events);
                return;
            }
            State::ClosingName { .. } => self.end_closing_name(events),
            _ => {}
        }
        self.state = State::OpeningName(String::new());
    }

    /// `</` and the token.
    fn closing(&mut self, events: &mut Events) {
        if let State::Nested { .. } = self.state {
            self.nested_was_text();
        }
        let after_value = self.in_value();
        match &mut self.state {
            State::Text => self.argument("\"", events),
            State::Kept { key, flag, text } => {
                let is_damaged = *flag == Flag::Missing || Json::parse(text.trim()).is_err();
                self.recoveries += usize::from(is_damaged);
                let value = if *flag == Flag::Missing { quote(text) } else { json_value(text) };
                let key = std::mem::take(key);
                self.start_argument(&key, events);
                self.argument(&value, events);
            }
            State::ClosingName { .. } => self.end_closing_name(events),
            _ => {}
        }
        self.state = State::ClosingName { name: String::new(), after_value };
    }

    fn character(&mut self, character: char, events: &mut Events) {
        match &mut self.state {
            State::Between => self.body_character(character),
            State::OpeningName(name) => {
                let is_end = character.is_whitespace() || matches!(character, '>' | '/');
                if !is_end && name.len() < MAX_TAG_NAME {
                    name.push(character);
                } else if !(name.is_empty() && character.is_whitespace()) {
                    let name = std::mem::take(name);
                    self.state = self.opened(&name, events);
                    self.character(character, events);
                }
            }
            State::InvokeTag(text) => {
                text.push(character);
                if attribute_follows(text) {
                    self.state = State::InvokeName(String::new());
                } else if character == '>' {
                    let tag = parse_tag(&text[..text.len() - 1]);
                    self.state = State::Between;
                    // The name has other quotes, or none.
                    if let Some(ParameterTag { key, self_closing, .. }) = tag.filter(|tag| !tag.key.is_empty()) {
                        self.report_call(key, events);
                        if self_closing {
                            self.end_call(events);
                        }
                    }
                } else if text.len() > MAX_OPENING_TAG {
                    self.state = State::SkippedTag;
                }
            }
            // A name that lost its closing quote ends with the tag; no tool's name has such characters.
            State::InvokeName(name) if matches!(character, '"' | '>' | '\n') => {
                let name = std::mem::take(name);
                self.report_call(name, events);
                self.state = if character == '"' { State::InvokeRest { slash: false } } else { State::Between };
            }
            State::InvokeName(name) => name.push(character),
            State::InvokeRest { slash } => match (character, *slash) {
                ('>', closes) => {
                    self.state = State::Between;
                    if closes {
                        self.end_call(events);
                    }
                }
                _ => *slash = character == '/',
            },
            State::ParameterTag(text) => match (character == '>').then(|| parse_tag(text)).flatten() {
                Some(tag) => self.start_value(tag, events),
                None => {
                    text.push(character);
                    if text.len() > MAX_OPENING_TAG {
                        self.state = State::SkippedTag;
                    }
                }
            },
            State::Text => {
                let mut escaped = String::new();
                quote_into(&mut escaped, character.encode_utf8(&mut [0; 4]));
                self.argument(&escaped, events);
            }
            State::Kept { text, .. } => text.push(character),
            State::Nested { name, .. } => {
                const PARAMETER: &str = "parameter";
                name.push(character);
                let tag = name.strip_prefix(char::is_whitespace).unwrap_or(name);
                let is_parameter =
                    tag.strip_prefix(PARAMETER).is_some_and(|rest| !rest.is_empty()) && character.is_whitespace();
                let is_possible = PARAMETER.starts_with(tag);
                if is_parameter && self.open_nested() {
                    self.state = State::ParameterTag(character.to_string());
                } else if !is_possible {
                    self.nested_was_text();
                }
            }
            State::ClosingName { name, .. } => {
                let is_end = character.is_whitespace() || matches!(character, '>' | '<');
                if !is_end && name.len() < MAX_TAG_NAME {
                    name.push(character);
                } else if !(name.is_empty() && character.is_whitespace()) {
                    self.end_closing_name(events);
                }
            }
            State::SkippedTag => {
                if character == '>' {
                    self.state = State::Between;
                }
            }
        }
    }

    /// Where an opening tag of this name leads.
    fn opened(&mut self, name: &str, events: &mut Events) -> State {
        match name {
            "invoke" => {
                // The call before it was not closed.
                self.recoveries += usize::from(self.call.is_some());
                self.end_call(events);
                if self.done { State::Between } else { State::InvokeTag(String::new()) }
            }
            "parameter" if self.call.is_some() => State::ParameterTag(String::new()),
            _ => State::SkippedTag,
        }
    }

    /// The name of a closing tag is complete, or will not become so.
    fn end_closing_name(&mut self, events: &mut Events) {
        let State::ClosingName { name, after_value } = &mut self.state else { return };
        let (name, after_value) = (std::mem::take(name), *after_value);
        self.state = State::Between;
        let ends_block = name == self.name || name == CANONICAL_NAME;
        let is_right = match (after_value, &self.call) {
            (true, _) => name == "parameter",
            (false, Some(call)) => name == "invoke" || (name == "parameter" && !call.nested.is_empty()),
            (false, None) => ends_block,
        };
        self.recoveries += usize::from(!is_right);
        if name == "invoke" || ends_block {
            self.end_call(events);
            self.done |= ends_block;
        } else if after_value {
            // Whatever it is called, it closed the value.
        } else if self.close_nested(events) || name == "parameter" {
            // A parameter that held parameters, or a tag too many.
        } else if self.call.is_some() {
            self.end_call(events);
        } else {
            self.done = true;
        }
    }

    fn report_call(&mut self, name: String, events: &mut Events) {
        let index = self.calls;
        self.calls += 1;
        self.call = Some(Call { index, has_arguments: false, body: Body::Blank, nested: Vec::new() });
        events.push(Event::CallStart { index, name });
    }

    /// Ends the current call, if there is one, as complete.
    fn end_call(&mut self, events: &mut Events) {
        while self.close_nested(events) {}
        let Some(call) = self.call.take() else { return };
        if call.has_arguments {
            events.arguments(call.index, "}");
        } else {
            match &call.body {
                Body::Json(text) if matches!(Json::parse(text.trim()), Ok(Json::Object(_))) => {
                    self.recoveries += 1;
                    events.arguments(call.index, text.trim());
                }
                _ => events.arguments(call.index, "{}"),
            }
        }
        events.push(Event::CallEnd { index: call.index, complete: true });
        self.done |= self.single_call;
    }

    /// Text between tags: JSON in the place of parameters, or nothing of interest.
    fn body_character(&mut self, character: char) {
        let Some(call) = &mut self.call else { return };
        match &mut call.body {
            _ if call.has_arguments => {}
            Body::Json(text) => text.push(character),
            Body::Blank if character == '{' => call.body = Body::Json("{".to_owned()),
            Body::Blank if !character.is_whitespace() => call.body = Body::Other,
            Body::Blank | Body::Other => {}
        }
    }

    /// A parameter's opening tag is complete.
    fn start_value(&mut self, tag: ParameterTag, events: &mut Events) {
        let ParameterTag { key, flag, self_closing } = tag;
        self.state = State::Between;
        if self_closing {
            self.start_argument(&key, events);
            self.argument("\"\"", events);
        } else if flag == Flag::String {
            self.start_argument(&key, events);
            self.argument("\"", events);
            self.state = State::Text;
        } else {
            self.state = State::Kept { key, flag, text: String::new() };
        }
    }

    /// Writes the key of the next argument.
    fn start_argument(&mut self, key: &str, events: &mut Events) {
        let Some(call) = &mut self.call else { return };
        let opening = match call.nested.last() {
            Some((_, object)) if object == "{" => "",
            None if !std::mem::replace(&mut call.has_arguments, true) => "{",
            _ => ", ",
        };
        let text = format!("{opening}{}: ", quote(key));
        self.argument(&text, events);
    }

    /// Appends to the JSON text of the arguments, or of the object within them that is being written.
    fn argument(&mut self, text: &str, events: &mut Events) {
        let Some(call) = &mut self.call else { return };
        match call.nested.last_mut() {
            Some((_, object)) => object.push_str(text),
            None => events.arguments(call.index, text),
        }
    }

    /// Starts the object that is written as parameters in the current value. `false` if it would be nested too deeply.
    fn open_nested(&mut self) -> bool {
        match (&mut self.call, &mut self.state) {
            (Some(call), State::Nested { key, .. }) if call.nested.len() < MAX_NESTED => {
                call.nested.push((std::mem::take(key), "{".to_owned()));
                true
            }
            _ => false,
        }
    }

    /// Ends the innermost object that is written as parameters. `false` if there is none.
    fn close_nested(&mut self, events: &mut Events) -> bool {
        let Some((key, object)) = self.call.as_mut().and_then(|call| call.nested.pop()) else { return false };
        self.start_argument(&key, events);
        self.argument(&object, events);
        self.argument("}", events);
        true
    }

    /// The tag at the start of a value was none of a parameter, so it is part of the value.
    fn nested_was_text(&mut self) {
        if let State::Nested { key, blanks, name } = &mut self.state {
            let text = format!("{blanks}<{}{name}", dsml());
            self.state = State::Kept { key: std::mem::take(key), flag: Flag::Missing, text };
        }
    }
}

/// Whether `text` ends where the quoted value of the attribute `name` starts.
fn attribute_follows(text: &str) -> bool {
    text.strip_suffix("name=\"").is_some_and(|before| before.is_empty() || before.ends_with(char::is_whitespace))
}
