//! From a conversation to the prompt that the model was trained on.
//!
//! The format (text in brackets is one control token):
//!
//! ```text
//! [BOS] effort system-text tools response-format
//! ([User] parts | [latest_reminder] text | [Assistant] [<think>] reasoning [</think>] content calls [EOS])*
//! [Assistant] [<think>] or [</think>]
//! ```
//!
//! Only this module writes control tokens ([`crate::special::Piece::Control`]); whatever comes from messages, tools
//! and results goes in as text and is encoded as text, whatever it spells. See `docs/prompts.md`.

mod calls;
mod error;
mod options;
mod prompt;
mod sections;
mod turns;

pub use error::RenderError;
pub use options::{Effort, Ending, Profile, RenderOptions, Thinking};
pub use prompt::{Boundary, BoundaryKind, RenderedPrompt};

use crate::conversation::{
    AssistantMessage, Conversation, Instructions, Message, QuickTask, ResponseFormat, Tool, ToolChoice, TurnEnd,
};
use crate::dsml::Start;
use crate::special::{Prompt, Special};
use prompt::Writer;
use turns::{Part, Turn, TurnKind};

/// Renders `conversation` as the prompt for the model's next output.
///
/// # Errors
///
/// [`RenderError`] when the conversation has no rendering that the model would understand.
pub fn render(conversation: &Conversation, options: &RenderOptions) -> Result<RenderedPrompt, RenderError> {
    error::check(conversation, options)?;
    Ok(Renderer::new(conversation, options).run())
}

/// Who opened the assistant turn that comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Header {
    /// Nobody: the assistant turn writes its own header.
    Missing,
    /// A user turn is to be answered. Its header is written as late as possible, so that reminders stand before it;
    /// it is muted with that turn.
    Due { muted: bool },
    /// A task token stands in its place.
    Task,
    /// The user turn was left out, and the header with it, as the model's reference encoder does.
    Dropped,
}

struct Renderer<'a> {
    conversation: &'a Conversation,
    options: &'a RenderOptions,
    show_tools: bool,
    keep_reasoning: bool,
    writer: Writer,
    header: Header,
}

impl<'a> Renderer<'a> {
    fn new(conversation: &'a Conversation, options: &'a RenderOptions) -> Self {
        let show_tools = error::shows_tools(conversation);
        Renderer {
            conversation,
            options,
            show_tools,
            keep_reasoning: !options.drop_thinking || show_tools,
            writer: Writer::default(),
            header: Header::Missing,
        }
    }

    fn run(mut self) -> RenderedPrompt {
        let done = self.options.already_rendered;
        let turns::Turns { system, mut turns } = turns::group(&self.conversation.messages, done);
        self.writer.mute(done > 0);
        self.start();
        self.system(&system);

        let last_user = turns.iter().rposition(Turn::is_user);
        let drops = self.options.thinking.is_on() && !self.keep_reasoning;
        for (index, turn) in turns.iter_mut().enumerate() {
            let is_dropped = drops && last_user.is_some_and(|last| index < last);
            if is_dropped && matches!(turn.kind, TurnKind::Developer { .. }) {
                turn.kind = TurnKind::Dropped;
            }
        }
        for (index, turn) in turns.iter().enumerate() {
            self.writer.mute(turn.first_message < done);
            let next = turns[index + 1..].iter().find(|turn| !matches!(turn.kind, TurnKind::Dropped));
            let shows_task = next.is_none_or(|next| !next.is_user());
            let after_last_user = last_user.is_none_or(|last| index > last);
            match &turn.kind {
                TurnKind::Dropped => {
                    if self.header == Header::Missing {
                        self.header = Header::Dropped;
                    }
                }
                TurnKind::User { parts, task } => {
                    self.user(parts);
                    self.end_user(task.filter(|_| shows_task));
                }
                TurnKind::Developer { instructions, task } => {
                    self.writer.out().control(Special::User);
                    self.instructions(instructions);
                    self.end_user(task.filter(|_| shows_task));
                }
                TurnKind::Reminder(content) => {
                    self.writer.out().control(Special::LatestReminder).text(content.to_text());
                    self.writer.boundary(BoundaryKind::User);
                }
                TurnKind::Assistant(assistant) => {
                    let muted = turn.first_message < done;
                    self.assistant(assistant, after_last_user, muted);
                    self.task(assistant.task.filter(|_| shows_task));
                    self.writer.boundary(BoundaryKind::Assistant);
                }
            }
        }
        self.writer.mute(false);
        let last = turns.last().and_then(|turn| match turn.kind {
            TurnKind::Assistant(assistant) => Some(assistant),
            _ => None,
        });
        self.finish(last)
    }

    fn start(&mut self) {
        let options = self.options;
        if options.bos {
            self.writer.out().control(Special::Bos);
        }
        if let Thinking::On(effort) = options.thinking
            && !self.conversation.messages.is_empty()
        {
            self.writer.out().text(sections::effort(options.profile, effort));
        }
    }

    /// The system block. What the request itself announces belongs to the part that an earlier prompt had.
    fn system(&mut self, system: &[(usize, &Instructions)]) {
        let done = self.options.already_rendered;
        for (position, (index, instructions)) in system.iter().enumerate() {
            self.writer.mute(*index < done);
            if position > 0 {
                self.writer.out().text("\n\n");
            }
            self.instructions(instructions);
        }
        self.writer.mute(done > 0);
        self.sections(&self.conversation.tools, &self.conversation.response_format);
        self.writer.boundary(BoundaryKind::System);
    }

    fn instructions(&mut self, instructions: &Instructions) {
        self.writer.out().text(instructions.content.to_text());
        self.sections(&instructions.tools, &instructions.response_format);
    }

    fn sections(&mut self, tools: &[Tool], format: &ResponseFormat) {
        if self.show_tools && !tools.is_empty() {
            sections::tools(self.writer.out().text("\n\n"), tools);
        }
        if let Some(section) = sections::response_format(format) {
            self.writer.out().text("\n\n").text(section);
        }
    }

    fn user(&mut self, parts: &[Part<'_>]) {
        self.writer.out().control(Special::User);
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                self.writer.out().text("\n\n");
            }
            match part {
                Part::Text(content) => {
                    self.writer.out().text(content.to_text());
                }
                Part::ToolResult { content, .. } => {
                    self.writer.out().text("<tool_result>").text(content.to_text()).text("</tool_result>");
                }
                Part::SystemReminder(instructions) => {
                    self.writer.out().text("<system-reminder>\n");
                    self.instructions(instructions);
                    self.writer.out().text("\n</system-reminder>");
                }
            }
        }
    }

    fn end_user(&mut self, task: Option<QuickTask>) {
        self.header = Header::Due { muted: self.writer.is_muted() };
        self.writer.boundary(BoundaryKind::User);
        self.task(task);
    }

    fn task(&mut self, task: Option<QuickTask>) {
        let Some(task) = task else { return };
        if task == QuickTask::Action {
            let marker = marker(self.options.thinking.is_on());
            self.writer.out().control(Special::Assistant).control(marker);
        }
        self.writer.out().control(match task {
            QuickTask::Action => Special::Action,
            QuickTask::Query => Special::Query,
            QuickTask::Authority => Special::Authority,
            QuickTask::Domain => Special::Domain,
            QuickTask::Title => Special::Title,
            QuickTask::ReadUrl => Special::ReadUrl,
        });
        self.header = Header::Task;
    }

    fn assistant(&mut self, message: &AssistantMessage, after_last_user: bool, muted: bool) {
        // Before a new turn, a finished one whose reasoning nobody has is shown without any, like the turns before it: an empty
        // think block would say that the model answered at once. The history alone is as the reference encoder writes it.
        let is_over = message.end == TurnEnd::Finished && self.options.ending != Ending::History;
        let has_reasoning = after_last_user && !(is_over && message.reasoning.is_empty());
        let wants_reasoning = self.options.thinking.is_on() && (self.keep_reasoning || has_reasoning);
        let has_header = matches!(self.header, Header::Missing | Header::Due { .. });
        let thinking = has_header && message.replay.as_ref().map_or(wants_reasoning, |replay| replay.thinking);
        if has_header {
            let marker = marker(thinking);
            self.writer.mute(matches!(self.header, Header::Due { muted: true }) || muted);
            self.writer.out().control(Special::Assistant).control(marker);
            self.writer.mute(muted);
        }
        self.header = Header::Missing;
        let out = self.writer.out();
        match &message.replay {
            Some(replay) => {
                out.tokens(replay.tokens.clone());
            }
            None => {
                if thinking {
                    out.text(&message.reasoning);
                    if !continues_reasoning(message) {
                        out.control(Special::EndThink);
                    }
                }
                out.text(message.content.to_text());
                if !message.tool_calls.is_empty() {
                    calls::block(out, &message.tool_calls);
                }
            }
        }
        if message.end == TurnEnd::Finished {
            out.control(Special::Eos);
        }
    }

    /// Ends the prompt. `last` is the last turn if it is an assistant turn.
    fn finish(mut self, last: Option<&AssistantMessage>) -> RenderedPrompt {
        let mut start = self.open_turn(last);
        let mut after_reasoning = None;
        if let Some(opening) = self.forced_call() {
            if matches!(start, Start::Reasoning | Start::ReasoningContinued) {
                let mut opener = Prompt::new();
                opening.write(&mut opener);
                after_reasoning = Some(opener);
            } else {
                opening.write(self.writer.out());
                start = opening.start();
            }
        }
        let (prompt, boundaries) = self.writer.finish();
        RenderedPrompt { prompt, boundaries, start, shows_tools: self.show_tools, after_reasoning }
    }

    /// Opens the assistant turn unless the last message is one to go on with.
    fn open_turn(&mut self, last: Option<&AssistantMessage>) -> Start {
        let thinking = self.options.thinking.is_on();
        if let Some(message) = last.filter(|message| message.end != TurnEnd::Finished) {
            return match thinking && continues_reasoning(message) {
                true if message.reasoning.is_empty() => Start::Reasoning,
                true => Start::ReasoningContinued,
                false if message.content.is_empty() => Start::Content,
                false => Start::ContentContinued,
            };
        }
        if self.header == Header::Task || self.options.ending == Ending::History {
            return Start::Content;
        }
        self.writer.out().control(Special::Assistant).control(marker(thinking));
        if thinking { Start::Reasoning } else { Start::Content }
    }

    /// What opens a call that the request demands.
    fn forced_call(&self) -> Option<calls::Opening> {
        match &self.conversation.tool_choice {
            _ if self.options.ending == Ending::History => None,
            ToolChoice::Auto | ToolChoice::None => None,
            ToolChoice::Required => Some(calls::Opening { name: None }),
            ToolChoice::Named(name) => Some(calls::Opening { name: Some(name.clone()) }),
        }
    }
}

/// The token after an assistant turn's header.
fn marker(thinking: bool) -> Special {
    if thinking { Special::Think } else { Special::EndThink }
}

/// Whether `message` is an opened turn that has not got beyond its reasoning.
fn continues_reasoning(message: &AssistantMessage) -> bool {
    message.end == TurnEnd::Continued && message.content.is_empty() && message.tool_calls.is_empty()
}

/// All tools of a conversation, those of its messages included, in the order in which they are shown.
pub(crate) fn all_tools(conversation: &Conversation) -> impl Iterator<Item = &Tool> {
    let of_messages = conversation.messages.iter().flat_map(|message| match message {
        Message::System(instructions) | Message::Developer { instructions, .. } => instructions.tools.as_slice(),
        _ => &[],
    });
    conversation.tools.iter().chain(of_messages)
}
