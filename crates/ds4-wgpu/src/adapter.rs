//! The graphics cards of this machine and what they can do.

use std::fmt;
use std::str::FromStr;

use wgpu::{Adapter, Backends, DeviceType, Features, Instance, InstanceDescriptor, InstanceFlags};

use crate::error::WgpuError;
use crate::memory;

/// Which interface of the operating system leads to the card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Api {
    /// Whatever there is: Metal on a Mac, Vulkan elsewhere.
    #[default]
    Any,
    /// Metal.
    Metal,
    /// Vulkan.
    Vulkan,
}

impl Api {
    fn backends(self) -> Backends {
        match self {
            Self::Any => Backends::METAL | Backends::VULKAN,
            Self::Metal => Backends::METAL,
            Self::Vulkan => Backends::VULKAN,
        }
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "Metal or Vulkan",
            Self::Metal => "Metal",
            Self::Vulkan => "Vulkan",
        })
    }
}

impl FromStr for Api {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "wgpu" => Ok(Self::Any),
            "metal" => Ok(Self::Metal),
            "vulkan" => Ok(Self::Vulkan),
            other => Err(format!("{other:?} is not one of wgpu, metal, vulkan")),
        }
    }
}

/// What a card offers, and what of it the engine would use.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterReport {
    /// Its name.
    pub name: String,
    /// The interface to it: `vulkan` or `metal`.
    pub api: &'static str,
    /// The driver, in its own words.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Memory for a model in bytes, where the interface tells.
    pub memory: Option<u64>,
    /// All memory of the machine in bytes, where the card's share of it can be raised: on a Mac.
    pub machine_memory: Option<u64>,
    /// Whether it shares the processor's memory, so that the model file can be used where it lies.
    pub unified: bool,
    /// Largest piece of memory that a kernel can see, in bytes.
    pub max_binding: u64,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Workgroup memory, in bytes.
    pub workgroup_memory: u32,
    /// Invocations that can exchange values, smallest and largest; `None` without subgroup operations.
    pub subgroups: Option<(u32, u32)>,
    /// Whether it calculates in float16.
    pub float16: bool,
    /// Whether it multiplies small matrices as a whole, which the engine does not use.
    pub matrices: bool,
    /// Why the engine cannot use it; `None` if it can.
    pub unusable: Option<String>,
}

impl AdapterReport {
    /// Whether the processor simulates the card.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }
}

/// The least that the kernels need: the guarantees of WebGPU, of which they use these.
const LEAST: [(&str, u64); 4] = [
    ("the number of storage buffers for one kernel", 8),
    ("the size of a workgroup", 256),
    ("workgroup memory in bytes", 16 << 10),
    ("the largest storage buffer in bytes", 128 << 20),
];

/// The cards that can be reached through `api`, the best first: discrete ones, then integrated ones, then software.
pub fn adapters(api: Api) -> Vec<AdapterReport> {
    found(api).iter().map(report).collect()
}

pub(crate) fn found(api: Api) -> Vec<Adapter> {
    let mut descriptor = InstanceDescriptor::new_without_display_handle();
    descriptor.backends = api.backends();
    // Validation layers cost time and are for writing kernels; nothing here is taken from the environment.
    descriptor.flags = InstanceFlags::empty();
    let instance = Instance::new(descriptor);
    let mut list = pollster::block_on(instance.enumerate_adapters(api.backends()));
    list.sort_by_key(|adapter| rank(adapter.get_info().device_type));
    list
}

fn rank(kind: DeviceType) -> u32 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

pub(crate) fn report(adapter: &Adapter) -> AdapterReport {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let kind = match info.device_type {
        DeviceType::DiscreteGpu => "discrete",
        DeviceType::IntegratedGpu => "integrated",
        DeviceType::VirtualGpu => "virtual",
        DeviceType::Cpu => "software",
        DeviceType::Other => "other",
    };
    let driver = [info.driver.as_str(), info.driver_info.as_str()];
    AdapterReport {
        api: info.backend.to_str(),
        driver: driver.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "),
        kind,
        memory: memory::of(adapter),
        machine_memory: memory::of_machine(adapter),
        unified: memory::is_unified(adapter),
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        subgroups: features.contains(Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size)),
        float16: features.contains(Features::SHADER_F16),
        matrices: features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        unusable: check(adapter).err().map(|error| error.to_string()),
        name: info.name,
    }
}

/// Whether the card can run the kernels.
pub(crate) fn check(adapter: &Adapter) -> Result<(), WgpuError> {
    let limits = adapter.limits();
    let has = [
        u64::from(limits.max_storage_buffers_per_shader_stage),
        u64::from(limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x)),
        u64::from(limits.max_compute_workgroup_storage_size),
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
    ];
    match LEAST.iter().zip(has).find(|((_, needed), found)| found < needed) {
        Some((&(what, needed), found)) => {
            Err(WgpuError::Limit { adapter: adapter.get_info().name, what, found, needed })
        }
        None => Ok(()),
    }
}
