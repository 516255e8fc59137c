//! What lies in a GPU's memory: planned before anything is loaded, so that what cannot fit is refused with numbers.

use std::fmt;
use std::sync::Arc;

use ds4_model::{Model, StateLayout};

use crate::backend::{CudaOptions, scratch_bytes};
use crate::cache::CacheLayout;
use crate::device::counting::CountingDevice;
use crate::device::{Device, DeviceError, DeviceMemory};
use crate::tensors::DeviceTensors;

/// Rows of a prefill step. More of them share decoded weights; each takes 1 MiB of the full shape.
const PREFILL_ROWS: usize = 2048;
/// The same on cards with at least [`LARGE`] bytes.
const PREFILL_ROWS_LARGE: usize = 3072;
const LARGE: u64 = 96 << 30;
/// Left to the driver, graphs and kernels.
const RESERVE: u64 = 512 << 20;

/// The memory plan of a model on a device. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    /// Weights as they lie on the device: a little more than in the file.
    pub weights: u64,
    /// Rows of a prefill step.
    pub prefill_rows: usize,
    /// Activations of such a step.
    pub scratch: u64,
    /// Window rings and compressor frontiers of one sequence.
    pub sequence: u64,
    /// Rows of one page of context.
    pub page: u64,
    /// Tokens of one page.
    pub page_tokens: u64,
    /// Kept free for the driver.
    pub reserve: u64,
    /// Memory of the device.
    pub memory: DeviceMemory,
}

impl Residency {
    /// The plan. Nothing is loaded; only the file's header is read.
    ///
    /// # Errors
    /// A shape that the kernels are not made for.
    pub fn plan(model: &Model, memory: DeviceMemory, options: CudaOptions) -> Result<Self, DeviceError> {
        let config = model.config();
        let counting = Arc::new(CountingDevice::default());
        let device: Arc<dyn Device> = Arc::<CountingDevice>::clone(&counting);
        let tensors = DeviceTensors::load(&device, model, options.share_weights, &[], &mut |_| {})?;
        let weights = counting.used();
        drop(tensors);
        let layout = CacheLayout::new(config, Arc::new(StateLayout::new(config, options.numerics.kv)));
        let prefill_rows = if memory.total >= LARGE { PREFILL_ROWS_LARGE } else { PREFILL_ROWS };
        let scratch = scratch_bytes(&device, &counting, model, &layout, options.numerics, prefill_rows)?;
        Ok(Self {
            weights,
            prefill_rows,
            scratch,
            sequence: layout.slot_bytes as u64,
            page: layout.page_bytes as u64,
            page_tokens: layout.page_tokens as u64,
            reserve: RESERVE,
            memory,
        })
    }

    /// What is left for sequences.
    pub fn headroom(&self) -> u64 {
        self.memory.free.saturating_sub(self.weights + self.scratch + self.reserve)
    }

    /// Bytes of one sequence of `tokens` tokens.
    pub fn sequence_bytes(&self, tokens: u64) -> u64 {
        self.sequence + tokens.div_ceil(self.page_tokens) * self.page
    }

    /// The longest context, in tokens, of one sequence alone.
    pub fn context(&self) -> u64 {
        let rows = self.headroom().saturating_sub(self.sequence);
        rows.checked_div(self.page).map_or(u64::MAX, |pages| pages * self.page_tokens)
    }

    /// Refuses what cannot fit.
    ///
    /// # Errors
    /// A sentence with the numbers, and what would fit.
    pub fn check(&self) -> Result<(), DeviceError> {
        let needed = self.weights + self.scratch + self.reserve + self.sequence_bytes(1);
        if needed <= self.memory.free {
            return Ok(());
        }
        Err(DeviceError::new(format!(
            "the model does not fit into the GPU's memory: weights {}, scratch {}, driver {}, one conversation {}: {} in all, and \
             {} of {} are free. Use a GPU with more memory, a smaller file, or --backend cpu",
            gib(self.weights),
            gib(self.scratch),
            gib(self.reserve),
            gib(self.sequence_bytes(1)),
            gib(needed),
            gib(self.memory.free),
            gib(self.memory.total)
        )))
    }
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "weights {}, scratch {}, driver {}, left for conversations {} of {} free: {} tokens of context in all",
            gib(self.weights),
            gib(self.scratch),
            gib(self.reserve),
            gib(self.headroom()),
            gib(self.memory.free),
            self.context()
        )
    }
}

fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib < 0.1 { format!("{:.1} MiB", gib * 1024.0) } else { format!("{gib:.1} GiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn residency(free: u64) -> Residency {
        let memory = DeviceMemory { free, total: 80 << 30 };
        Residency {
            weights: 10 << 30,
            prefill_rows: PREFILL_ROWS,
            scratch: 1 << 30,
            sequence: 4 << 20,
            page: 1 << 20,
            page_tokens: 128,
            reserve: RESERVE,
            memory,
        }
    }

    #[test]
    fn what_fits_leaves_room_for_context() {
        let plan = residency(20 << 30);
        plan.check().expect("it fits");
        assert!(plan.sequence_bytes(plan.context()) <= plan.headroom());
        assert!(plan.sequence_bytes(plan.context() + 128) > plan.headroom());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let plan = residency(11 << 30);
        let words = plan.check().expect_err("half a GiB is missing").to_string();
        assert!(words.contains("weights 10.0 GiB") && words.contains("11.0 GiB of 80.0 GiB are free"), "{words}");
        assert_eq!(plan.headroom(), 0);
    }
}
