//! The CUDA backend: kernels in CUDA C++, the host's side of them, and the memory of sequences on the card.
//!
//! - [`device`]: what a device has to offer, and the real one, through the driver that is found when the program starts.
//! - [`CudaBackend`]: the model's operations ([`ds4_model::Backend`]).
//! - `kernels/*.cu`: one family of operations per file. A row's result has the same bits in every batch: products are cut into
//!   the same segments for one row and for thousands, sums have one order, and nothing is added atomically.

pub mod backend;
mod bandwidth;
mod cache;
pub mod device;
mod params;
mod residency;
mod tensors;
mod weights;

pub use backend::{CudaBackend, CudaOptions};
pub use bandwidth::read_bandwidth;
pub use cache::CudaSequence;
pub use device::cuda::{CudaDevice, DeviceInfo, devices};
pub use device::{Device, DeviceError};
pub use residency::Residency;
