//! An opened card: device, queue, and what was found out about it.

use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{
    Adapter, Buffer, BufferDescriptor, BufferUsages, Device, DeviceDescriptor, Features, MemoryHints, PollType, Queue,
};

use crate::adapter::{self, AdapterReport, Api};
use crate::error::WgpuError;

/// An opened card.
pub(crate) struct Gpu {
    pub device: Device,
    pub queue: Queue,
    pub report: AdapterReport,
    /// Neighbouring invocations that may exchange values; 1 without subgroup operations.
    pub span: u32,
    /// Offsets of storage bindings are multiples of this.
    pub alignment: u64,
    /// Largest storage binding that is used: offsets in it fit 32 bits, and it is a whole number of vectors.
    pub max_binding: u64,
    failure: Arc<Mutex<Option<String>>>,
    /// Weights that stay where the card reaches them.
    #[cfg(target_vendor = "apple")]
    pub resident: std::sync::OnceLock<crate::metal::Resident>,
}

impl Gpu {
    /// Opens the best card that `api` leads to.
    pub fn open(api: Api, subgroups: bool) -> Result<Self, WgpuError> {
        let list = adapter::found(api);
        let usable = list.iter().find(|adapter| adapter::check(adapter).is_ok());
        match (usable, list.first()) {
            (Some(adapter), _) => Self::of(adapter, subgroups),
            (None, Some(adapter)) => adapter::check(adapter).and_then(|()| Self::of(adapter, subgroups)),
            (None, None) => Err(WgpuError::NoAdapter { api: api.to_string() }),
        }
    }

    fn of(adapter: &Adapter, subgroups: bool) -> Result<Self, WgpuError> {
        let report = adapter::report(adapter);
        let wanted = Features::TIMESTAMP_QUERY
            | Features::PIPELINE_CACHE
            | if subgroups { Features::SUBGROUP } else { Features::empty() };
        let limits = adapter.limits();
        let descriptor = DeviceDescriptor {
            label: Some("ds4"),
            required_features: adapter.features() & wanted,
            required_limits: limits.clone(),
            memory_hints: MemoryHints::Performance,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|error| WgpuError::Device { adapter: report.name.clone(), why: error.to_string() })?;
        let failure = Arc::new(Mutex::new(None));
        // The first failure is the cause of those that follow.
        let note = |failure: &Arc<Mutex<Option<String>>>, why: String| {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        };
        let of_errors = Arc::clone(&failure);
        device.on_uncaptured_error(Arc::new(move |error| note(&of_errors, error.to_string())));
        let of_loss = Arc::clone(&failure);
        device.set_device_lost_callback(move |reason, why| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&of_loss, format!("the card was lost ({reason:?}): {why}"));
            }
        });
        // A power of two, at most the lanes that the kernels add up together.
        let smallest = report.subgroups.map_or(1, |(smallest, _)| smallest);
        let exchanges = device.features().contains(Features::SUBGROUP) && smallest.is_power_of_two();
        let span = if exchanges { smallest.min(32) } else { 1 };
        let alignment = u64::from(limits.min_storage_buffer_offset_alignment.max(16));
        let max_binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min((4 << 30) - 256);
        Ok(Self {
            device,
            queue,
            report,
            span,
            alignment,
            max_binding: max_binding / 256 * 256,
            failure,
            #[cfg(target_vendor = "apple")]
            resident: std::sync::OnceLock::new(),
        })
    }

    /// Invocations that a workgroup may have, at most as many as kernels are written for.
    pub fn most_invocations(&self) -> u32 {
        let limits = self.device.limits();
        let most = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x).min(1024);
        1 << most.ilog2()
    }

    /// What failed since the card was opened.
    pub fn check(&self) -> Result<(), WgpuError> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(WgpuError::Failed { adapter: self.report.name.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }

    /// A buffer for kernels, of at least `bytes`.
    pub fn storage(&self, label: &str, bytes: u64) -> Result<Buffer, WgpuError> {
        let size = bytes.max(16).next_multiple_of(16);
        if size > self.max_binding {
            return Err(WgpuError::Piece {
                adapter: self.report.name.clone(),
                what: label.to_owned(),
                bytes,
                most: self.max_binding,
                remedy: "; use a shorter context (--ctx), fewer sequences, or smaller batches",
            });
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        self.create(label, size, usage)
    }

    /// A buffer, filled with zeros if bytes may be copied into it.
    pub fn create(&self, label: &str, size: u64, usage: BufferUsages) -> Result<Buffer, WgpuError> {
        let descriptor = BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        if usage.contains(BufferUsages::COPY_DST) {
            // wgpu would do it later, before the first use that it knows of; it knows nothing of kernels that are recorded without it.
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.clear_buffer(&buffer, 0, None);
            self.queue.submit([encoder.finish()]);
        }
        self.check()?;
        Ok(buffer)
    }

    /// Waits until everything that was submitted is done.
    pub fn wait(&self) -> Result<(), WgpuError> {
        self.device
            .poll(PollType::Wait { submission_index: None, timeout: None })
            .map_err(|error| WgpuError::Failed { adapter: self.report.name.clone(), why: error.to_string() })?;
        self.check()
    }
}
