//! `ds4 run`: one prompt, one answer.

mod prompt;
mod stages;

use std::sync::Arc;
use std::time::Instant;

use ds4_chat::special::Special;
use ds4_engine::{EngineOptions, Request};

use crate::answer::Answer;
use crate::args::{RunArgs, ThinkArg};
use crate::backend::start_engine;
use crate::exit::{Outcome, UsageError};
use crate::follow::follow;
use crate::interrupt::Interrupt;
use crate::model_source::{LoadedModel, ModelSource};
use crate::summary::{Ending, Summary};
use crate::terminal::{self, Waiting};

use stages::Stages;

/// Answers the prompt.
///
/// # Errors
/// An unusable model or prompt, options out of range, a failing backend.
pub fn execute(args: &RunArgs, started: Instant) -> anyhow::Result<Outcome> {
    let mut stages = Stages::new(started);
    let sampling = args.sampling.params();
    // Nothing that can be said at once waits for a model.
    let stop = args.sampling.check().map_err(UsageError)?;
    let text = prompt::read(&args.input)?;
    // Not before: reading from the keyboard ends at Ctrl-C by itself.
    let interrupt = Interrupt::install()?;
    stages.mark("arguments");

    let source = ModelSource::from(&args.model);
    let waiting = Waiting::new(format!("opening {}", source.label()));
    let loaded = LoadedModel::open(&source)?;
    drop(waiting);
    stages.mark("model");
    let think = match (args.think, args.raw) {
        (None, true) => ThinkArg::Off,
        (think, _) => ThinkArg::or_default(think, loaded.is_demo()),
    };
    let prompt = match args.raw {
        true => prompt::raw(&text, &loaded.tokenizer)?,
        false => {
            let profile = args.prompt_profile.resolve(loaded.profile());
            prompt::chat(&text, args.system.as_deref(), profile, think.thinking(), &loaded.tokenizer)?
        }
    };
    stages.mark("prompt");
    let options = EngineOptions { retain: 0, ctx: args.ctx.map(|ctx| ctx as usize), ..EngineOptions::default() };
    let engine = start_engine(&loaded, &args.backend, options, None)?;
    stages.mark("backend");

    let mut request = Request::new(prompt.ids);
    request.max_tokens = Some(args.tokens.map_or(think.default_tokens(), |tokens| tokens as usize));
    request.sampling = sampling;
    request.stop_tokens = loaded.tokenizer.special(Special::Eos).into_iter().collect();
    let mut generation = engine.submit(request)?;
    if source == ModelSource::Demo && !args.quiet {
        note("built-in demo model nano; for a real one: `ds4 pull q2`, then `ds4 run -m FILE`");
    }

    let show_reasoning = args.show_thinking.shows();
    let mut answer = Answer::new(Arc::clone(&loaded.tokenizer), prompt.parser, stop, show_reasoning);
    let mut summary = Summary::new(started, engine.context());
    let ending = follow(&mut generation, &mut answer, &mut summary, &interrupt, || stages.mark("first token"))?;
    generation.cancel();
    answer.finish(ending != Ending::Length && ending != Ending::Interrupted)?;
    if args.verbose {
        note(&stages.text());
        note(&format!("seed {}", summary.seed()));
    }
    if !args.quiet {
        summary.print(ending, None);
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
