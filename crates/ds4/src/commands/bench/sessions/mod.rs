//! `ds4 bench --sessions`: what several sessions on one engine do to each other, and what the KV cache saves and costs.

mod report;
mod watch;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ds4_engine::{Engine, EngineOptions};
use ds4_kvstore::{KvStore, StoreOptions};
use ds4_model::StateLayout;

use crate::interrupt::Interrupt;
use crate::terminal::Waiting;
use report::{BesidePrompt, Resumed, Together, Writing};
use watch::Watched;

pub use report::{SessionsReport, table};

/// Tokens of a prompt that is there only because a session has one.
const SHORT: usize = 32;
/// Tokens that a conversation is continued with.
const NEXT_TURN: usize = 16;
/// Rounds of which the median counts.
const ROUNDS: usize = 3;
/// Rounds that are left out when those before took this long.
const LONG_ENOUGH: Duration = Duration::from_secs(60);
/// How long a long prompt is watched at most.
const WATCHED: Duration = Duration::from_secs(90);
/// New tokens of each prompt of a session whose states are kept: a page and more.
const KEPT: usize = 192;
/// Time between two of its prompts.
const THINKING: Duration = Duration::from_millis(200);

/// What to measure.
pub struct SessionsPlan<'a> {
    /// Numbers of sessions that decode at once.
    pub sessions: Vec<usize>,
    /// Tokens that each decodes.
    pub generate: usize,
    /// Tokens of the prompt beside which a session decodes.
    pub long: usize,
    /// Lengths of conversations that are resumed.
    pub contexts: Vec<usize>,
    /// Prompt tokens per step.
    pub prefill_chunk: Option<usize>,
    /// Folder on the disk that is to be measured; a folder is made in it.
    pub folder: &'a Path,
}

/// What starts an engine: `ds4 bench` knows how.
pub type Start<'a> = dyn Fn(EngineOptions, Option<&KvStore>) -> anyhow::Result<Engine> + 'a;

/// Figures without the names of model and device.
pub struct Figures {
    /// Sessions that decode at once.
    pub together: Vec<Together>,
    /// A session that decodes beside another's long prompt.
    pub beside_prompt: BesidePrompt,
    /// Long prompts that go on where they ended.
    pub resumed: Vec<Resumed>,
    /// What keeping states on disk costs.
    pub writing: Writing,
}

/// Runs the plan. `None` after Ctrl-C.
///
/// # Errors
/// The engine fails, or the folder cannot be written.
pub fn measure(
    start: &Start<'_>,
    layout: &StateLayout,
    n_vocab: usize,
    plan: &SessionsPlan<'_>,
    interrupt: &Interrupt,
) -> anyhow::Result<Option<Figures>> {
    std::fs::create_dir_all(plan.folder).with_context(|| format!("cannot make {}", plan.folder.display()))?;
    let folder = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(plan.folder)
        .with_context(|| format!("cannot make a folder in {}", plan.folder.display()))?;
    let bench = Bench { start, layout, n_vocab, plan, interrupt, folder: folder.path() };
    let Some((together, beside_prompt)) = bench.in_memory()? else { return Ok(None) };
    let Some(resumed) = bench.resume()? else { return Ok(None) };
    let Some(writing) = bench.write_behind()? else { return Ok(None) };
    Ok(Some(Figures { together, beside_prompt, resumed, writing }))
}

struct Bench<'a> {
    start: &'a Start<'a>,
    layout: &'a StateLayout,
    n_vocab: usize,
    plan: &'a SessionsPlan<'a>,
    interrupt: &'a Interrupt,
    folder: &'a Path,
}

impl Bench<'_> {
    fn engine(&self, store: Option<&KvStore>) -> anyhow::Result<Engine> {
        let parallel = self.plan.sessions.iter().copied().max().unwrap_or(1).max(2);
        let options = EngineOptions { parallel, prefill_chunk: self.plan.prefill_chunk, ..EngineOptions::default() };
        (self.start)(options, store)
    }

    fn store(&self, name: &str) -> anyhow::Result<KvStore> {
        Ok(KvStore::open(StoreOptions::new(self.folder.join(name), u64::MAX / 2))?)
    }

    /// Tokens that only `seed` gives.
    fn tokens(&self, seed: usize, len: usize) -> Vec<u32> {
        let hash = |n: usize| {
            let x = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n as u64).wrapping_mul(0xd1b5_4a32_d192_ed03);
            ((x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as usize
        };
        (0..len).map(|n| (hash(n) % self.n_vocab) as u32).collect()
    }

    /// The first pass brings weights from disk and memory into use; it is nobody's speed.
    fn warm_up(&self, engine: &Engine) -> anyhow::Result<bool> {
        let prompt = self.tokens(1, self.plan.prefill_chunk.unwrap_or(256).min(256));
        Watched::start(engine, prompt, Some(2), "warm-up")?.follow(self.interrupt, |_| false)
    }

    fn in_memory(&self) -> anyhow::Result<Option<(Vec<Together>, BesidePrompt)>> {
        let _waiting = Waiting::new("measuring sessions that decode together".to_owned());
        let engine = self.engine(None)?;
        let begin = Instant::now();
        if !self.warm_up(&engine)? {
            return Ok(None);
        }
        let mut speeds: Vec<Vec<(f64, f64)>> = vec![Vec::new(); self.plan.sessions.len()];
        for round in 0..ROUNDS {
            if round > 0 && begin.elapsed() > LONG_ENOUGH {
                break;
            }
            for (&sessions, speeds) in self.plan.sessions.iter().zip(&mut speeds) {
                let Some(speed) = self.together(&engine, sessions, round)? else { return Ok(None) };
                speeds.push(speed);
            }
        }
        let together = self.plan.sessions.iter().zip(speeds).map(|(&sessions, speeds)| {
            let (rates, gaps): (Vec<f64>, Vec<f64>) = speeds.into_iter().unzip();
            Together { sessions, decode: median(rates), gap_ms: median(gaps) * 1e3 }
        });
        let together = together.collect();
        let Some(beside_prompt) = self.beside_prompt(&engine)? else { return Ok(None) };
        engine.shut_down();
        Ok(Some((together, beside_prompt)))
    }

    /// Tokens per second of all sessions while all decode, and the median gap of one.
    fn together(&self, engine: &Engine, sessions: usize, round: usize) -> anyhow::Result<Option<(f64, f64)>> {
        // One more, since the first token of the last is where the time begins.
        let tokens = Some(self.plan.generate + sessions);
        let start = |number: usize| {
            let prompt = self.tokens(1000 * (round + 1) + 10 * sessions + number, SHORT);
            Watched::start(engine, prompt, tokens, &format!("session {number}"))
        };
        let mut running = (0..sessions).map(start).collect::<anyhow::Result<Vec<_>>>()?;
        for session in &mut running {
            if !session.follow(self.interrupt, |_| false)? {
                return Ok(None);
            }
        }
        let first = running.iter().filter_map(|session| session.tokens.first()).max();
        let last = running.iter().filter_map(|session| session.tokens.last()).min();
        let (Some(&first), Some(&last)) = (first, last) else { bail!("a session had no token") };
        let inside = |at: &&Instant| **at > first && **at <= last;
        let decoded: usize = running.iter().map(|session| session.tokens.iter().filter(inside).count()).sum();
        let gaps = running.iter().flat_map(Watched::gaps).collect();
        let seconds = last.saturating_duration_since(first).as_secs_f64();
        Ok(Some((decoded as f64 / seconds, median(gaps))))
    }

    fn beside_prompt(&self, engine: &Engine) -> anyhow::Result<Option<BesidePrompt>> {
        let mut decoding = Watched::start(engine, self.tokens(2, SHORT), None, "decoding")?;
        let enough = self.plan.generate.max(NEXT_TURN) + 1;
        if !decoding.follow(self.interrupt, |session| session.tokens.len() >= enough)? {
            return Ok(None);
        }
        let usual = median(decoding.gaps());
        let before = decoding.tokens.len();
        let mut prompt = Watched::start(engine, self.tokens(3, self.plan.long), Some(1), "prompt")?;
        let begin = prompt.submitted;
        let is_over = |session: &Watched| session.finished.is_some() || begin.elapsed() > WATCHED;
        // The events of the session that decodes wait meanwhile.
        while !is_over(&prompt) {
            let seen = prompt.prefilled;
            if !prompt.follow(self.interrupt, |session| session.prefilled > seen || is_over(session))? {
                return Ok(None);
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        prompt.cancel();
        decoding.cancel();
        let both = prompt.follow(self.interrupt, |_| false)? && decoding.follow(self.interrupt, |_| false)?;
        if !both {
            return Ok(None);
        }
        let end = begin + Duration::from_secs_f64(seconds);
        decoding.tokens.retain(|&at| at <= end);
        // The gap in which the prompt came counts as well.
        let gaps = decoding.gaps().split_off((before - 1).min(decoding.tokens.len().saturating_sub(1)));
        Ok(Some(BesidePrompt {
            prompt: self.plan.long,
            prefilled: prompt.prefilled,
            seconds,
            decoded: gaps.len(),
            usual_gap_ms: usual * 1e3,
            worst_gap_ms: gaps.iter().copied().fold(0.0, f64::max) * 1e3,
            median_gap_ms: median(gaps) * 1e3,
            bound_ms: (3.0 * usual).max(0.25) * 1e3,
        }))
    }

    fn resume(&self) -> anyhow::Result<Option<Vec<Resumed>>> {
        let _waiting = Waiting::new("measuring conversations that are resumed".to_owned());
        let next = |first: &[u32], ids: &[u32], turn: usize| [first, ids, &self.tokens(turn, NEXT_TURN)].concat();
        let mut known = Vec::new();
        {
            let store = self.store("resumed")?;
            let engine = self.engine(Some(&store))?;
            if !self.warm_up(&engine)? {
                return Ok(None);
            }
            for &context in &self.plan.contexts {
                let prompt = self.tokens(10_000 + context, context);
                let Some((new, ids, _)) = self.ask(&engine, prompt.clone())? else { return Ok(None) };
                let Some((memory, _, reused)) = self.ask(&engine, next(&prompt, &ids, 4))? else { return Ok(None) };
                known.push((context, next(&prompt, &ids, 5), new, memory, reused));
            }
            engine.shut_down();
            store.flush();
        }
        let store = self.store("resumed")?;
        let engine = self.engine(Some(&store))?;
        if !self.warm_up(&engine)? {
            return Ok(None);
        }
        let mut resumed = Vec::new();
        for (context, prompt, new, memory, memory_tokens) in known {
            let Some((disk, _, disk_tokens)) = self.ask(&engine, prompt)? else { return Ok(None) };
            let state_bytes = self.layout.sequence_bytes(disk_tokens) as u64;
            resumed.push(Resumed { context, state_bytes, new, memory, memory_tokens, disk, disk_tokens });
        }
        engine.shut_down();
        Ok(Some(resumed))
    }

    /// Seconds to the first token, the answer, and how much of the prompt was known.
    fn ask(&self, engine: &Engine, prompt: Vec<u32>) -> anyhow::Result<Option<(f64, Vec<u32>, usize)>> {
        let mut session = Watched::start(engine, prompt, Some(2), "resumed")?;
        if !session.follow(self.interrupt, |_| false)? {
            return Ok(None);
        }
        let seconds = session.to_first_token().context("there was no token")?;
        Ok(Some((seconds, session.ids, session.reused)))
    }

    fn write_behind(&self) -> anyhow::Result<Option<Writing>> {
        let _waiting = Waiting::new("measuring what writing costs".to_owned());
        let (mut with, mut without, mut bytes) = (Vec::new(), Vec::new(), 0);
        let begin = Instant::now();
        for round in 0..ROUNDS {
            if round > 0 && begin.elapsed() > LONG_ENOUGH {
                break;
            }
            // Not always the same first.
            let order = if round % 2 == 0 { [false, true] } else { [true, false] };
            for on_disk in order {
                let store = on_disk.then(|| self.store(&format!("written {round}"))).transpose()?;
                let engine = self.engine(store.as_ref())?;
                if !self.warm_up(&engine)? {
                    return Ok(None);
                }
                let Some(speed) = self.beside_kept(&engine)? else { return Ok(None) };
                engine.shut_down();
                if on_disk { &mut with } else { &mut without }.push(speed);
                bytes += store.map_or(0, |store| {
                    store.flush();
                    store.stats().saved_bytes
                });
            }
        }
        Ok(Some(Writing { without: median(without), with: median(with), bytes }))
    }

    /// Tokens per second of a session beside another that asks one thing after the other.
    fn beside_kept(&self, engine: &Engine) -> anyhow::Result<Option<f64>> {
        let tokens = self.plan.generate.max(NEXT_TURN);
        let mut decoding = Watched::start(engine, self.tokens(6, SHORT), Some(tokens), "decoding")?;
        if !decoding.follow(self.interrupt, |session| !session.tokens.is_empty())? {
            return Ok(None);
        }
        let mut number = 0;
        while decoding.finished.is_none() {
            number += 1;
            let mut other = Watched::start(engine, self.tokens(100 + number, KEPT), Some(2), "kept")?;
            if !other.follow(self.interrupt, |_| false)? {
                return Ok(None);
            }
            if !decoding.follow_for(self.interrupt, THINKING)? {
                return Ok(None);
            }
        }
        let gaps = decoding.gaps();
        Ok(Some(gaps.len() as f64 / gaps.iter().sum::<f64>()))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
