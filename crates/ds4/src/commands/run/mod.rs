//! `ds4 run`: one prompt, one answer.

mod answer;
mod prompt;
mod stages;
mod summary;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use ds4_chat::special::Special;
use ds4_engine::{Engine, EngineError, EngineOptions, Event, FinishReason, Request, StopMatcher};

use crate::args::{ProfileArg, RunArgs, ShowThinking, ThinkArg};
use crate::backend::AnyBackend;
use crate::exit::{Outcome, UsageError};
use crate::interrupt::Interrupt;
use crate::model_source::{LoadedModel, ModelSource};
use crate::terminal::{self, Progress, Stream, Unit, Waiting};

use answer::Answer;
use stages::Stages;
use summary::{Ending, Summary};

/// How long to wait for the next event before looking for Ctrl-C: a step of a large model may take seconds.
const POLL: Duration = Duration::from_millis(50);

/// Answers the prompt.
///
/// # Errors
/// An unusable model or prompt, options out of range, a failing backend.
pub fn execute(args: &RunArgs, started: Instant) -> anyhow::Result<Outcome> {
    let mut stages = Stages::new(started);
    let sampling = args.sampling.params();
    // Nothing that can be said at once waits for a model.
    sampling.validate(0).map_err(|error| UsageError(format!("{}: {error}", option_of(error.field()))))?;
    let stop = StopMatcher::new(&args.sampling.stop).map_err(|error| UsageError(format!("--stop: {error}")))?;
    let text = prompt::read(&args.input)?;
    // Not before: reading from the keyboard ends at Ctrl-C by itself.
    let interrupt = Interrupt::install()?;
    stages.mark("arguments");

    let source = ModelSource::from(&args.model);
    let waiting = Waiting::new(format!("opening {}", source.label()));
    let loaded = LoadedModel::open(&source)?;
    drop(waiting);
    stages.mark("model");
    let think = think(args, &loaded);
    let prompt = match args.raw {
        true => prompt::raw(&text, &loaded.tokenizer)?,
        false => {
            let profile = match args.prompt_profile {
                ProfileArg::Auto => loaded.profile(),
                ProfileArg::Preview => ds4_chat::render::Profile::Preview,
                ProfileArg::Release0731 => ds4_chat::render::Profile::Release0731,
            };
            prompt::chat(&text, args.system.as_deref(), profile, think.thinking(), &loaded.tokenizer)?
        }
    };
    stages.mark("prompt");
    let engine = start_engine(args, &loaded)?;
    stages.mark("backend");

    let mut request = Request::new(prompt.ids);
    request.max_tokens = Some(args.tokens.map_or(think.default_tokens(), |tokens| tokens as usize));
    request.sampling = sampling;
    request.stop_tokens = loaded.tokenizer.special(Special::Eos).into_iter().collect();
    let mut generation = engine.submit(request)?;
    if source == ModelSource::Demo && !args.quiet {
        note("built-in demo model nano; for a real one: `ds4 pull q2`, then `ds4 run -m FILE`");
    }

    let show_reasoning = match args.show_thinking {
        ShowThinking::Auto => Stream::Error.is_terminal(),
        ShowThinking::Always => true,
        ShowThinking::Never => false,
    };
    let mut answer = Answer::new(Arc::clone(&loaded.tokenizer), prompt.parser, stop, show_reasoning);
    let mut summary = Summary::new(started, engine.context());
    let mut progress: Option<Progress> = None;
    let ending = loop {
        if interrupt.is_pressed() {
            // The step in progress is not waited for: the process ends, and the engine with it.
            break Ending::Interrupted;
        }
        match generation.next_timeout(POLL) {
            None => progress.iter().for_each(Progress::refresh),
            Some(Event::Started(event)) => {
                progress = Some(Progress::new("prompt", event.prompt_tokens as u64, Unit::Tokens));
                summary.started(&event);
            }
            Some(Event::Prefill(event)) => {
                progress.iter().for_each(|bar| bar.set(event.done as u64));
                if event.done == event.total {
                    progress = None;
                    summary.prefilled();
                }
            }
            Some(Event::Token(token)) => {
                progress = None;
                if summary.token() {
                    stages.mark("first token");
                }
                answer.push(token.id)?;
                if answer.is_complete() {
                    break Ending::Complete;
                }
            }
            Some(Event::Finished(finished)) => match finished.reason {
                FinishReason::Length => break Ending::Length,
                FinishReason::Error(error) => {
                    answer.finish(false)?;
                    bail!(error);
                }
                _ => break Ending::Complete,
            },
        }
    };
    drop(progress);
    generation.cancel();
    answer.finish(ending != Ending::Length && ending != Ending::Interrupted)?;
    if args.verbose {
        note(&stages.text());
        note(&format!("seed {}", summary.seed()));
    }
    if !args.quiet {
        summary.print(ending);
    }
    match ending {
        Ending::Interrupted => Ok(Outcome::Interrupted),
        Ending::Complete | Ending::Length => Ok(Outcome::Done),
    }
}

/// A note beside the answer.
fn note(text: &str) {
    terminal::tell(&format!("ds4: {text}"), |style, line| style.dim(line).into_owned());
}

/// The demo model answers best at once; real models were made to think.
fn think(args: &RunArgs, loaded: &LoadedModel) -> ThinkArg {
    match args.think {
        Some(think) => think,
        None if args.raw || loaded.is_demo() => ThinkArg::Off,
        None => ThinkArg::High,
    }
}

fn start_engine(args: &RunArgs, loaded: &LoadedModel) -> anyhow::Result<Engine> {
    let options = EngineOptions { retain: 0, ctx: args.ctx.map(|ctx| ctx as usize), ..EngineOptions::default() };
    let tokenizer = Arc::clone(&loaded.tokenizer);
    let engine = match AnyBackend::open(Arc::clone(&loaded.model), &args.backend)? {
        AnyBackend::Cpu(backend) => Engine::start(*backend, tokenizer, options),
        AnyBackend::Reference(backend) => Engine::start(*backend, tokenizer, options),
    };
    engine.map_err(|error| match error {
        EngineError::Option { option: "ctx", value, expected } => {
            UsageError(format!("--ctx is {value}; it must be {expected}")).into()
        }
        error => error.into(),
    })
}

/// The command-line option that sets a sampling parameter.
fn option_of(parameter: &str) -> String {
    match parameter {
        "temperature" => "--temp".to_owned(),
        "repetition_penalty" => "--repeat-penalty".to_owned(),
        other => format!("--{}", other.replace('_', "-")),
    }
}
