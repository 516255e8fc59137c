//! The logits of a step, brought to the host as far as sampling needs them.

use std::ops::Range;

use ds4_model::logits::{Digest, DigestRequest};
use ds4_model::{Backend, Buffer, ModelError};

use crate::job::{Job, RowLogits};

/// What is known of each row that has logits.
pub(super) struct StepLogits {
    n_vocab: usize,
    /// All rows, if they are here: [rows, n_vocab].
    whole: Option<Vec<f32>>,
    /// Digests of those rows that can probably do with one.
    digests: Vec<Option<Digest>>,
}

impl StepLogits {
    /// No row has logits.
    pub(super) fn none() -> Self {
        Self { n_vocab: 0, whole: None, digests: Vec::new() }
    }

    /// Brings what the next tokens of `jobs` need, one row for each, in order. At least one job.
    pub(super) fn fetch<'a, B: Backend>(
        backend: &mut B,
        jobs: impl Iterator<Item = &'a mut Job>,
    ) -> Result<Self, ModelError> {
        let n_vocab = backend.model().config().n_vocab;
        // Guides are asked only where it is of use: what they forbid can take long to find.
        let gives_digests = backend.digest(&[])?.is_some();
        let request = |(row, job): (usize, &mut Job)| if gives_digests { job.digest_request(row) } else { None };
        let requests: Vec<Option<DigestRequest>> = jobs.enumerate().map(request).collect();
        let asked: Vec<DigestRequest> = requests.iter().copied().flatten().collect();
        let found = if asked.is_empty() { None } else { backend.digest(&asked)? };
        if let Some(found) = found {
            let (due, given) = (asked.len(), found.len());
            if due != given {
                return Err(ModelError::Device(format!(
                    "the backend gave {given} digests of logits where {due} were due"
                )));
            }
            let mut found = found.into_iter();
            let digests = requests.iter().map(|request| request.as_ref().and_then(|_| found.next())).collect();
            return Ok(Self { n_vocab, whole: None, digests });
        }
        let logits = backend.read(Buffer::Logits)?;
        let (due, given) = (requests.len() * n_vocab, logits.len());
        if due != given {
            return Err(ModelError::Device(format!("the backend gave {given} logits where {due} were due")));
        }
        Ok(Self { n_vocab, whole: Some(logits), digests: vec![None; requests.len()] })
    }

    /// Row number `row`; what is missing is read through `read`.
    pub(super) fn row<'a>(
        &'a self,
        row: usize,
        read: &'a mut dyn FnMut(Range<usize>) -> Result<Vec<f32>, ModelError>,
    ) -> RowLogits<'a> {
        let n_vocab = self.n_vocab;
        let whole = self.whole.as_ref().map(|logits| &logits[row * n_vocab..][..n_vocab]);
        RowLogits { n_vocab, whole, digest: self.digests[row].as_ref(), read }
    }
}
