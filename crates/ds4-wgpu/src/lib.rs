//! The backend for graphics cards: DeepSeek V4 in WGSL, over Vulkan or Metal.
//!
//! - [`adapters`] says what cards there are and what they can do; [`WgpuBackend`] runs the model on one.
//! - `kernels/` has the WGSL; [`shader`] puts it together and specializes it for a model and a card.
//! - Weights are copied to a card of its own memory, block formats taken apart into planes; on a Mac they are bound where they are
//!   mapped, in the file's layout.
//! - Everything is recorded in order; a decoded token is handed over in a few pieces, so that the card begins at once. Bind groups and pipelines are
//!   found again by what they are made of; what changes from token to token is in buffers.
//! - Sequence state: one buffer of slots (window rings, compressor frontiers) and one of pages for each layer.
//!
//! Results do not depend on the batch: every sum has one order, written down in the kernels, which tiles, chunks and subgroup sizes
//! follow. There are no atomics on floats. Different cards may give different bits, because WGSL leaves the last digits of `exp`,
//! `sqrt` and division open.

mod adapter;
mod backend;
mod bandwidth;
mod cache;
mod direct;
mod error;
mod gpu;
mod memory;
#[cfg(target_vendor = "apple")]
mod metal;
mod pipeline_file;
mod pipelines;
mod planes;
mod pool;
mod recorder;
mod residency;
pub mod shader;
mod tensors;
mod timing;
mod transfer;
mod weights;

pub use adapter::{AdapterReport, Api, adapters};
pub use backend::{WgpuBackend, WgpuOptions};
pub use cache::WgpuSequence;
pub use error::WgpuError;
pub use recorder::Recorded;
pub use residency::{Residency, wired_limit};
pub use timing::KernelTime;

/// Whether kernels are recorded directly (see [`WgpuOptions::direct`]) where nobody says otherwise: through Vulkan, where it has been run, and
/// not yet through Metal.
pub const DIRECT: bool = cfg!(not(target_vendor = "apple"));
