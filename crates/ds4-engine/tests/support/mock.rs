//! A backend without a model behind it: the logits are a hash of the tokens before. It notes every batch, and waits, fails or
//! panics where a test wants it to.

use std::sync::{Arc, Condvar, Mutex};

use ds4_model::{ModelError, Rows};
use ds4_scripted::{Script, ScriptedBackend};

/// A span of a batch: tokens from `first_position`, and whether logits were asked for at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub first_position: usize,
    pub tokens: Vec<u32>,
    pub wanted: bool,
}

/// What happens in a step instead of a result.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Error,
    Panic,
}

/// The test's side of a [`MockBackend`].
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    batches: Vec<Vec<Noted>>,
    /// Steps that may run; `None`: all.
    allowed: Option<usize>,
    fault: Option<(usize, Fault)>,
}

impl Control {
    /// Lets only the first `steps` steps run; the next waits until more are allowed.
    pub fn allow(&self, steps: usize) {
        self.state.lock().expect("no panic").allowed = Some(steps);
        self.changed.notify_all();
    }

    /// Lets every step run.
    pub fn open(&self) {
        self.state.lock().expect("no panic").allowed = None;
        self.changed.notify_all();
    }

    /// Waits until step number `step` (from 1) has been formed.
    pub fn wait_for_step(&self, step: usize) {
        let state = self.state.lock().expect("no panic");
        let formed = self.changed.wait_timeout_while(state, super::HANG, |state| state.batches.len() < step);
        assert!(!formed.expect("no panic").1.timed_out(), "step {step} does not come");
    }

    /// Step number `step` (from 1) fails.
    pub fn fail(&self, step: usize, fault: Fault) {
        self.state.lock().expect("no panic").fault = Some((step, fault));
    }

    /// The batches so far.
    pub fn batches(&self) -> Vec<Vec<Noted>> {
        self.state.lock().expect("no panic").batches.clone()
    }
}

/// The backend.
pub type MockBackend = ScriptedBackend<Mock>;

/// Its script.
pub struct Mock(Arc<Control>);

fn mix(hash: u64, token: u32) -> u64 {
    let x = (hash ^ u64::from(token)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn logits(hash: u64, n_vocab: usize) -> impl Iterator<Item = f32> {
    (0..n_vocab as u32).map(move |token| (mix(hash, token) >> 40) as f32 / 2e6)
}

/// What greedy sampling makes of a prompt.
pub fn greedy_answer(prompt: &[u32], len: usize) -> Vec<u32> {
    let mut hash = prompt.iter().fold(0, |hash, &token| mix(hash, token));
    let mut answer = Vec::new();
    for _ in 0..len {
        let row: Vec<f32> = logits(hash, super::model().config().n_vocab).collect();
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let token = row.iter().position(|&x| x == max).expect("a maximum") as u32;
        answer.push(token);
        hash = mix(hash, token);
    }
    answer
}

/// A backend and the hand on it.
pub fn mock_backend() -> (MockBackend, Arc<Control>) {
    let control = Arc::new(Control::default());
    (ScriptedBackend::new(super::model(), Mock(Arc::clone(&control))), control)
}

impl Script for Mock {
    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError> {
        let noted = rows.spans().iter().map(|span| Noted {
            first_position: span.first_position,
            tokens: rows.tokens()[span.first_row..][..span.len].to_vec(),
            wanted: rows.wanted().contains(&(span.first_row + span.len - 1)),
        });
        let mut state = self.0.state.lock().expect("no panic");
        state.batches.push(noted.collect());
        let step = state.batches.len();
        self.0.changed.notify_all();
        while state.allowed.is_some_and(|allowed| allowed < step) {
            state = self.0.changed.wait(state).expect("no panic");
        }
        let fault = state.fault.filter(|(at, _)| *at == step);
        drop(state);
        match fault {
            Some((_, Fault::Error)) => Err(ModelError::Device("the mock device is unplugged".to_owned())),
            Some((_, Fault::Panic)) => panic!("the mock device is on fire"),
            None => Ok(()),
        }
    }

    fn logits(&mut self, tokens: &[u32], row: &mut [f32]) -> Result<(), ModelError> {
        let hash = tokens.iter().fold(0, |hash, &token| mix(hash, token));
        row.iter_mut().zip(logits(hash, super::model().config().n_vocab)).for_each(|(to, logit)| *to = logit);
        Ok(())
    }
}
