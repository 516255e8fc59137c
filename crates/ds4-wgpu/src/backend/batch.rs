//! The batch that is being computed.

use std::cell::Cell;

use ds4_model::{ModelError, Rows, Sublayer};

use super::WgpuBackend;
use super::workspace::{self, HeadSpace, Workspace};
use crate::cache::{WgpuSequence, lock};

/// The batch that is being computed.
#[derive(Default)]
pub(super) struct Batch {
    pub rows: usize,
    pub wanted: usize,
    /// Tokens of the longest sequence, the batch included.
    pub reach: usize,
    pub positions: Vec<usize>,
    /// Whether the tables of sequences and pages are on the card.
    pub has_tables: bool,
    pub spans: usize,
    /// Layer of the last attention input: its compressor features' width is that of the buffers.
    pub layer: usize,
    /// Whether `kv_stored` is that of the KV rows, and the indexer's codes those of its queries.
    pub kv_is_stored: bool,
    /// Whether the KV rows were made final before `append_rows`.
    pub kv_is_ahead: bool,
    pub has_codes: bool,
    /// Whether the last sublayer's output has still to enter the streams.
    pub unmerged: Cell<bool>,
    /// The sublayer whose merging weights have still to be made.
    pub unweighted: Cell<Option<(usize, Sublayer)>>,
    /// The layer whose queries have still to be normalized and rotated.
    pub unfinished: Cell<Option<usize>>,
    /// Whether the rows of the layer have entered rings and frontiers.
    pub is_stored: Cell<bool>,
    /// Token, position, span and slot of each row.
    pub info: Vec<[u32; 4]>,
    /// Whether the last `index_select` chose for some row.
    pub selecting: bool,
}

impl WgpuBackend {
    /// Makes room for a batch, and brings to the card what is known before the first operation.
    pub(super) fn begin_batch(&mut self, rows: &Rows) -> Result<(), ModelError> {
        let config = self.model.config();
        let (n, wanted) = (rows.len(), rows.wanted().len());
        lock(&self.context).recorder.restart()?;
        if n > self.work.rows {
            let room = n.next_power_of_two();
            self.work = Workspace::new(&self.gpu, config, self.kinds() as usize, self.layout.kv_row as usize, room)?;
            lock(&self.context).recorder.forget()?;
        }
        if wanted > self.head.rows {
            self.head = HeadSpace::new(&self.gpu, config, wanted.next_power_of_two())?;
            lock(&self.context).recorder.forget()?;
        }
        let mut info = vec![[0u32; 4]; n];
        for (number, span) in rows.spans().iter().enumerate() {
            for (row, position) in span.rows() {
                info[row] = [rows.tokens()[row], position as u32, number as u32, 0];
            }
        }
        let reach = rows.positions().iter().max().map_or(0, |last| last + 1);
        self.batch = Batch {
            rows: n,
            wanted,
            reach,
            positions: rows.positions().to_vec(),
            spans: rows.spans().len(),
            info,
            ..Batch::default()
        };
        let wanted: Vec<u32> = rows.wanted().iter().map(|&row| row as u32).collect();
        let angles = self.angles();
        let recorder = &mut lock(&self.context).recorder;
        recorder.upload(&self.work.row_info.buffer, bytemuck::cast_slice(&self.batch.info));
        recorder.upload(&self.work.angles.buffer, bytemuck::cast_slice(&angles));
        // Batches that decode want the same rows each time.
        if self.head.sent != wanted {
            recorder.upload(&self.head.wanted.buffer, bytemuck::cast_slice(&wanted));
            self.head.sent = wanted;
        }
        Ok(self.gpu.check()?)
    }

    /// Cosine and sine of every pair, for each row and kind. A window's start counts for the row that ends the window.
    fn angles(&self) -> Vec<f32> {
        let pairs = self.plain.pairs();
        let kinds = self.kinds() as usize;
        let mut out = vec![0.0; self.batch.positions.len() * kinds * pairs * 2];
        let mut angles = vec![(0.0, 0.0); pairs];
        for (row, &position) in out.chunks_exact_mut(kinds * pairs * 2).zip(&self.batch.positions) {
            for (kind, to) in row.chunks_exact_mut(pairs * 2).enumerate() {
                let at = match kind {
                    0 | 1 => position,
                    _ if (position + 1).is_multiple_of(self.ratios[kind - 2]) => position + 1 - self.ratios[kind - 2],
                    _ => continue,
                };
                let frequencies = if kind == 0 { &self.plain } else { &self.compressed };
                frequencies.angles(at, &mut angles);
                for (pair, &(cos, sin)) in to.chunks_exact_mut(2).zip(&angles) {
                    pair.copy_from_slice(&[cos, sin]);
                }
            }
        }
        out
    }

    /// Puts sequences and pages of the batch on the card, at the first operation that has the sequences.
    pub(super) fn set_tables(&mut self, rows: &Rows, sequences: &mut [&mut WgpuSequence]) -> Result<(), ModelError> {
        if self.batch.has_tables {
            return Ok(());
        }
        const SPAN_WORDS: usize = 8;
        let mut context = lock(&self.context);
        let mut spans = Vec::new();
        let mut pages: Vec<u32> = Vec::new();
        for span in rows.spans() {
            let sequence = &mut *sequences[span.sequence];
            context.make_room(sequence, span.end_position())?;
            let pages_at = rows.spans().len() * SPAN_WORDS + pages.len();
            let numbers = [span.first_row, span.len, span.first_position, pages_at];
            spans.push(sequence.slot_number());
            spans.extend(numbers.map(|n| n as u32));
            spans.extend([0; SPAN_WORDS - 5]);
            pages.extend(sequence.pages.iter().map(|page| page.number));
        }
        spans.extend(pages);
        if workspace::ensure(&self.gpu, &mut self.scratch.tables, "tables", spans.len())? {
            context.recorder.forget()?;
        }
        // Handed over before what was recorded so far runs, none of which reads the tables.
        context.recorder.upload(&self.scratch.tables.buffer, bytemuck::cast_slice(&spans));
        for span in rows.spans() {
            let slot = sequences[span.sequence].slot_number();
            span.rows().for_each(|(row, _)| self.batch.info[row][3] = slot);
        }
        context.recorder.upload(&self.work.row_info.buffer, bytemuck::cast_slice(&self.batch.info));
        self.batch.has_tables = true;
        Ok(())
    }
}
