//! `ds4 chat`: a conversation.

mod command;
mod echo;
mod editor;
mod input;
mod message;
mod report;
mod saved;
mod session;
mod stats;
mod termination;
mod text_file;
mod transcript;

use std::io::{self, IsTerminal};

use anyhow::Context;
use ds4_engine::EngineOptions;

use crate::args::{ChatArgs, ThinkArg};
use crate::backend::start_engine;
use crate::exit::{self, Outcome, OutputClosed, UsageError};
use crate::interrupt::Interrupt;
use crate::kv_cache;
use crate::model_source::{LoadedModel, ModelSource};
use crate::terminal::{self, Stream, Waiting};
use crate::units::counted;

use command::Command;
use editor::Editor;
use input::{Input, Line};
use message::{Assembled, Assembler};
use session::{Next, Session};
use transcript::PromptSettings;

/// States to keep: each turn leaves two, at the end of the message and of the answer, so eight turns can be taken back
/// without computing what was said before them again. A state of the full-size model has a few megabytes beside the pages that
/// they all share.
const RETAINED_STATES: usize = 16;

/// Holds a conversation.
///
/// # Errors
/// An unusable model, options out of range, a terminal or standard input that fails.
pub fn execute(args: &ChatArgs) -> anyhow::Result<Outcome> {
    // Nothing that can be said at once waits for a model.
    args.sampling.check().map_err(UsageError)?;
    let source = ModelSource::from(&args.model);
    let waiting = Waiting::new(format!("opening {}", source.label()));
    let loaded = LoadedModel::open(&source)?;
    let ctx = args.ctx.map(|ctx| ctx as usize);
    let kv_ram = args.kv.kv_ram.map(|size| size.0);
    let options = EngineOptions { retain: RETAINED_STATES, ctx, kv_ram, ..EngineOptions::default() };
    // What was said before, here or through the server, need not be computed again.
    let store = kv_cache::open(&args.kv, loaded.is_demo(), true)?;
    let engine = start_engine(&loaded, &args.backend, options, store.as_ref())?;
    drop(waiting);
    // Not before: until here, Ctrl-C ends the program by itself.
    let interrupt = Interrupt::install_for_session()?;
    let mut input = match io::stdin().is_terminal() && Stream::Output.is_terminal() {
        true => {
            termination::restore_terminal_at_signals().context("cannot take over SIGTERM")?;
            Input::Editor(Box::new(Editor::open(!args.no_history)?))
        }
        false => Input::lines(interrupt.clone()),
    };
    if input.is_interactive() && !args.quiet {
        let context = counted(engine.context() as u64, "token");
        let text = format!("{}, context {context}; /help lists the commands", source.label());
        terminal::tell(&terminal::printable(&text), |style, line| style.dim(line).into_owned());
    }
    let think = ThinkArg::or_default(args.think, loaded.is_demo());
    let settings = PromptSettings {
        profile: args.prompt_profile.resolve(loaded.profile()),
        thinking: think.thinking(),
        keep_thinking: args.keep_thinking,
    };
    let mut session = Session::new(args, engine.clone(), interrupt, settings, think);
    if let Some(path) = &args.resume {
        session.load(path)?;
    }
    let outcome = converse(&mut session, &mut input);
    drop(session);
    engine.shut_down();
    if let Some(store) = store {
        // What the last answer left is on the disk before the process ends.
        store.flush();
    }
    outcome
}

/// Reads and carries out lines until the end. A pipe's failed lines are told by the exit code, a person sees them.
fn converse(session: &mut Session<'_>, input: &mut Input) -> anyhow::Result<Outcome> {
    let mut assembler = Assembler::default();
    let mut outcome = Outcome::Done;
    // Ctrl-C leaves at an empty line that follows one that it has cleared.
    let mut leaves_at_interrupt = false;
    loop {
        let draft = if assembler.is_open() { String::new() } else { session.take_draft() };
        let (assembled, is_last) = match input.read(assembler.is_open(), &draft)? {
            Line::Text(line) => (assembler.push(&line), false),
            Line::Interrupted { .. } if !input.is_interactive() => return Ok(Outcome::Interrupted),
            Line::Interrupted { was_empty: true } if leaves_at_interrupt => return Ok(outcome),
            Line::Interrupted { .. } => {
                assembler.clear();
                leaves_at_interrupt = true;
                continue;
            }
            // A person who leaves in the middle of a message does not want it sent.
            Line::End if input.is_interactive() => return Ok(outcome),
            Line::End => (assembler.finish(), true),
        };
        leaves_at_interrupt = false;
        if let Some(message) = assembled.filter(|message| !message.text.trim().is_empty()) {
            input.remember(&message.text);
            match carry_out(session, message) {
                Ok(Next::Continue) => {}
                Ok(Next::Interrupted) if input.is_interactive() => {}
                Ok(Next::Interrupted) => return Ok(Outcome::Interrupted),
                Ok(Next::Quit) => return Ok(outcome),
                Err(error) if error.is::<OutputClosed>() => return Err(error),
                Err(error) => {
                    exit::report(&error);
                    if !input.is_interactive() {
                        outcome = Outcome::Failed;
                    }
                }
            }
        }
        if is_last {
            return Ok(outcome);
        }
    }
}

fn carry_out(session: &mut Session<'_>, message: Assembled) -> anyhow::Result<Next> {
    let command = if message.is_quoted { None } else { Command::parse(&message.text) };
    match command {
        None => session.message(message.text),
        Some(command) => session.command(command.map_err(anyhow::Error::msg)?),
    }
}
