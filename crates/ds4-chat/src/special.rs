//! The control tokens that prompts and outputs are built from.
//!
//! A [`Prompt`] keeps control tokens and text apart from the start, so that nothing a user, a file or a tool
//! says can ever become a control token: text pieces are encoded without the added vocabulary.

/// A control token of the DeepSeek V4 chat format. Its id depends on the vocabulary and is looked up by spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Special {
    /// First token of every prompt.
    Bos,
    /// Ends an assistant turn.
    Eos,
    /// Opens a user turn.
    User,
    /// Opens an assistant turn.
    Assistant,
    /// Opens the reasoning block.
    Think,
    /// Closes the reasoning block.
    EndThink,
    /// Marks tool markup; the angle bracket before it is ordinary text.
    Dsml,
    /// Opens a reminder message.
    LatestReminder,
    /// Quick task "action".
    Action,
    /// Quick task "query".
    Query,
    /// Quick task "authority".
    Authority,
    /// Quick task "domain".
    Domain,
    /// Quick task "title".
    Title,
    /// Quick task "read_url".
    ReadUrl,
}

impl Special {
    /// Every control token that the chat format uses.
    pub const ALL: [Special; 14] = [
        Special::Bos,
        Special::Eos,
        Special::User,
        Special::Assistant,
        Special::Think,
        Special::EndThink,
        Special::Dsml,
        Special::LatestReminder,
        Special::Action,
        Special::Query,
        Special::Authority,
        Special::Domain,
        Special::Title,
        Special::ReadUrl,
    ];

    /// The token's spelling in the vocabulary (the bar is U+FF5C, the low line U+2581).
    pub fn spelling(self) -> &'static str {
        match self {
            Special::Bos => "<｜begin▁of▁sentence｜>",
            Special::Eos => "<｜end▁of▁sentence｜>",
            Special::User => "<｜User｜>",
            Special::Assistant => "<｜Assistant｜>",
            Special::Think => "<think>",
            Special::EndThink => "</think>",
            Special::Dsml => "｜DSML｜",
            Special::LatestReminder => "<｜latest_reminder｜>",
            Special::Action => "<｜action｜>",
            Special::Query => "<｜query｜>",
            Special::Authority => "<｜authority｜>",
            Special::Domain => "<｜domain｜>",
            Special::Title => "<｜title｜>",
            Special::ReadUrl => "<｜read_url｜>",
        }
    }
}

/// One piece of a prompt or of a model's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A control token.
    Control(Special),
    /// Content: encoded as plain text, whatever it looks like.
    Text(String),
    /// Token ids that the model itself sampled earlier, replayed as they are. Only ids that this engine stored may
    /// come here, never ids that a client sent: they are not checked for control tokens.
    Tokens(Vec<u32>),
}

/// A rendered prompt. Adjacent text pieces are merged, so every text piece stands between control tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    pieces: Vec<Piece>,
}

impl Prompt {
    /// An empty prompt.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a control token.
    pub fn control(&mut self, special: Special) -> &mut Self {
        self.pieces.push(Piece::Control(special));
        self
    }

    /// Appends content, joined to a text piece that stands right before it (token boundaries may not be cut there).
    pub fn text(&mut self, text: impl AsRef<str>) -> &mut Self {
        let text = text.as_ref();
        if text.is_empty() {
            return self;
        }
        match self.pieces.last_mut() {
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
        self
    }

    /// Appends token ids that the model sampled earlier, to be replayed without encoding anything again.
    pub fn tokens(&mut self, ids: impl Into<Vec<u32>>) -> &mut Self {
        let ids = ids.into();
        if !ids.is_empty() {
            self.pieces.push(Piece::Tokens(ids));
        }
        self
    }

    /// The pieces in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The prompt as one string, control tokens spelled out. For display and tests only: the text is ambiguous.
    pub fn to_display_string(&self) -> String {
        let spelled = |piece: &Piece| match piece {
            Piece::Control(special) => special.spelling().to_owned(),
            Piece::Text(text) => text.clone(),
            Piece::Tokens(ids) => format!("[{} replayed tokens]", ids.len()),
        };
        self.pieces.iter().map(spelled).collect()
    }
}
