//! `ds4 bench`: prefill and decode speed at given contexts, beside what the memory allows.

mod measure;
mod output;
mod sessions;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use ds4_cpu::CpuBackend;
use ds4_cuda::CudaBackend;
use ds4_kvstore::KvStore;
use ds4_model::{Backend, Model, StateLayout};
use ds4_synth::SynthOptions;
use ds4_wgpu::WgpuBackend;

use crate::args::{BackendArgs, BackendKind, BenchArgs};
use crate::backend::AnyBackend;
use crate::exit::{Outcome, UsageError};
use crate::interrupt::Interrupt;
use crate::kv_cache;
use crate::model_source::{ModelSource, tokenizer_of, tokenizer_of_shape};

use measure::{Plan, Report, Scaling};
use sessions::{SessionsPlan, SessionsReport};

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
    if !args.sessions.is_empty() {
        return measure_sessions(args, &model, weights, contexts, &interrupt);
    }
    let plan = Plan {
        contexts,
        generate: args.generate as usize,
        prefill_chunk: args.prefill_chunk.map(|n| n as usize),
        passes: args.passes.into(),
    };
    let run = |args_of: &BackendArgs| {
        let backend = AnyBackend::open_with(Arc::clone(&model), args_of, args.synthetic.alias)?;
        let device = backend.device();
        match backend {
            AnyBackend::Cpu(mut backend) => {
                let read = |backend: &mut CpuBackend| Ok(Some(measure::bandwidth(backend.pool(), &model)));
                measure::measure(&mut *backend, device, read, &plan, &interrupt)
            }
            AnyBackend::Cuda(mut backend) => {
                let read = |backend: &mut CudaBackend| Ok(ds4_cuda::read_bandwidth(backend.device())?);
                measure::measure(&mut *backend, device, read, &plan, &interrupt)
            }
            AnyBackend::Wgpu(mut backend) => {
                let read = |backend: &mut WgpuBackend| Ok(Some(backend.read_bandwidth()?));
                measure::measure(&mut *backend, device, read, &plan, &interrupt)
            }
            AnyBackend::Reference(mut backend) => {
                measure::measure(&mut *backend, device, |_| Ok(None), &plan, &interrupt)
            }
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

/// Sessions that share an engine.
fn measure_sessions(
    args: &BenchArgs,
    model: &Arc<Model>,
    weights: String,
    contexts: Vec<usize>,
    interrupt: &Interrupt,
) -> anyhow::Result<Outcome> {
    let tokenizer = match &args.synthetic.synthetic {
        Some(shape) => tokenizer_of_shape(shape)?,
        None => tokenizer_of(model.gguf())?,
    };
    let tokenizer = Arc::new(tokenizer);
    let config = model.config();
    let mut numbers: Vec<usize> = args.sessions.iter().map(|&n| n.into()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let folder = kv_cache::folder(args.kv_dir.as_deref())?;
    let plan = SessionsPlan {
        sessions: numbers,
        generate: args.generate as usize,
        // The prompt and the token that follows it.
        long: (args.long as usize).min(config.context_length - 1),
        contexts,
        prefill_chunk: args.prefill_chunk.map(|n| n as usize),
        folder: &folder,
    };
    let open = || AnyBackend::open_with(Arc::clone(model), &args.backend, args.synthetic.alias);
    let device = open()?.device();
    let start = |options, store: Option<&KvStore>| open()?.into_engine(Arc::clone(&tokenizer), options, store);
    let layout = StateLayout::new(config, args.backend.kv_precision);
    let Some(figures) = sessions::measure(&start, &layout, config.n_vocab, &plan, interrupt)? else {
        return Ok(Outcome::Interrupted);
    };
    let sessions::Figures { together, beside_prompt, resumed, writing } = figures;
    let report = SessionsReport {
        weights,
        device,
        compute: args.backend.compute.to_string(),
        kv_precision: args.backend.kv_precision.to_string(),
        together,
        beside_prompt,
        resumed,
        writing,
    };
    if let Some(target) = &args.json {
        put(target, &output::json(&report))?;
    }
    if args.json.as_deref() != Some(Path::new("-")) {
        print(&sessions::table(&report))?;
    }
    Ok(Outcome::Done)
}

/// Speed on a small model: prefill of 128 tokens, then decoding; tokens per second. `None` after Ctrl-C.
///
/// # Errors
/// The backend fails.
pub fn quick<B: Backend>(backend: &mut B, interrupt: &Interrupt) -> anyhow::Result<Option<(f64, f64)>> {
    let plan = Plan { contexts: vec![128], generate: 16, prefill_chunk: Some(64), passes: 1 };
    let report = measure::measure(backend, String::new(), |_| Ok(None), &plan, interrupt)?;
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
