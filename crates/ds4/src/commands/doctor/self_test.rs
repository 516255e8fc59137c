//! Whether this machine computes correctly.
//!
//! Every operation runs beside the reference, in every numeric mode; then whole passes through the demo model are
//! compared with the logits that an independent implementation computed (`nano/golden.json`).

use std::sync::Arc;

use anyhow::Context;
use ds4_model::conformance::{Comparison, Scenario};
use ds4_model::rows::Wanted;
use ds4_model::{Backend, Buffer, Compute, KvPrecision, Numerics, Rows, forward};
use serde::{Deserialize, Serialize};

use crate::args::{BackendArgs, BackendKind};
use crate::backend::AnyBackend;
use crate::commands::bench;
use crate::interrupt::Interrupt;
use crate::model_source::{LoadedModel, ModelSource};
use crate::terminal::{Progress, Unit};

static GOLDEN: &str = include_str!("../../../../../nano/golden.json");

/// Seed of the tokens that operations are compared on.
const SEED: u64 = 7;
/// Tokens of the whole passes on a card that the processor simulates, which would take minutes for all; its speed says nothing.
const SIMULATED_TOKENS: usize = 192;
/// Tokens per step of the whole passes: of several sizes, so that steps end at odd places.
const STEPS: [usize; 5] = [64, 1, 37, 128, 2];

/// Logits of the demo model.
#[derive(Debug, Deserialize)]
struct Golden {
    #[cfg_attr(not(test), allow(dead_code))] // a test compares it with the built-in model
    model_sha256: String,
    tokens: Vec<u32>,
    positions: Vec<GoldenLogits>,
}

/// The logits after one token.
#[derive(Debug, Deserialize)]
struct GoldenLogits {
    position: usize,
    /// Root mean square of all logits.
    rms: f64,
    /// The largest ones, largest first.
    top: Vec<(u32, f64)>,
}

/// What was found in one numeric mode.
#[derive(Debug, Serialize)]
pub struct ModeResult {
    pub compute: String,
    pub kv_precision: String,
    pub checks: Vec<Check>,
    /// Speed on the demo model; not of the reference.
    pub speed: Option<Speed>,
}

/// Tokens per second on the demo model. It says that everything works together, not what a real model does.
#[derive(Debug, Serialize)]
pub struct Speed {
    pub prefill: f64,
    pub decode: f64,
}

/// One comparison.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The operation, or `logits` for whole passes.
    pub operation: String,
    /// What was compared.
    pub result: String,
    /// The error of the worst layer or position; `null` in JSON if it is no number.
    pub error: f64,
    /// What it may be.
    pub bound: f64,
    /// The layer or position with that error.
    pub worst_at: usize,
    pub passed: bool,
}

impl From<Comparison> for Check {
    fn from(found: Comparison) -> Check {
        Check {
            operation: found.operation.to_owned(),
            passed: found.passed(),
            result: found.result,
            error: found.error,
            bound: found.bound,
            worst_at: found.layer,
        }
    }
}

impl ModeResult {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}

/// Error that the logits may have, relative to their root mean square, and the share of positions at which another token
/// may be the likeliest.
fn bounds(numerics: Numerics) -> (f64, f64) {
    match (numerics.compute, numerics.kv) {
        // Orders of summation differ; the golden values themselves are exact to 4e-6.
        (Compute::F32, KvPrecision::Exact) => (1e-4, 0.0),
        // Rounded rows and activations are other numbers, and on random tokens many logits lie close together. Rounding
        // both shows 0.09 and one position in eight, each alone half of that; a wrong layer shows more than 1.
        _ => (0.2, 0.25),
    }
}

/// Runs all checks. `None` after Ctrl-C.
///
/// # Errors
/// The backend fails.
pub fn run(args: &BackendArgs, interrupt: &Interrupt) -> anyhow::Result<Option<Vec<ModeResult>>> {
    let golden: Golden = serde_json::from_str(GOLDEN).context("the golden logits in this program are damaged")?;
    let model = LoadedModel::open(&ModelSource::Demo)?.model;
    let computes: &[Compute] = match args.backend {
        BackendKind::Reference => &[Compute::F32],
        _ => &[Compute::F32, Compute::Int8],
    };
    let all = golden.tokens.len();
    let steps = 2 * computes.len() * all;
    let progress = Progress::new("testing", steps as u64, Unit::Tokens);
    let mut results = Vec::new();
    for kv in [KvPrecision::Exact, KvPrecision::Model] {
        let scenario = Scenario::new(&model, kv, SEED)?;
        for &compute in computes {
            if interrupt.is_pressed() {
                return Ok(None);
            }
            let args = BackendArgs { compute, kv_precision: kv, ..args.clone() };
            let (checks, speed) = match AnyBackend::open(Arc::clone(&model), &args)? {
                AnyBackend::Cpu(mut backend) => {
                    (check(&mut *backend, &scenario, &golden, all)?, bench::quick(&mut *backend, interrupt)?)
                }
                AnyBackend::Cuda(mut backend) => {
                    (check(&mut *backend, &scenario, &golden, all)?, bench::quick(&mut *backend, interrupt)?)
                }
                AnyBackend::Wgpu(mut backend) if backend.adapter().is_software() => {
                    (check(&mut *backend, &scenario, &golden, SIMULATED_TOKENS)?, None)
                }
                AnyBackend::Wgpu(mut backend) => {
                    (check(&mut *backend, &scenario, &golden, all)?, bench::quick(&mut *backend, interrupt)?)
                }
                AnyBackend::Reference(mut backend) => (check(&mut *backend, &scenario, &golden, all)?, None),
            };
            let speed = speed.map(|(prefill, decode)| Speed { prefill, decode });
            results.push(ModeResult { compute: compute.to_string(), kv_precision: kv.to_string(), checks, speed });
            progress.set((results.len() * all) as u64);
        }
    }
    Ok(Some(results))
}

fn check<B: Backend>(
    backend: &mut B,
    scenario: &Scenario,
    golden: &Golden,
    tokens: usize,
) -> anyhow::Result<Vec<Check>> {
    let mut checks: Vec<Check> = scenario.compare(backend)?.into_iter().map(Check::from).collect();
    checks.extend(check_logits(backend, golden, tokens)?);
    Ok(checks)
}

/// Whole passes over the first `tokens` tokens, in steps, against the golden logits.
fn check_logits<B: Backend>(backend: &mut B, golden: &Golden, tokens: usize) -> anyhow::Result<[Check; 2]> {
    let vocab = backend.model().config().n_vocab;
    let mut sequence = backend.new_sequence();
    let (mut error, mut worst_at, mut other_best, mut last_other) = (0.0, 0, 0, 0);
    let mut steps = STEPS.into_iter().cycle();
    let mut done = 0;
    while done < tokens {
        let n = steps.next().unwrap_or(1).min(tokens - done);
        let mut rows = Rows::new();
        rows.push(0, done, &golden.tokens[done..done + n], Wanted::All);
        forward(backend, &rows, &mut [&mut sequence])?;
        let logits = backend.read(Buffer::Logits)?;
        anyhow::ensure!(logits.len() == n * vocab, "the backend gave {} logits for {n} tokens", logits.len());
        for expected in golden.positions.iter().filter(|expected| (done..done + n).contains(&expected.position)) {
            let row = &logits[(expected.position - done) * vocab..][..vocab];
            let found = error_of(row, expected);
            if found > error || found.is_nan() {
                (error, worst_at) = (found, expected.position);
            }
            if best(row) != expected.top.first().map(|&(id, _)| id as usize) {
                (other_best, last_other) = (other_best + 1, expected.position);
            }
        }
        done += n;
    }
    let (error_bound, share_bound) = bounds(backend.numerics());
    let compared = golden.positions.iter().filter(|expected| expected.position < tokens).count();
    let share = f64::from(other_best) / compared as f64;
    let check = |result: &str, error: f64, bound: f64, worst_at: usize| Check {
        operation: "logits".to_owned(),
        result: result.to_owned(),
        error,
        bound,
        worst_at,
        passed: error <= bound,
    };
    Ok([
        check("largest logits", error, error_bound, worst_at),
        check("likeliest token", share, share_bound, last_other),
    ])
}

/// Root mean square of the errors of the largest logits, and of the error of the whole row's size, over that size.
fn error_of(row: &[f32], expected: &GoldenLogits) -> f64 {
    let rms = (row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / row.len() as f64).sqrt();
    let errors = expected.top.iter().map(|&(id, logit)| {
        // A token that the model does not have is as wrong as can be.
        row.get(id as usize).map_or(f64::INFINITY, |&found| f64::from(found) - logit)
    });
    let squares = errors.chain([rms - expected.rms]).map(|error| error.powi(2));
    (squares.sum::<f64>() / (expected.top.len() + 1) as f64).sqrt() / expected.rms
}

fn best(row: &[f32]) -> Option<usize> {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest;

    fn golden() -> Golden {
        serde_json::from_str(GOLDEN).expect("golden logits")
    }

    #[test]
    fn the_golden_logits_are_of_the_model_in_this_program() {
        let file = include_bytes!("../../../../../nano/nano.gguf");
        let found: String = sha2::Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(golden().model_sha256, found);
        let config = LoadedModel::open(&ModelSource::Demo).unwrap().model.config().clone();
        // Some positions are past the length from which the indexer chooses.
        let choosing = 4 * (config.idx_topk + 1);
        assert!(golden().positions.iter().filter(|logits| logits.position > choosing).count() >= 5);
    }

    #[test]
    fn a_wrong_logit_is_an_error_of_its_size() {
        let expected = GoldenLogits { position: 0, rms: 2.0, top: vec![(1, 4.0), (0, 0.0)] };
        let row = [0.0, 4.0, 0.0, 0.0];
        assert_eq!(error_of(&row, &expected), 0.0);
        let off = error_of(&[0.0, 3.0, 0.0, 0.0], &expected);
        assert!((0.2..0.5).contains(&off), "{off}");
        assert!(error_of(&[f32::NAN, 4.0, 0.0, 0.0], &expected).is_nan());
        assert_eq!(error_of(&row[..1], &expected), f64::INFINITY);
    }
}
