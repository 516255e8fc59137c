//! The buffers between operations, as the host sees them.

use std::ops::Range;

use ds4_model::{Buffer, ModelError};

use super::WgpuBackend;
use super::workspace::merge_step;
use crate::cache::lock;
use crate::recorder::View;

impl WgpuBackend {
    /// The buffer that a name stands for, and its values per row.
    fn place(&self, buffer: Buffer) -> (View, usize) {
        let config = self.model.config();
        let work = &self.work;
        let ratio = config.ratios[self.batch.layer];
        let feature = if ratio == 0 { 0 } else { config.compressor_width(ratio, config.head_dim) };
        let (view, width) = match buffer {
            Buffer::Streams => (&work.streams, config.hc * config.n_embd),
            Buffer::Input => (&work.input.float, config.n_embd),
            Buffer::Post => (&work.merge, config.hc),
            Buffer::Comb => (&work.merge, config.hc * config.hc),
            Buffer::QueryLatent => (&work.latent.float, config.q_rank),
            Buffer::Query => (&work.query, config.n_head * config.head_dim),
            Buffer::Kv => (&work.kv, config.head_dim),
            Buffer::CompressorKv => (&work.compressor_kv, feature),
            Buffer::CompressorGate => (&work.compressor_gate, feature),
            Buffer::IndexerKv => (&work.indexer_kv, 2 * config.idx_dim),
            Buffer::IndexerGate => (&work.indexer_gate, 2 * config.idx_dim),
            Buffer::IndexerWeights => (&work.indexer_weights, config.idx_heads),
            Buffer::IndexerQuery => (&work.indexer_query, config.idx_heads * config.idx_dim),
            Buffer::Attended => (&work.attended.float, config.n_head * config.head_dim),
            Buffer::Output => (&work.output, config.n_embd),
            Buffer::ExpertIds => (&work.ids, config.n_expert_used),
            Buffer::ExpertWeights => (&work.weights, config.n_expert_used),
            Buffer::Logits => (&self.head.logits, config.n_vocab),
        };
        (view.clone(), width)
    }

    fn read_words(&self, view: &View, first: usize, count: usize) -> Result<Vec<u32>, ModelError> {
        let piece = (&view.buffer, view.offset + first as u64 * 4, count as u64 * 4);
        let bytes = lock(&self.context).recorder.read(&[piece])?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// Post and mixing weights lie together in rows: their place in a row.
    fn merge_part(&self, buffer: Buffer) -> Option<(usize, Range<usize>)> {
        let hc = self.model.config().hc;
        let stride = merge_step(hc);
        match buffer {
            Buffer::Post => Some((stride, 0..hc)),
            Buffer::Comb => Some((stride, hc..hc + hc * hc)),
            _ => None,
        }
    }

    /// Values of a buffer, as the host sees them.
    pub(super) fn read_buffer(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError> {
        self.finish_queries(false)?;
        if buffer == Buffer::Streams {
            self.merge_streams()?;
        }
        if matches!(buffer, Buffer::Post | Buffer::Comb) {
            self.make_merge_weights()?;
        }
        let rows = if buffer == Buffer::Logits { self.batch.wanted } else { self.batch.rows };
        let (view, width) = self.place(buffer);
        if let Some((stride, part)) = self.merge_part(buffer) {
            let words = self.read_words(&view, 0, rows * stride)?;
            return Ok(words
                .chunks_exact(stride)
                .flat_map(|row| &row[part.clone()])
                .map(|&w| f32::from_bits(w))
                .collect());
        }
        let words = self.read_words(&view, 0, rows * width)?;
        Ok(match buffer {
            Buffer::ExpertIds => words.into_iter().map(|id| id as f32).collect(),
            _ => words.into_iter().map(f32::from_bits).collect(),
        })
    }

    /// Puts values into a buffer.
    pub(super) fn write_buffer(&mut self, buffer: Buffer, values: &[f32]) -> Result<(), ModelError> {
        self.finish_queries(false)?;
        if matches!(buffer, Buffer::Streams | Buffer::Post | Buffer::Comb | Buffer::Output) {
            self.merge_streams()?;
            self.make_merge_weights()?;
        }
        let rows = if buffer == Buffer::Logits { self.batch.wanted } else { self.batch.rows };
        let (view, width) = self.place(buffer);
        assert_eq!(values.len(), rows * width, "{buffer:?} of {rows} rows");
        let words: Vec<u32> = match (self.merge_part(buffer), buffer) {
            (Some((stride, part)), _) => {
                let mut words = self.read_words(&view, 0, rows * stride)?;
                for (row, values) in words.chunks_exact_mut(stride).zip(values.chunks_exact(width)) {
                    row[part.clone()].iter_mut().zip(values).for_each(|(word, value)| *word = value.to_bits());
                }
                words
            }
            (None, Buffer::ExpertIds) => values.iter().map(|&id| id as u32).collect(),
            (None, _) => values.iter().map(|value| value.to_bits()).collect(),
        };
        lock(&self.context).recorder.write(&view.buffer, view.offset, bytemuck::cast_slice(&words))?;
        match buffer {
            Buffer::Input => self.work.input.quantized = false,
            Buffer::QueryLatent => self.work.latent.quantized = false,
            Buffer::Attended => self.work.attended.quantized = false,
            Buffer::Kv => (self.batch.kv_is_stored, self.batch.kv_is_ahead) = (false, false),
            Buffer::IndexerQuery => self.batch.has_codes = false,
            _ => {}
        }
        Ok(())
    }

    /// The compressed rows that a row was given.
    pub(super) fn selected_rows(&self, row: usize) -> Result<Option<Vec<u32>>, ModelError> {
        if !self.batch.selecting || row >= self.batch.rows {
            return Ok(None);
        }
        let top_k = self.model.config().idx_topk;
        let words = self.read_words(&self.work.selection, row * (top_k + 1), top_k + 1)?;
        Ok((words[0] != u32::MAX).then(|| words[1..].to_vec()))
    }
}
