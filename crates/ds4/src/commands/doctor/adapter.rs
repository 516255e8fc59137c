//! Graphics cards, as `ds4 doctor` reports them.

use ds4_wgpu::AdapterReport;
use serde::Serialize;

use crate::terminal::printable;
use crate::units::bytes;

/// A card, and what of it the engine would use.
#[derive(Debug, Serialize)]
pub struct Adapter {
    pub name: String,
    /// `vulkan` or `metal`.
    pub api: &'static str,
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Bytes for a model, where the interface tells.
    pub memory: Option<u64>,
    /// All bytes of memory of the machine, where the card's share of it can be raised.
    pub machine_memory: Option<u64>,
    /// Whether the model file is used where it lies, without a copy.
    pub zero_copy: bool,
    pub largest_binding_bytes: u64,
    pub largest_buffer_bytes: u64,
    pub workgroup_memory_bytes: u32,
    /// Smallest and largest subgroup.
    pub subgroups: Option<(u32, u32)>,
    pub float16_arithmetic: bool,
    pub cooperative_matrices: bool,
    /// Why the engine cannot use it.
    pub unusable: Option<String>,
}

impl From<AdapterReport> for Adapter {
    fn from(found: AdapterReport) -> Self {
        Self {
            name: found.name,
            api: found.api,
            driver: found.driver,
            kind: found.kind,
            memory: found.memory,
            machine_memory: found.machine_memory,
            zero_copy: found.unified,
            largest_binding_bytes: found.max_binding,
            largest_buffer_bytes: found.max_buffer,
            workgroup_memory_bytes: found.workgroup_memory,
            subgroups: found.subgroups,
            float16_arithmetic: found.float16,
            cooperative_matrices: found.matrices,
            unusable: found.unusable,
        }
    }
}

impl Adapter {
    /// What it is, in words for people.
    pub fn facts(&self) -> Vec<String> {
        let mut facts = vec![
            printable(&self.name).into_owned(),
            format!("{} card through {}", self.kind, self.api),
            printable(&self.driver).into_owned(),
        ];
        facts.extend(self.memory.map(|memory| format!("{} of memory for a model", bytes(memory))));
        facts.push(format!("pieces up to {}", bytes(self.largest_binding_bytes)));
        facts.push(format!("workgroup memory {}", bytes(u64::from(self.workgroup_memory_bytes))));
        facts.extend(self.float16_arithmetic.then(|| "float16 arithmetic".to_owned()));
        facts.extend(self.cooperative_matrices.then(|| "cooperative matrices".to_owned()));
        facts
    }

    /// What the engine would use of it.
    pub fn uses(&self) -> Vec<String> {
        if let Some(why) = &self.unusable {
            return vec![printable(why).into_owned()];
        }
        let subgroups = match self.subgroups {
            Some((smallest, largest)) if smallest == largest => format!("subgroups of {smallest}"),
            Some((smallest, largest)) => format!("subgroups of {smallest} to {largest}"),
            None => "no subgroups: workgroup memory instead".to_owned(),
        };
        let weights = match self.zero_copy {
            true => "weights used in the mapped file",
            false => "weights copied to the card",
        };
        vec![format!("--backend {}", self.api), subgroups, "packed int8 dot products".to_owned(), weights.to_owned()]
    }

    /// The command after which a model of so many bytes fits that does not now: macOS lets the card have more of the memory.
    pub fn wired_limit(&self, bytes: u64) -> Option<String> {
        ds4_wgpu::wired_limit(bytes, self.memory?, self.machine_memory?)
    }
}
