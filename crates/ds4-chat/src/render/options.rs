//! What rendering depends on beside the conversation: the checkpoint's profile and the thinking mode.

/// How a checkpoint was taught reasoning effort. It belongs to the checkpoint, not to the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// DeepSeek-V4-Flash and -Pro of April 2026: only maximum effort has a text.
    #[default]
    Preview,
    /// DeepSeek-V4-Flash-0731, DSpark builds and later: low effort has no text, high and maximum have one each.
    Release0731,
}

impl Profile {
    /// Guesses the profile from the names that a GGUF file gives itself and its base models (`general.name`,
    /// `general.version`, `general.base_model.*.name` and `.version`). A file does not say which release it is in any
    /// better way; without a hint it is [`Profile::Preview`].
    pub fn from_model_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Profile {
        let is_0731 = |name: &str| name.contains("0731") || name.to_ascii_lowercase().contains("dspark");
        if names.into_iter().any(is_0731) { Profile::Release0731 } else { Profile::Preview }
    }
}

/// How hard the model should think.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// Little.
    Low,
    /// The default of requests.
    #[default]
    High,
    /// As much as possible.
    Max,
}

/// Whether the model reasons before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// Chat mode: no reasoning, and none of the history is shown.
    Off,
    /// Thinking mode.
    On(Effort),
}

impl Thinking {
    /// Whether this is thinking mode.
    pub fn is_on(self) -> bool {
        matches!(self, Thinking::On(_))
    }
}

/// What a prompt ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// An opened assistant turn for the model to fill, or the last message where that is to be continued.
    #[default]
    AssistantTurn,
    /// The last message: the history alone, for example to fill a cache with it.
    History,
}

/// What rendering depends on beside the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    /// The checkpoint's profile.
    pub profile: Profile,
    /// The thinking mode.
    pub thinking: Thinking,
    /// Whether reasoning of turns before the last user turn is left out, as the model was trained. Has no effect when
    /// tools are shown: then all reasoning stays.
    pub drop_thinking: bool,
    /// Whether the prompt starts with the beginning-of-sentence token.
    pub bos: bool,
    /// What the prompt ends with.
    pub ending: Ending,
    /// Number of leading messages that an earlier prompt already ended with: they decide about what follows but are
    /// not written again, and nothing merges with them.
    pub already_rendered: usize,
}

impl Default for RenderOptions {
    fn default() -> Self {
        RenderOptions {
            profile: Profile::default(),
            thinking: Thinking::On(Effort::default()),
            drop_thinking: true,
            bos: true,
            ending: Ending::default(),
            already_rendered: 0,
        }
    }
}
