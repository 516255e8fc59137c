//! A conversation under way: messages are answered, commands carried out.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;
use ds4_engine::{Engine, EngineError, Event, Generation, Request};

use super::command::Command;
use super::echo::NoEcho;
use super::report;
use super::saved;
use super::stats::Stats;
use super::text_file::TextFile;
use super::transcript::{Answered, PromptSettings, Sampled, Transcript, Turn, UserMessage};
use crate::answer::{Answer, Said};
use crate::args::{ChatArgs, ThinkArg};
use crate::exit::UsageError;
use crate::follow::follow;
use crate::interrupt::Interrupt;
use crate::summary::{Ending, Summary};
use crate::terminal::{self, printable};
use crate::units::{counted, grouped};

/// How long the end of an interrupted answer is waited for. Its last tokens come within a step; without them the
/// next message costs the whole answer again.
const LAST_STEP: Duration = Duration::from_millis(500);

/// A conversation and what it needs to go on.
pub struct Session<'a> {
    args: &'a ChatArgs,
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    interrupt: Interrupt,
    settings: PromptSettings,
    think: ThinkArg,
    transcript: Transcript,
    /// Files for the next message.
    attached: Vec<TextFile>,
    /// A message that was not answered, to be changed or sent again.
    draft: String,
    /// How often the last message was answered again.
    retries: u64,
    stats: Stats,
}

/// What becomes of the session after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    Continue,
    /// It goes on; Ctrl-C ended an answer.
    Interrupted,
    /// It is over.
    Quit,
}

/// How an answer turned out.
enum Reply {
    /// The model, or a limit, ended it.
    Whole(Answered),
    /// Ctrl-C did.
    Cut(Answered),
    /// Ctrl-C came before it began.
    Nothing,
}

impl<'a> Session<'a> {
    /// A conversation that begins with the arguments' system text.
    pub fn new(
        args: &'a ChatArgs,
        engine: Engine,
        interrupt: Interrupt,
        settings: PromptSettings,
        think: ThinkArg,
    ) -> Session<'a> {
        let tokenizer = Arc::clone(engine.tokenizer());
        let transcript = Transcript { system: args.system.clone(), turns: Vec::new() };
        Session {
            args,
            engine,
            tokenizer,
            interrupt,
            settings,
            think,
            transcript,
            attached: Vec::new(),
            draft: String::new(),
            retries: 0,
            stats: Stats::default(),
        }
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// A sentence about what could not be done; the conversation is as it was.
    pub fn command(&mut self, command: Command) -> anyhow::Result<Next> {
        match command {
            Command::Help => report::print(&report::help(terminal::Stream::Error.width())),
            Command::Retry => return self.retry(),
            Command::Undo => self.undo()?,
            Command::New => {
                self.attached.clear();
                self.transcript.turns.clear();
                self.note("a new conversation");
            }
            Command::Read(path) => self.attach(&path)?,
            Command::ShowSystem => match self.transcript.system.clone() {
                Some(text) => self.note(&format!("system text: {text}")),
                None => self.note("there is no system text; /system TEXT sets one"),
            },
            Command::SetSystem(text) => self.set_system(text),
            Command::ShowThink => self.note(&format!("thinking: {}", self.think.name())),
            Command::SetThink(think) => {
                self.think = think;
                self.settings.thinking = think.thinking();
                self.note(&format!("thinking: {}", think.name()));
            }
            Command::Context => report::print(&self.context()?),
            Command::Stats => report::print(&self.stats.lines(self.engine.context())),
            Command::Save(path) => self.save(&path)?,
            Command::Load(path) => self.load(&path)?,
            Command::Quit => return Ok(Next::Quit),
        }
        Ok(Next::Continue)
    }

    /// The text of a message that was not answered; it is handed out once.
    pub fn take_draft(&mut self) -> String {
        std::mem::take(&mut self.draft)
    }

    /// Sends a message and shows the answer.
    ///
    /// # Errors
    /// The message was not answered. It, and the files that belong to it, are kept.
    pub fn message(&mut self, text: String) -> anyhow::Result<Next> {
        self.retries = 0;
        let message = UserMessage { files: std::mem::take(&mut self.attached), text };
        let reply = self.answer(&message);
        let (answer, next) = match reply {
            Ok(Reply::Whole(answer)) => (answer, Next::Continue),
            Ok(Reply::Cut(answer)) => (answer, Next::Interrupted),
            unanswered => {
                self.attached = message.files;
                self.draft = message.text;
                unanswered?;
                return Ok(Next::Interrupted);
            }
        };
        self.transcript.turns.push(Turn { message, answer });
        Ok(next)
    }

    /// Answers the last message again.
    fn retry(&mut self) -> anyhow::Result<Next> {
        let Some(Turn { message, answer: former }) = self.transcript.turns.pop() else {
            bail!("there is no answer to try again yet");
        };
        self.retries += 1;
        let reply = self.answer(&message);
        let (answer, next) = match &reply {
            Ok(Reply::Whole(answer)) => (answer.clone(), Next::Continue),
            Ok(Reply::Cut(answer)) => (answer.clone(), Next::Interrupted),
            // The former answer is better than none.
            Ok(Reply::Nothing) | Err(_) => (former, Next::Interrupted),
        };
        self.transcript.turns.push(Turn { message, answer });
        reply?;
        Ok(next)
    }

    /// Takes back files that wait for a message, else the last turn.
    fn undo(&mut self) -> anyhow::Result<()> {
        if !self.attached.is_empty() {
            let names: Vec<String> = self.attached.drain(..).map(|file| file.name).collect();
            self.note(&format!("not in the next message any more: {}", names.join(", ")));
            return Ok(());
        }
        let Some(turn) = self.transcript.turns.pop() else { bail!("there is nothing to take back") };
        self.retries = 0;
        let begin = report::first_line(&turn.message.text, 40);
        self.note(&format!("taken back: {begin}"));
        Ok(())
    }

    fn attach(&mut self, path: &Path) -> anyhow::Result<()> {
        let file = TextFile::read(path)?;
        let tokens = self.tokenizer.encode(&file.in_message()).len();
        let context = self.engine.context();
        if tokens >= context {
            bail!(
                "{} has {}, but the context holds {}; take a part of it, or start with a larger --ctx",
                path.display(),
                counted(tokens as u64, "token"),
                grouped(context as u64)
            );
        }
        self.note(&format!("{}: {}, with the next message", file.name, counted(tokens as u64, "token")));
        self.attached.push(file);
        Ok(())
    }

    fn set_system(&mut self, text: Option<String>) {
        self.note(match &text {
            Some(_) => "the system text is set; what was said is computed again with it",
            None => "there is no system text any more",
        });
        self.transcript.system = text;
    }

    fn save(&mut self, path: &Path) -> anyhow::Result<()> {
        saved::save(&self.transcript, path)?;
        let turns = counted(self.transcript.turns.len() as u64, "turn");
        self.note(&format!("{turns} written to {}", path.display()));
        Ok(())
    }

    /// Goes on with a saved conversation.
    ///
    /// # Errors
    /// It cannot be read; the present one is kept.
    pub fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        self.transcript = saved::load(path)?;
        self.attached.clear();
        self.retries = 0;
        let turns = counted(self.transcript.turns.len() as u64, "turn");
        let last = self.transcript.turns.last().map(|turn| report::first_line(&turn.message.text, 40));
        let last = last.map_or(String::new(), |text| format!("; the last one: {text}"));
        self.note(&format!("{turns} read from {}{last}", path.display()));
        Ok(())
    }

    fn context(&self) -> anyhow::Result<Vec<String>> {
        let count = |text: &str| self.tokenizer.encode(text).len();
        let used = self.transcript.tokens(&self.settings, &self.tokenizer)?;
        let width = terminal::Stream::Error.width();
        let attached = self.attached.iter().map(|file| (file.name.as_str(), count(&file.in_message())));
        let attached: Vec<(&str, usize)> = attached.collect();
        Ok(report::context(&self.transcript, used, self.engine.context(), &attached, count, width))
    }

    fn answer(&mut self, message: &UserMessage) -> anyhow::Result<Reply> {
        let asked = Instant::now();
        // Pressed before, it meant something else.
        self.interrupt.take();
        let prompt = self.transcript.prompt(message, &self.settings, &self.tokenizer)?;
        let mut request = Request::new(prompt.ids);
        let tokens = self.args.tokens.map(|tokens| tokens as usize);
        request.max_tokens = Some(tokens.unwrap_or(self.think.default_tokens()));
        request.sampling = self.args.sampling.params();
        // Another attempt with the same seed would give the same answer.
        request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(self.retries));
        request.snapshots = prompt.snapshot.into_iter().collect();
        request.stop_tokens = self.tokenizer.special(Special::Eos).into_iter().collect();
        let mut generation = self.engine.submit(request).map_err(|error| self.refusal(error))?;

        let _no_echo = NoEcho::new();
        let stop = self.args.sampling.check().map_err(UsageError)?;
        let parser = Some(prompt.parser);
        let mut answer = Answer::new(Arc::clone(&self.tokenizer), parser, stop, self.args.show_thinking.shows());
        let mut summary = Summary::new(asked, self.engine.context());
        let ending = follow(&mut generation, &mut answer, &mut summary, &self.interrupt, || {})?;
        generation.cancel();
        if ending == Ending::Interrupted {
            take_last_tokens(&mut generation, &mut answer, &mut summary)?;
        }
        answer.finish(ending == Ending::Complete)?;
        let counts = summary.counts();
        if ending == Ending::Interrupted && counts.answer == 0 {
            self.note("stopped before the answer began; the message is not part of the conversation");
            return Ok(Reply::Nothing);
        }
        self.stats.add(&counts);
        let context = self.engine.context();
        if !self.args.quiet {
            let used = counts.prompt + counts.answer;
            summary.print(ending, Some(format!("context {} of {}", grouped(used as u64), grouped(context as u64))));
        }
        if ending == Ending::Length && counts.prompt + counts.answer >= context {
            self.note("to make room: /undo, /new, or a new start with a larger --ctx (after /save)");
        }
        let answered = answered(answer.into_said(), self.settings.thinking.is_on());
        Ok(match ending {
            Ending::Interrupted => Reply::Cut(answered),
            Ending::Complete | Ending::Length => Reply::Whole(answered),
        })
    }

    /// Why the engine does not take a prompt, and what to do about it.
    fn refusal(&self, error: EngineError) -> anyhow::Error {
        match error {
            EngineError::PromptTooLong { prompt, context } => {
                let (prompt, context) = (grouped(prompt as u64), grouped(context as u64));
                anyhow!(
                    "with this message the conversation has {prompt} tokens, but the context holds {context}, the answer                      included; nothing was sent: shorten the message, make room with /undo or /new, or /save and start                      again with a larger --ctx"
                )
            }
            error => error.into(),
        }
    }

    fn note(&self, text: &str) {
        if !self.args.quiet {
            terminal::tell(&printable(text), |style, line| style.dim(line).into_owned());
        }
    }
}

/// Takes what an interrupted generation has said until its end, as far as that comes soon.
fn take_last_tokens(generation: &mut Generation, answer: &mut Answer, summary: &mut Summary) -> anyhow::Result<()> {
    let patience = Instant::now() + LAST_STEP;
    loop {
        match generation.next_timeout(patience.saturating_duration_since(Instant::now())) {
            Some(Event::Token(token)) if !answer.is_complete() => {
                summary.token(generation.sent());
                answer.push(token.id)?;
            }
            Some(Event::Finished(_)) | None => return Ok(()),
            Some(_) => {}
        }
    }
}

/// What was said, as a part of the conversation.
fn answered(said: Said, thinking: bool) -> Answered {
    let sampled = Sampled { thinking, tokens: said.tokens };
    Answered {
        reasoning: said.reasoning,
        content: said.content,
        // The model has seen more than was shown then.
        sampled: (!said.is_cut_by_stop).then_some(sampled),
    }
}
