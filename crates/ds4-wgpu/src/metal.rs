//! What only Metal has: the mapped model file as buffers, without a copy.
//!
//! A Mac's graphics card works in the processor's memory, so the pages of the file are read where the system has cached them. Metal
//! wraps whole pages; a buffer may not be longer than the card allows, so that a large file becomes several, each of whole tensors.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use ds4_gguf::Access;
use ds4_model::Model;
use objc2::rc::Retained;
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_metal::{
    MTLBuffer, MTLCommandQueue, MTLDevice, MTLResidencySet, MTLResidencySetDescriptor, MTLResourceOptions,
};
use wgpu::hal::api::Metal;
use wgpu::{Adapter, Buffer, BufferDescriptor, BufferUsages};

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::weights::Source;

/// Bytes of a page on Apple's processors; a multiple of Intel's.
const PAGE: usize = 16 << 10;

/// Bytes that the card can use without displacing others, by its own account.
pub(crate) fn working_set(adapter: &Adapter) -> Option<u64> {
    // SAFETY: the device is only asked for a number, while `adapter` keeps it alive.
    unsafe { Some(adapter.as_hal::<Metal>()?.raw_device().recommendedMaxWorkingSetSize()) }
}

/// All memory of the machine.
pub(crate) fn machine_memory() -> Option<u64> {
    let (mut bytes, mut size) = (0u64, size_of::<u64>());
    // SAFETY: the name ends with a zero, and the value has room for `size` bytes.
    let failed = unsafe {
        libc::sysctlbyname(
            c"hw.memsize".as_ptr(),
            (&raw mut bytes).cast::<c_void>(),
            &raw mut size,
            std::ptr::null_mut(),
            0,
        )
    };
    (failed == 0 && size == size_of::<u64>()).then_some(bytes)
}

/// Whether card and processor share their memory.
pub(crate) fn is_unified(adapter: &Adapter) -> bool {
    // SAFETY: as above.
    unsafe { adapter.as_hal::<Metal>().is_some_and(|adapter| adapter.raw_device().hasUnifiedMemory()) }
}

/// The model's file as buffers, if it is a mapped file and the card shares the memory.
pub(crate) fn source(gpu: &Arc<Gpu>, model: &Arc<Model>) -> Result<Source, WgpuError> {
    let Some(file) = model.gguf().mapping().filter(|_| gpu.report.unified) else { return Ok(Source::Copied) };
    // SAFETY: the device is only asked for a number, while `gpu` keeps it alive.
    let longest = unsafe { gpu.device.as_hal::<Metal>().map(|device| device.raw_device().maxBufferLength()) };
    let Some(longest) = longest else { return Ok(Source::Copied) };
    model.gguf().advise_all(Access::WillNeed);
    let mut buffers = Vec::new();
    let mut wrapped = Vec::new();
    for range in windows(model, file, longest / PAGE * PAGE) {
        match wrap(gpu, model, &range) {
            Some((buffer, raw)) => {
                buffers.push((range, buffer));
                wrapped.push(raw);
            }
            None => {
                return Err(WgpuError::Piece {
                    adapter: gpu.report.name.clone(),
                    what: "a part of the model file".to_owned(),
                    bytes: range.len() as u64,
                    most: longest as u64,
                    remedy: "; Metal would not wrap it. Use `--backend cpu`",
                });
            }
        }
    }
    gpu.check()?;
    if let Some(resident) = keep_resident(gpu, &wrapped) {
        // The first set stays; a card is opened for one model.
        let _ = gpu.resident.set(resident);
    }
    Ok(Source::Mapped(buffers))
}

/// What stays in the card's reach while kernels run: without it, the system may take weights out between two tokens and bring them back
/// for the next, buffer by buffer.
pub(crate) struct Resident(
    #[expect(dead_code, reason = "is only kept alive")] Retained<ProtocolObject<dyn MTLResidencySet>>,
);

// SAFETY: nobody uses the set after it was made; that a reference to an object of Metal is dropped on another thread is allowed.
unsafe impl Send for Resident {}
// SAFETY: as above.
unsafe impl Sync for Resident {}

/// Keeps buffers resident as long as the queue lives. `None` before macOS 15, which has no such sets, or if Metal refuses.
fn keep_resident(gpu: &Gpu, buffers: &[Retained<ProtocolObject<dyn MTLBuffer>>]) -> Option<Resident> {
    // SAFETY: device and queue are used while `gpu` keeps them alive, and only to make a set and to hand it over.
    unsafe {
        let device = gpu.device.as_hal::<Metal>()?;
        let device = device.raw_device();
        if !device.respondsToSelector(sel!(newResidencySetWithDescriptor:error:)) {
            return None;
        }
        let set = device.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new()).ok()?;
        for buffer in buffers {
            set.addAllocation(ProtocolObject::from_ref(&**buffer));
        }
        set.commit();
        gpu.queue.as_hal::<Metal>()?.as_raw().addResidencySet(&set);
        set.requestResidency();
        Some(Resident(set))
    }
}

/// Runs of whole pages, none longer than `longest`, so that every tensor lies in one of them.
fn windows(model: &Model, file: &[u8], longest: usize) -> Vec<Range<usize>> {
    let end_of_file = (file.as_ptr() as usize + file.len()).next_multiple_of(PAGE);
    let mut tensors: Vec<Range<usize>> = model
        .gguf()
        .tensors()
        .iter()
        .map(|info| {
            let bytes = model.gguf().data(info).as_ptr_range();
            bytes.start as usize..bytes.end as usize
        })
        .collect();
    tensors.sort_by_key(|range| range.start);
    let mut windows: Vec<Range<usize>> = Vec::new();
    for tensor in tensors {
        let end = tensor.end.next_multiple_of(PAGE).min(end_of_file);
        match windows.last_mut() {
            Some(window) if end - window.start <= longest => window.end = window.end.max(end),
            _ => windows.push(tensor.start / PAGE * PAGE..end),
        }
    }
    windows
}

/// A buffer over a part of the file, as wgpu and as Metal has it.
fn wrap(
    gpu: &Gpu,
    model: &Arc<Model>,
    range: &Range<usize>,
) -> Option<(Buffer, Retained<ProtocolObject<dyn MTLBuffer>>)> {
    let size = range.len() as u64;
    let start = NonNull::new(range.start as *mut c_void)?;
    let owner = Arc::clone(model);
    // The file stays mapped until Metal lets go of the buffer.
    let release = block2::RcBlock::new(move |_: NonNull<c_void>, _: usize| {
        let _ = &owner;
    });
    // SAFETY: the range is whole pages of a mapping that `release` keeps alive; the last page of a mapping is mapped to its end. The
    // card only reads: every binding of a weight is read-only, and the buffer is given no usage that writes. The length is not 0,
    // because a window has a tensor.
    unsafe {
        let device = gpu.device.as_hal::<Metal>()?;
        let raw = device.raw_device().newBufferWithBytesNoCopy_length_options_deallocator(
            start,
            range.len(),
            MTLResourceOptions::StorageModeShared,
            Some(&release),
        )?;
        let buffer = wgpu::hal::metal::Device::buffer_from_raw(raw.clone(), size);
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        let descriptor = BufferDescriptor { label: Some("model file"), size, usage, mapped_at_creation: false };
        Some((gpu.device.create_buffer_from_hal::<Metal>(buffer, &descriptor), raw))
    }
}
