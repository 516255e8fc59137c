//! How much memory a card has: the one thing that wgpu does not tell.

use wgpu::{Adapter, Backend};

/// Bytes of memory that a card has for a model, where its interface tells.
pub(crate) fn of(adapter: &Adapter) -> Option<u64> {
    match adapter.get_info().backend {
        #[cfg(not(target_vendor = "apple"))]
        Backend::Vulkan => vulkan(adapter),
        #[cfg(target_vendor = "apple")]
        Backend::Metal => crate::metal::working_set(adapter),
        _ => None,
    }
}

/// All memory of the machine, where the card's share of it can be raised.
pub(crate) fn of_machine(adapter: &Adapter) -> Option<u64> {
    match adapter.get_info().backend {
        #[cfg(target_vendor = "apple")]
        Backend::Metal if is_unified(adapter) => crate::metal::machine_memory(),
        _ => None,
    }
}

/// Whether the card works in the processor's memory.
pub(crate) fn is_unified(adapter: &Adapter) -> bool {
    match adapter.get_info().backend {
        #[cfg(target_vendor = "apple")]
        Backend::Metal => crate::metal::is_unified(adapter),
        _ => false,
    }
}

/// The largest heap of the card's own memory.
#[cfg(not(target_vendor = "apple"))]
fn vulkan(adapter: &Adapter) -> Option<u64> {
    use wgpu::hal::api::Vulkan;
    // VK_MEMORY_HEAP_DEVICE_LOCAL_BIT.
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the handle is only asked for properties, while `adapter` keeps it alive.
    let properties = unsafe {
        let raw = adapter.as_hal::<Vulkan>()?;
        let instance = raw.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(raw.raw_physical_device())
    };
    let heaps = &properties.memory_heaps[..properties.memory_heap_count as usize];
    heaps.iter().filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}
