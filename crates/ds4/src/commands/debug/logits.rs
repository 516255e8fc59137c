//! `ds4 debug logits`: every position's logits as a NumPy file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use ds4_gguf::AtomicFile;
use ds4_model::rows::Wanted;
use ds4_model::{Backend, Buffer, Model, Rows, forward};

use crate::args::LogitsArgs;
use crate::backend::AnyBackend;
use crate::exit::Outcome;
use crate::interrupt::Interrupt;
use crate::model_source::ModelSource;
use crate::npy::NpyWriter;
use crate::terminal::{Progress, Unit};

/// Computes the logits of the tokens, chunk by chunk. The file appears when it is complete.
///
/// # Errors
/// An unusable model or token list, a file that cannot be written.
pub fn execute(args: &LogitsArgs) -> anyhow::Result<Outcome> {
    let model = std::sync::Arc::new(Model::new(ModelSource::from(&args.model).open()?)?);
    let tokens = read_tokens(&args.tokens)?;
    // An interrupted run removes its temporary file.
    let interrupt = Interrupt::install()?;
    let context = model.config().context_length;
    if tokens.len() > context {
        bail!("{}: {} tokens are more than the model's context of {context}", args.tokens.display(), tokens.len());
    }
    let n_vocab = model.config().n_vocab;
    let cannot_write = || format!("cannot write {}", args.out.display());
    let mut file = AtomicFile::create(&args.out)?;
    let mut npy = NpyWriter::new(&mut file, [tokens.len(), n_vocab]).with_context(cannot_write)?;
    let chunk = args.chunk as usize;
    let write = |values: &[f32]| npy.write(values).with_context(cannot_write);
    let outcome = match AnyBackend::open(model, &args.backend)? {
        AnyBackend::Cpu(mut backend) => compute(&mut *backend, &tokens, chunk, &interrupt, write)?,
        AnyBackend::Cuda(mut backend) => compute(&mut *backend, &tokens, chunk, &interrupt, write)?,
        AnyBackend::Wgpu(mut backend) => compute(&mut *backend, &tokens, chunk, &interrupt, write)?,
        AnyBackend::Reference(mut backend) => compute(&mut *backend, &tokens, chunk, &interrupt, write)?,
    };
    if outcome == Outcome::Done {
        npy.finish().and_then(|file| file.flush()).with_context(cannot_write)?;
        file.commit()?;
    }
    Ok(outcome)
}

/// Runs the tokens through the model and hands out the logits in order.
fn compute<B: Backend>(
    backend: &mut B,
    tokens: &[u32],
    chunk: usize,
    interrupt: &Interrupt,
    mut write: impl FnMut(&[f32]) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let progress = Progress::new("logits", tokens.len() as u64, Unit::Tokens);
    let mut sequence = backend.new_sequence();
    for (index, tokens) in tokens.chunks(chunk).enumerate() {
        if interrupt.is_pressed() {
            return Ok(Outcome::Interrupted);
        }
        progress.set((index * chunk) as u64);
        let mut rows = Rows::new();
        rows.push(0, index * chunk, tokens, Wanted::All);
        forward(backend, &rows, &mut [&mut sequence])?;
        write(&backend.read(Buffer::Logits)?)?;
    }
    Ok(Outcome::Done)
}

/// A JSON list of ids.
fn read_tokens(path: &Path) -> anyhow::Result<Vec<u32>> {
    let name = if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().read_to_string(&mut text),
        false => File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.with_context(|| format!("cannot read {name}"))?;
    let tokens: Vec<u32> = serde_json::from_str(&text)
        .with_context(|| format!("{name}: expected a JSON list of token ids, such as [0, 42, 7]"))?;
    if tokens.is_empty() {
        bail!("{name}: the list of token ids is empty");
    }
    Ok(tokens)
}
