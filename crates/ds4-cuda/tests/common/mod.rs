//! A backend on the device that the tests run on: the emulated one, or with DS4_TEST_GPU=1 the machine's first GPU.

use std::sync::Arc;

use ds4_cuda::device::cuda::CudaDevice;
use ds4_cuda::{CudaBackend, CudaOptions, Device};
use ds4_cuda_emulation::EmulatedDevice;
use ds4_model::{Compute, KvPrecision, Model, Numerics};

/// Whether tests run on a GPU: then they can afford long sequences.
#[allow(dead_code)] // Not every test has long ones.
pub fn on_gpu() -> bool {
    std::env::var_os("DS4_TEST_GPU").is_some()
}

/// A backend whose device, if emulated, runs threads in the order that `seed` gives.
pub fn backend(model: Arc<Model>, compute: Compute, kv: KvPrecision, seed: u64) -> CudaBackend {
    let device: Arc<dyn Device> =
        if on_gpu() { CudaDevice::open(0).expect("a GPU") } else { Arc::new(EmulatedDevice::new(4 << 30, seed)) };
    let options = CudaOptions { numerics: Numerics { compute, kv }, ..CudaOptions::default() };
    CudaBackend::new(model, device, options, &mut |_| {}).expect("a backend")
}
