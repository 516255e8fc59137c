//! `ds4 bench`: prefill and decode speed at given contexts, beside what the memory allows.

mod measure;
mod output;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use ds4_model::{Backend, Model};
use ds4_synth::SynthOptions;

use crate::args::{BackendArgs, BackendKind, BenchArgs};
use crate::backend::AnyBackend;
use crate::exit::{Outcome, UsageError};
use crate::interrupt::Interrupt;
use crate::model_source::ModelSource;

use measure::{Plan, Report, Scaling};

/// Measures.
///
/// # Errors
/// The model cannot be opened or made, the machine refuses something, or an output cannot be written.
pub fn execute(args: &BenchArgs) -> anyhow::Result<Outcome> {
    let interrupt = Interrupt::install()?;
    let mut contexts: Vec<usize> = args.ctx.iter().map(|&n| n as usize).collect();
    contexts.sort_unstable();
    contexts.dedup();
    let (model, weights) = open(args)?;
    let longest = contexts.last().copied().unwrap_or(0) + args.generate as usize;
    if longest > model.config().context_length {
        let most = model.config().context_length;
        return Err(UsageError(format!(
            "--ctx and --gen ask for {longest} tokens; this model has a context of {most}"
        ))
        .into());
    }
    let plan = Plan { contexts, generate: args.generate as usize, prefill_chunk: args.prefill_chunk as usize };
    let run = |backend: &BackendArgs| match AnyBackend::open_with(Arc::clone(&model), backend, args.synthetic.alias)? {
        AnyBackend::Cpu(mut backend) => {
            let bandwidth = measure::bandwidth(backend.pool(), &model);
            let device = format!("CPU, {} threads, {}", backend.threads(), backend.isa());
            measure::measure(&mut *backend, device, Some(bandwidth), &plan, &interrupt)
        }
        AnyBackend::Cuda(mut backend) => {
            let bandwidth = ds4_cuda::read_bandwidth(backend.device())?;
            let device = ds4_cuda::Device::name(&**backend.device());
            measure::measure(&mut *backend, device, bandwidth, &plan, &interrupt)
        }
        AnyBackend::Wgpu(mut backend) => {
            let card = backend.adapter();
            let device = format!("{} ({}, {})", card.name, card.api, card.driver);
            let bandwidth = backend.read_bandwidth()?;
            measure::measure(&mut *backend, device, Some(bandwidth), &plan, &interrupt)
        }
        AnyBackend::Reference(mut backend) => {
            measure::measure(&mut *backend, "reference, 1 thread".to_owned(), None, &plan, &interrupt)
        }
    };
    let mut last = None;
    let mut scaling = Vec::new();
    if args.scaling.is_empty() {
        last = run(&args.backend)?;
    }
    for &threads in &args.scaling {
        let Some(report) = run(&BackendArgs { threads: Some(threads), ..args.backend.clone() })? else {
            return Ok(Outcome::Interrupted);
        };
        scaling.extend(Scaling::of(&report, threads.into()));
        last = Some(report);
    }
    let Some(report) = last else { return Ok(Outcome::Interrupted) };
    write(args, &Report { weights, scaling, ..report })
}

/// Speed on a small model: prefill of 128 tokens, then decoding; tokens per second. `None` after Ctrl-C.
///
/// # Errors
/// The backend fails.
pub fn quick<B: Backend>(backend: &mut B, interrupt: &Interrupt) -> anyhow::Result<Option<(f64, f64)>> {
    let plan = Plan { contexts: vec![128], generate: 16, prefill_chunk: 64 };
    let report = measure::measure(backend, String::new(), None, &plan, interrupt)?;
    Ok(report.and_then(|report| report.points.first().map(|point| (point.prefill.unwrap_or(0.0), point.decode))))
}

/// The model, and in words what its weights are.
fn open(args: &BenchArgs) -> anyhow::Result<(Arc<Model>, String)> {
    let Some(shape) = args.synthetic.synthetic else {
        let source = ModelSource::from(&args.model);
        let gguf = source.open()?;
        let name = gguf.name().to_owned();
        return Ok((Arc::new(Model::new(gguf)?), name));
    };
    // A card gets weights of its own for every layer, copied from one layer's bytes in the host's memory.
    let is_card = !matches!(args.backend.backend, BackendKind::Auto | BackendKind::Cpu | BackendKind::Reference);
    let alias = args.synthetic.alias || is_card;
    let options = SynthOptions { shape, layers: args.synthetic.layers, alias, seed: 1 };
    let mut words = format!("synthetic {}, random weights", shape.name);
    if let Some(layers) = options.layers {
        words.push_str(&format!(", {layers} of {} layers", shape.n_layer));
    }
    if args.synthetic.alias {
        words.push_str(", layers share their bytes");
    }
    eprintln!("Making {words}: {} …", crate::units::bytes(ds4_synth::data_bytes(&options)?));
    Ok((Arc::new(Model::new(ds4_synth::in_memory(&options, None)?)?), words))
}

fn write(args: &BenchArgs, report: &Report) -> anyhow::Result<Outcome> {
    let mut table = true;
    for (target, text) in [(&args.json, output::json as fn(&Report) -> String), (&args.csv, output::csv)] {
        let Some(target) = target else { continue };
        table &= target != Path::new("-");
        put(target, &text(report))?;
    }
    if let Some(target) = &args.svg {
        put(target, &output::svg(report)?)?;
    }
    if table {
        print(&output::table(report))?;
        if args.profile {
            print(&output::profile(report))?;
        }
    }
    Ok(Outcome::Done)
}

fn put(target: &Path, text: &str) -> anyhow::Result<()> {
    if target == Path::new("-") {
        return print(text);
    }
    std::fs::write(target, text).with_context(|| format!("cannot write {}", target.display()))
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(crate::exit::output_error)
}
