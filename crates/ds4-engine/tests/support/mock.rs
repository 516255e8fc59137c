//! A backend without a model behind it: the logits are a hash of the tokens before. It notes every batch, and waits, fails or
//! panics where a test wants it to.

use std::sync::{Arc, Condvar, Mutex};

use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Model, ModelError, Numerics, Rows, Sequence, Sublayer};

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
pub struct MockBackend {
    model: Arc<Model>,
    control: Arc<Control>,
    /// Hash of the tokens up to each row.
    hashes: Vec<u64>,
    logits: Vec<f32>,
}

/// Its sequences: nothing but the hash of their tokens.
#[derive(Clone, Debug)]
pub struct MockSequence {
    len: usize,
    hash: u64,
}

impl SequenceState for MockSequence {
    fn len(&self) -> usize {
        self.len
    }

    fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    fn fork(&self) -> Self {
        self.clone()
    }
}

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

impl MockBackend {
    /// A backend and the hand on it.
    pub fn new() -> (Self, Arc<Control>) {
        let control = Arc::new(Control::default());
        let backend =
            Self { model: super::model(), control: Arc::clone(&control), hashes: Vec::new(), logits: Vec::new() };
        (backend, control)
    }
}

impl Backend for MockBackend {
    type Sequence = MockSequence;

    fn model(&self) -> &Model {
        &self.model
    }

    fn numerics(&self) -> Numerics {
        Numerics::default()
    }

    fn new_sequence(&self) -> MockSequence {
        MockSequence { len: 0, hash: 0 }
    }

    fn export(&self, _: &MockSequence) -> Result<Sequence, ModelError> {
        Err(ModelError::State("not kept here".to_owned()))
    }

    fn import(&self, _: &Sequence) -> Result<MockSequence, ModelError> {
        Err(ModelError::State("not kept here".to_owned()))
    }

    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError> {
        let noted = rows.spans().iter().map(|span| Noted {
            first_position: span.first_position,
            tokens: rows.tokens()[span.first_row..][..span.len].to_vec(),
            wanted: rows.wanted().contains(&(span.first_row + span.len - 1)),
        });
        let mut state = self.control.state.lock().expect("no panic");
        state.batches.push(noted.collect());
        let step = state.batches.len();
        self.control.changed.notify_all();
        while state.allowed.is_some_and(|allowed| allowed < step) {
            state = self.control.changed.wait(state).expect("no panic");
        }
        let fault = state.fault.filter(|(at, _)| *at == step);
        drop(state);
        match fault {
            Some((_, Fault::Error)) => Err(ModelError::Device("the mock device is unplugged".to_owned())),
            Some((_, Fault::Panic)) => panic!("the mock device is on fire"),
            None => Ok(()),
        }
    }

    fn embed(&mut self, _: &Rows) -> Result<(), ModelError> {
        Ok(())
    }

    fn hc_mix(&mut self, _: usize, _: Sublayer) -> Result<(), ModelError> {
        Ok(())
    }

    fn attn_in(&mut self, _: usize) -> Result<(), ModelError> {
        Ok(())
    }

    fn attn_q(&mut self, _: usize, _: &Rows) -> Result<(), ModelError> {
        Ok(())
    }

    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut MockSequence]) -> Result<(), ModelError> {
        if layer == 0 {
            self.hashes.clear();
            for span in rows.spans() {
                let sequence = &mut *sequences[span.sequence];
                for (row, _) in span.rows() {
                    sequence.hash = mix(sequence.hash, rows.tokens()[row]);
                    self.hashes.push(sequence.hash);
                }
            }
        }
        Ok(())
    }

    fn index_select(&mut self, _: usize, _: &Rows, _: &mut [&mut MockSequence]) -> Result<(), ModelError> {
        Ok(())
    }

    fn attend(&mut self, _: usize, _: &Rows, _: &mut [&mut MockSequence]) -> Result<(), ModelError> {
        Ok(())
    }

    fn attn_out(&mut self, _: usize) -> Result<(), ModelError> {
        Ok(())
    }

    fn hc_merge(&mut self, _: usize, _: Sublayer) -> Result<(), ModelError> {
        Ok(())
    }

    fn route(&mut self, _: usize, _: &Rows) -> Result<(), ModelError> {
        Ok(())
    }

    fn moe(&mut self, _: usize) -> Result<(), ModelError> {
        Ok(())
    }

    fn head(&mut self, rows: &Rows) -> Result<(), ModelError> {
        let n_vocab = self.model.config().n_vocab;
        self.logits = rows.wanted().iter().flat_map(|&row| logits(self.hashes[row], n_vocab)).collect();
        Ok(())
    }

    fn read(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError> {
        assert_eq!(buffer, Buffer::Logits);
        Ok(self.logits.clone())
    }

    fn write(&mut self, _: Buffer, _: &[f32]) -> Result<(), ModelError> {
        Ok(())
    }

    fn selection(&self, _: usize) -> Result<Option<Vec<u32>>, ModelError> {
        Ok(None)
    }
}
