//! Time stamps around kernels.

use std::collections::HashMap;

use wgpu::{
    Buffer, BufferUsages, CommandEncoder, ComputePassTimestampWrites, Features, QUERY_SET_MAX_QUERIES, QuerySet,
    QuerySetDescriptor, QueryType,
};

use crate::direct::Direct;
use crate::error::WgpuError;
use crate::gpu::Gpu;

/// A kernel's name, how often it ran, and milliseconds in all.
pub type KernelTime = (String, u32, f64);

/// Kernels, or all kernels that are handed over together, between two time stamps each.
pub(crate) struct Timing {
    /// Whether every kernel has its own.
    pub by_kernel: bool,
    /// Milliseconds in which the card worked, and tick of the last stamp.
    busy: (f64, u64),
    /// `None` if it is the direct recorder's.
    set: Option<QuerySet>,
    /// Where the stamps go.
    pub resolved: Buffer,
    /// Names of the kernels whose stamps are in the set.
    names: Vec<String>,
    sums: HashMap<String, (u32, f64)>,
    /// Nanoseconds of a tick.
    period: f64,
}

impl Timing {
    /// `None` if the card has no time stamps. `direct`: what records, if it is not wgpu.
    pub fn new(gpu: &Gpu, by_kernel: bool, direct: Option<&dyn Direct>) -> Result<Option<Self>, WgpuError> {
        if !gpu.device.features().contains(Features::TIMESTAMP_QUERY) {
            return Ok(None);
        }
        let set = match direct {
            Some(direct) => {
                direct.make_stamps(QUERY_SET_MAX_QUERIES)?;
                None
            }
            None => Some(gpu.device.create_query_set(&QuerySetDescriptor {
                label: Some("time stamps"),
                ty: QueryType::Timestamp,
                count: QUERY_SET_MAX_QUERIES,
            })),
        };
        let usage = BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC;
        let resolved = gpu.create("time stamps", u64::from(QUERY_SET_MAX_QUERIES) * 8, usage)?;
        let period = f64::from(gpu.queue.get_timestamp_period());
        Ok(Some(Self { by_kernel, busy: (0.0, 0), set, resolved, names: Vec::new(), sums: HashMap::new(), period }))
    }

    /// Whether the set has no room for another kernel.
    pub fn is_full(&self) -> bool {
        self.count() + 2 > QUERY_SET_MAX_QUERIES
    }

    /// The number of the first of the next kernel's two stamps.
    pub fn next(&mut self, name: String) -> u32 {
        self.names.push(name);
        2 * (self.names.len() as u32 - 1)
    }

    /// Places of two stamps, for wgpu.
    pub fn writes(&self, first: u32) -> Option<ComputePassTimestampWrites<'_>> {
        self.set.as_ref().map(|query_set| ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Stamps that have a place.
    pub fn count(&self) -> u32 {
        2 * self.names.len() as u32
    }

    /// Records with wgpu that the stamps go to the buffer.
    pub fn resolve(&self, encoder: &mut CommandEncoder) {
        if let (Some(set), 1..) = (&self.set, self.count()) {
            encoder.resolve_query_set(set, 0..self.count(), &self.resolved, 0);
        }
    }

    /// Adds up what was resolved.
    pub fn note(&mut self, bytes: &[u8]) {
        let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(bytes);
        for (name, pair) in self.names.drain(..).zip(stamps.chunks_exact(2)) {
            let sum = self.sums.entry(name).or_default();
            sum.0 += 1;
            sum.1 += pair[1].saturating_sub(pair[0]) as f64 * self.period / 1e6;
            // The first stamp may be that of a time when the last kernels were still running.
            let begin = pair[0].max(self.busy.1);
            self.busy.0 += pair[1].saturating_sub(begin) as f64 * self.period / 1e6;
            self.busy.1 = pair[1].max(self.busy.1);
        }
    }

    /// Milliseconds in which the card worked.
    pub fn busy(&self) -> f64 {
        self.busy.0
    }

    /// Each kernel's time, the longest first.
    pub fn finish(self) -> Vec<KernelTime> {
        let mut list: Vec<_> = self.sums.into_iter().map(|(name, (count, ms))| (name, count, ms)).collect();
        list.sort_by(|a, b| b.2.total_cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
        list
    }
}
