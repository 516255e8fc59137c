//! `ds4 doctor`: what this machine can run, and whether it computes correctly.

mod adapter;
mod advice;
mod card;
mod self_test;
mod text;

use std::io::Write;

use ds4_model::Model;
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::card::CardFit;
use crate::exit::{Outcome, output_error};
use crate::fit::{self, Fit};
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::model_source::ModelSource;
use crate::terminal::{self, Stream};

use adapter::Adapter;
use advice::Advice;
use card::Card;
use self_test::ModeResult;

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    /// What this build computes on.
    backends: Vec<&'static str>,
    /// NVIDIA cards that it can compute on.
    cuda: Vec<Card>,
    /// Graphics cards that it can reach.
    adapters: Vec<Adapter>,
    /// The file that was asked about.
    file: Option<Fit>,
    /// It on a card of this machine that holds it.
    file_on_card: Option<CardFit>,
    published: Vec<Fit>,
    /// Name of the published file to download.
    recommended: Option<String>,
    self_test: Option<Vec<ModeResult>>,
}

/// Looks, tests if asked to, and reports.
///
/// # Errors
/// The file cannot be opened, or the machine refuses something.
pub fn execute(args: &DoctorArgs) -> anyhow::Result<Outcome> {
    let interrupt = Interrupt::install()?;
    let machine = Machine::look(args.backend.threads.map(usize::from))?;
    let (memory, bandwidth, kv) = (machine.memory, machine.bandwidth, args.backend.kv_precision);
    let (mut file, mut file_on_card) = (None, None);
    if let Some(path) = &args.model.model {
        let model = Model::new(ModelSource::from(&args.model).open()?)?;
        file = Some(fit::of_model(path.display().to_string(), &model, kv, memory, Some(bandwidth)));
        file_on_card = CardFit::of_this_machine(&model, kv).into_iter().find(|fit| fit.problem.is_none());
    }
    let published = fit::of_published(kv, memory, bandwidth)?;
    let self_test = match args.self_test {
        true => match self_test::run(&args.backend, &interrupt)? {
            Some(results) => Some(results),
            None => return Ok(Outcome::Interrupted),
        },
        false => None,
    };
    let cuda = Card::look(kv)?;
    let adapters: Vec<Adapter> = ds4_wgpu::adapters(ds4_wgpu::Api::Any).into_iter().map(Adapter::from).collect();
    let mut backends = vec!["cpu"];
    if !cuda.is_empty() {
        backends.push("cuda");
    }
    if adapters.iter().any(|adapter| adapter.unusable.is_none()) {
        backends.push("wgpu");
    }
    let recommended = Advice::new(&published, &cuda, &adapters).map(|advice| advice.model.name.clone());
    let report = Report { machine, backends, cuda, adapters, file, file_on_card, published, recommended, self_test };
    let text = match args.json {
        true => serde_json::to_string_pretty(&report)? + "\n",
        false => text::write(&report, Stream::Output.width().unwrap_or(80), terminal::style(Stream::Output)),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output_error)?;
    let failed = report.self_test.iter().flatten().any(|mode| !mode.passed());
    Ok(if failed { Outcome::Failed } else { Outcome::Done })
}
