//! The values that operations hand to each other, sized for one batch and reused for the next.

use ds4_model::rope::Frequencies;
use ds4_model::{Buffer, Config, Rows};

use std::mem::MaybeUninit;
use std::sync::Mutex;

use crate::kernels::{AlignedVec, QuantizedRows};
use crate::pool::Pool;

/// `(cos, sin)` of a rotary angle.
pub(super) type Angle = (f32, f32);

/// One array per [`Buffer`], and what stays inside the backend. Dimensions as there.
#[derive(Default)]
pub(super) struct Workspace {
    pub rows: usize,
    pub streams: Vec<f32>,
    pub input: Vec<f32>,
    pub post: Vec<f32>,
    pub comb: Vec<f32>,
    pub query_latent: Vec<f32>,
    pub query: Vec<f32>,
    pub kv: Vec<f32>,
    /// These four are sized by each layer, whose compressor features may be one or two rows wide.
    pub compressor_kv: Vec<f32>,
    pub compressor_gate: Vec<f32>,
    pub indexer_kv: Vec<f32>,
    pub indexer_gate: Vec<f32>,
    pub indexer_weights: Vec<f32>,
    pub indexer_query: Vec<f32>,
    pub attended: Vec<f32>,
    pub output: Vec<f32>,
    pub expert_ids: Vec<u32>,
    pub expert_weights: Vec<f32>,
    pub logits: Vec<f32>,
    /// Per row: the compressed rows to attend, `None` for all visible ones.
    pub selection: Vec<Option<Vec<u32>>>,
    /// Stored form of the batch's KV rows, [rows, bytes of a row].
    pub kv_stored: Vec<u8>,
    /// Decoded keys that rows of the batch share, [keys, head_dim].
    pub keys: AlignedVec<f32>,
    /// Angles of each row for layers without and with compression, [rows, rope_dim / 2].
    pub angles: [Vec<Angle>; 2],
    /// Results of the hyper-connection projection, [rows, (2 + hc) * hc].
    pub mixes: Vec<f32>,
    /// Output of the first half of the attention output, [rows, o_groups * o_rank].
    pub low: Vec<f32>,
    /// Router scores, [rows, n_expert].
    pub scores: Vec<f32>,
    /// Expert values per slot (chosen experts, then the shared one), [rows, n_expert_used + 1, n_ff].
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub mid: Vec<f32>,
    /// Expert outputs per slot, [rows, n_expert_used + 1, n_embd].
    pub down: Vec<f32>,
    /// Collapsed streams of the wanted rows, [wanted, n_embd].
    pub head: Vec<f32>,
    /// The int8 form of whatever is multiplied next.
    pub quantized: QuantizedRows,
}

impl Workspace {
    /// Makes room for a batch. Contents are undefined afterwards.
    pub fn resize(&mut self, pool: &Pool, config: &Config, rows: &Rows) {
        let n = rows.len();
        self.rows = n;
        let slots = config.n_expert_used + 1;
        for (buffer, len) in [
            (&mut self.streams, config.hc * config.n_embd),
            (&mut self.input, config.n_embd),
            (&mut self.post, config.hc),
            (&mut self.comb, config.hc * config.hc),
            (&mut self.query_latent, config.q_rank),
            (&mut self.query, config.n_head * config.head_dim),
            (&mut self.kv, config.head_dim),
            (&mut self.indexer_weights, config.idx_heads),
            (&mut self.indexer_query, config.idx_heads * config.idx_dim),
            (&mut self.attended, config.n_head * config.head_dim),
            (&mut self.output, config.n_embd),
            (&mut self.expert_weights, config.n_expert_used),
            (&mut self.mixes, (2 + config.hc) * config.hc),
            (&mut self.low, config.o_groups * config.o_rank),
            (&mut self.scores, config.n_expert),
            (&mut self.gate, slots * config.n_ff),
            (&mut self.up, slots * config.n_ff),
            (&mut self.mid, slots * config.n_ff),
            (&mut self.down, slots * config.n_embd),
        ] {
            resize(pool, buffer, n * len);
        }
        self.expert_ids.resize(n * config.n_expert_used, 0);
        self.logits.resize(rows.wanted().len() * config.n_vocab, 0.0);
        self.head.resize(rows.wanted().len() * config.n_embd, 0.0);
        self.selection.clear();
        self.selection.resize(n, None);
    }

    /// Computes the angles of every row's position.
    pub fn set_angles(&mut self, plain: &Frequencies, compressed: &Frequencies, positions: &[usize]) {
        for (angles, frequencies) in self.angles.iter_mut().zip([plain, compressed]) {
            let pairs = frequencies.pairs();
            angles.resize(positions.len() * pairs, (0.0, 0.0));
            for (row, &position) in angles.chunks_exact_mut(pairs).zip(positions) {
                frequencies.angles(position, row);
            }
        }
    }

    /// A buffer's values.
    pub fn read(&self, buffer: Buffer) -> Vec<f32> {
        match buffer {
            Buffer::Streams => self.streams.clone(),
            Buffer::Input => self.input.clone(),
            Buffer::Post => self.post.clone(),
            Buffer::Comb => self.comb.clone(),
            Buffer::QueryLatent => self.query_latent.clone(),
            Buffer::Query => self.query.clone(),
            Buffer::Kv => self.kv.clone(),
            Buffer::CompressorKv => self.compressor_kv.clone(),
            Buffer::CompressorGate => self.compressor_gate.clone(),
            Buffer::IndexerKv => self.indexer_kv.clone(),
            Buffer::IndexerGate => self.indexer_gate.clone(),
            Buffer::IndexerWeights => self.indexer_weights.clone(),
            Buffer::IndexerQuery => self.indexer_query.clone(),
            Buffer::Attended => self.attended.clone(),
            Buffer::Output => self.output.clone(),
            Buffer::ExpertIds => self.expert_ids.iter().map(|&id| id as f32).collect(),
            Buffer::ExpertWeights => self.expert_weights.clone(),
            Buffer::Logits => self.logits.clone(),
        }
    }

    /// Overwrites a buffer.
    pub fn write(&mut self, buffer: Buffer, values: &[f32]) {
        let target = match buffer {
            Buffer::Streams => &mut self.streams,
            Buffer::Input => &mut self.input,
            Buffer::Post => &mut self.post,
            Buffer::Comb => &mut self.comb,
            Buffer::QueryLatent => &mut self.query_latent,
            Buffer::Query => &mut self.query,
            Buffer::Kv => &mut self.kv,
            Buffer::CompressorKv => &mut self.compressor_kv,
            Buffer::CompressorGate => &mut self.compressor_gate,
            Buffer::IndexerKv => &mut self.indexer_kv,
            Buffer::IndexerGate => &mut self.indexer_gate,
            Buffer::IndexerWeights => &mut self.indexer_weights,
            Buffer::IndexerQuery => &mut self.indexer_query,
            Buffer::Attended => &mut self.attended,
            Buffer::Output => &mut self.output,
            Buffer::ExpertIds => {
                self.expert_ids = values.iter().map(|&id| id as u32).collect();
                return;
            }
            Buffer::ExpertWeights => &mut self.expert_weights,
            Buffer::Logits => &mut self.logits,
        };
        *target = values.to_vec();
    }
}

/// Makes a buffer hold `len` numbers. On a machine with several memory nodes, new memory is first written by the pool's threads,
/// each node's a contiguous part: that of the rows, or columns, that they take first later on.
fn resize(pool: &Pool, buffer: &mut Vec<f32>, len: usize) {
    if len > buffer.capacity() {
        // What it held is not needed, so it need not move.
        *buffer = Vec::new();
        // Refused here, it is refused below as well, with the usual message.
        let is_reserved = ds4_gguf::reserve_huge(buffer, len).is_ok();
        if is_reserved && pool.nodes() > 1 {
            touch(pool, buffer, len);
        }
    }
    buffer.resize(len, 0.0);
}

/// Fills an empty buffer with `len` zeros, for which it has room.
fn touch(pool: &Pool, buffer: &mut Vec<f32>, len: usize) {
    let spare = &mut buffer.spare_capacity_mut()[..len];
    let part = len.div_ceil(pool.threads() * 4).max(1);
    let parts: Vec<Mutex<&mut [MaybeUninit<f32>]>> = spare.chunks_mut(part).map(Mutex::new).collect();
    pool.run(parts.len(), |task| {
        // No other task asks for this part.
        if let Ok(mut part) = parts[task].lock() {
            part.fill(MaybeUninit::new(0.0));
        }
    });
    // SAFETY: the parts were all of the first `len` numbers, and the capacity is at least that.
    unsafe { buffer.set_len(len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_several_nodes_are_zeros_of_the_right_number() {
        for nodes in [&[0][..], &[0, 1], &[0, 1, 0, 1, 2]] {
            let pool = Pool::on_nodes(nodes);
            assert_eq!(pool.nodes(), nodes.iter().max().map_or(1, |last| last + 1));
            let mut buffer = vec![7.0; 3];
            for len in [0, 1, 10_000, 5, 70_001] {
                let grows = len > buffer.capacity();
                resize(&pool, &mut buffer, len);
                assert_eq!(buffer.len(), len);
                assert!(!grows || buffer.iter().all(|&x| x == 0.0), "{len} on {nodes:?}");
            }
        }
    }
}
