//! A backend for tests, where there is a card.

use std::sync::Arc;

use ds4_model::{Model, Numerics};
use ds4_wgpu::{Api, WgpuBackend, WgpuError, WgpuOptions};

/// The variable that makes a missing card a failure: set where one must be there.
const REQUIRED: &str = "DS4_TEST_WGPU";

/// A backend on this machine's card. Without one the test says so and has nothing to do, unless a card is required.
pub fn backend(model: &Arc<Model>, numerics: Numerics, subgroups: bool) -> Option<WgpuBackend> {
    with_layout(model, numerics, subgroups, true)
}

/// The same, with weights in planes or as the file has them.
pub fn with_layout(model: &Arc<Model>, numerics: Numerics, subgroups: bool, planes: bool) -> Option<WgpuBackend> {
    open(model, WgpuOptions { numerics, subgroups, planes, ..options(&mut |_| {}) })
}

/// What most tests start a backend with: nothing is compiled ahead or kept.
pub fn options(progress: &mut dyn FnMut(u64)) -> WgpuOptions<'_> {
    WgpuOptions {
        api: Api::Any,
        numerics: Numerics::default(),
        subgroups: true,
        halves: true,
        planes: true,
        direct: ds4_wgpu::DIRECT,
        share_weights: false,
        prepare: false,
        kernel_folder: None,
        planned: Box::leak(Box::new(|_: &ds4_wgpu::Residency| {})),
        progress,
    }
}

/// Starts a backend.
pub fn open(model: &Arc<Model>, options: WgpuOptions<'_>) -> Option<WgpuBackend> {
    match WgpuBackend::new(Arc::clone(model), options) {
        Ok(backend) => Some(backend),
        Err(error @ WgpuError::NoAdapter { .. }) if std::env::var_os(REQUIRED).is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
