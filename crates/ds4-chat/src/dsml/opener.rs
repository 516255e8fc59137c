//! Recognizing the opening of a block of calls.

/// A character of text, or the DSML token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Atom {
    Char(char),
    Dsml,
}

/// What a further atom makes of a possible opening.
pub(super) enum Match {
    /// It may still become one.
    Possible,
    /// It is one; a block tag's name, if there was one, comes along. The name of the first call follows.
    Opened(Option<String>),
    /// It is none.
    Impossible,
}

/// Longest name of a block tag. Damaged names are accepted, prose is not.
const MAX_NAME: usize = 32;
const INVOKE: &str = "invoke name=\"";

/// A `<` and a DSML token, and what came after them, as long as it may be the opening of a block: `name>`, blanks, `<`,
/// the token and `invoke name="`, or the last of these alone. One blank may follow each token.
///
/// Only a complete opening counts, so a mere mention of the marker stays prose while a damaged block name still works.
pub(super) struct Opener {
    atoms: Vec<Atom>,
    block_name: Option<String>,
    state: State,
}

enum State {
    FirstTag(String),
    Between,
    SecondBracket,
    SecondTag(String),
}

impl Opener {
    /// After `<` and the token.
    pub(super) fn new() -> Self {
        let atoms = vec![Atom::Char('<'), Atom::Dsml];
        Opener { atoms, block_name: None, state: State::FirstTag(String::new()) }
    }

    /// Everything so far, `<` and the first token included.
    pub(super) fn into_atoms(self) -> Vec<Atom> {
        self.atoms
    }

    pub(super) fn push(&mut self, atom: Atom) -> Match {
        self.atoms.push(atom);
        match (&mut self.state, atom) {
            (State::FirstTag(text), Atom::Char(character)) => {
                if character == '>' && is_name(without_blank(text)) {
                    self.block_name = Some(without_blank(text).to_owned());
                    self.state = State::Between;
                    return Match::Possible;
                }
                text.push(character);
                let name = without_blank(text);
                match name {
                    INVOKE => Match::Opened(None),
                    _ if INVOKE.starts_with(name) || is_name(name) => Match::Possible,
                    _ => Match::Impossible,
                }
            }
            (State::Between, Atom::Char('<')) => {
                self.state = State::SecondBracket;
                Match::Possible
            }
            (State::Between, Atom::Char(character)) if character.is_whitespace() => Match::Possible,
            (State::SecondBracket, Atom::Dsml) => {
                self.state = State::SecondTag(String::new());
                Match::Possible
            }
            (State::SecondTag(text), Atom::Char(character)) => {
                text.push(character);
                match without_blank(text) {
                    INVOKE => Match::Opened(self.block_name.take()),
                    tag if INVOKE.starts_with(tag) => Match::Possible,
                    _ => Match::Impossible,
                }
            }
            _ => Match::Impossible,
        }
    }
}

fn without_blank(text: &str) -> &str {
    text.strip_prefix(char::is_whitespace).unwrap_or(text)
}

fn is_name(text: &str) -> bool {
    text.chars().count() <= MAX_NAME
        && !text.contains(|character: char| character.is_whitespace() || matches!(character, '<' | '>'))
}
