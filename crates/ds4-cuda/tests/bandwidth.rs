//! Reading all of a device's memory, which fails if a part of it is left out.

use std::sync::Arc;

use ds4_cuda::{Device, read_bandwidth};
use ds4_cuda_emulation::EmulatedDevice;

#[test]
fn all_of_the_memory_is_read() {
    let device: Arc<dyn Device> = Arc::new(EmulatedDevice::new((1 << 30) + (3 << 20), 3));
    let bandwidth = read_bandwidth(&device).expect("everything is read").expect("enough memory");
    assert!(bandwidth > 0.0 && bandwidth.is_finite());
}

#[test]
fn too_little_memory_tells_nothing() {
    let device: Arc<dyn Device> = Arc::new(EmulatedDevice::new(512 << 20, 0));
    assert_eq!(read_bandwidth(&device).expect("no failure"), None);
}
