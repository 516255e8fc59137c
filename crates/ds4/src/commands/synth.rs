//! `ds4 synth`: a model file of a published shape with random weights.

use std::io::{self, Write};

use ds4_gguf::AtomicFile;
use ds4_synth::{Shape, SynthOptions, TokenizerArrays};

use crate::args::SynthArgs;
use crate::exit::Outcome;
use crate::interrupt::Interrupt;
use crate::model_source::tokenizer_of_shape;
use crate::terminal::{Progress, Unit};
use crate::units;

/// Writes the file.
///
/// # Errors
/// An impossible layer count, or the file cannot be written.
pub fn execute(args: &SynthArgs) -> anyhow::Result<Outcome> {
    let interrupt = Interrupt::install()?;
    let options = SynthOptions { shape: args.shape, layers: args.layers, alias: args.alias, seed: args.seed };
    let bytes = ds4_synth::data_bytes(&options)?;
    let vocabulary = vocabulary(&args.shape)?;
    let file = AtomicFile::create(&args.out)?;
    let progress = Progress::new("writing", bytes, Unit::Bytes);
    let out = Watched { inner: file, written: 0, progress, interrupt: interrupt.clone() };
    let out = match ds4_synth::write(&args.out.display().to_string(), out, &options, Some(&vocabulary)) {
        Err(_) if interrupt.is_pressed() => return Ok(Outcome::Interrupted),
        result => result?,
    };
    let written = out.written;
    drop(out.progress);
    out.inner.commit()?;
    eprintln!("{}: {} of random weights, {}", args.out.display(), units::bytes(written), args.shape.name);
    Ok(Outcome::Done)
}

/// The vocabulary that models of the shape have.
fn vocabulary(shape: &Shape) -> anyhow::Result<TokenizerArrays> {
    let arrays = tokenizer_of_shape(shape)?.to_arrays();
    Ok(TokenizerArrays { tokens: arrays.tokens, token_types: arrays.token_types, merges: arrays.merges })
}

/// A writer that shows how far it is and stops at Ctrl-C.
struct Watched<W> {
    inner: W,
    written: u64,
    progress: Progress,
    interrupt: Interrupt,
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interrupt.is_pressed() {
            return Err(io::Error::other("stopped by Ctrl-C"));
        }
        let n = self.inner.write(bytes)?;
        self.written += n as u64;
        self.progress.set(self.written);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
