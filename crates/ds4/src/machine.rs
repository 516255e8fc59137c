//! What this machine is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ds4_cpu::bandwidth::read_bandwidth;
use ds4_cpu::kernels::Isa;
use ds4_cpu::pool::Pool;
use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Memory that the bandwidth is measured on: several times any cache.
const MEASURED: u64 = 512 << 20;

/// This machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Physical cores, where the system tells.
    pub cores: Option<usize>,
    /// Threads that this process may run at once.
    pub threads: usize,
    /// Instruction sets that the kernels are written for, slowest first.
    pub instruction_sets: Vec<String>,
    pub memory: Memory,
    /// Bytes per second that `threads` threads read from memory together.
    pub bandwidth: f64,
    pub disks: Vec<Disk>,
    /// Graphics cards, in words.
    pub gpus: Vec<String>,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Of the machine.
    pub total: u64,
    /// What may be used without displacing others, the limit heeded.
    pub available: u64,
    /// What this process' container or service may use.
    pub limit: Option<u64>,
}

/// Room on a disk.
#[derive(Debug, Serialize)]
pub struct Disk {
    /// What would go there.
    pub purpose: &'static str,
    pub folder: PathBuf,
    pub free: u64,
    pub total: u64,
}

impl Machine {
    /// Looks, and measures for a second.
    ///
    /// # Errors
    /// No threads can be started.
    pub fn look(threads: Option<usize>) -> anyhow::Result<Machine> {
        let refresh = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(refresh);
        let threads = threads.unwrap_or_else(ds4_cpu::processors::default_threads);
        let memory = memory(&system);
        let processor = system.cpus().first().map(|cpu| cpu.brand().trim()).filter(|brand| !brand.is_empty());
        Ok(Machine {
            processor: processor.unwrap_or(std::env::consts::ARCH).to_owned(),
            cores: System::physical_core_count(),
            threads,
            instruction_sets: Isa::available().iter().map(Isa::to_string).collect(),
            memory,
            bandwidth: bandwidth(threads, memory)?,
            disks: disks(),
            gpus: gpus(Path::new("/")),
        })
    }
}

impl Memory {
    /// The memory of this machine as it is now.
    pub fn look() -> Memory {
        let refresh = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        memory(&System::new_with_specifics(refresh))
    }
}

fn memory(system: &System) -> Memory {
    let (total, available) = (system.total_memory(), system.available_memory());
    let group = system.cgroup_limits().filter(|group| group.total_memory < total);
    Memory {
        total,
        available: group.as_ref().map_or(available, |group| available.min(group.free_memory)),
        limit: group.map(|group| group.total_memory),
    }
}

fn bandwidth(threads: usize, memory: Memory) -> anyhow::Result<f64> {
    let pool = Pool::new(threads).context("cannot start threads to measure the memory with")?;
    // Written once, so that there is memory behind it.
    let bytes = vec![1; MEASURED.min(memory.available / 4).max(1 << 20) as usize];
    Ok(read_bandwidth(&pool, &bytes))
}

/// Where a download goes, where temporary files go.
fn disks() -> Vec<Disk> {
    let here = std::env::current_dir().ok().map(|folder| ("downloads to this folder", folder));
    let temporary = Some(("temporary files", std::env::temp_dir()));
    let disk = |(purpose, folder): (&'static str, PathBuf)| {
        let stat = rustix::fs::statvfs(&folder).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Some(Disk { purpose, folder, free, total: stat.f_blocks.saturating_mul(stat.f_frsize) })
    };
    here.into_iter().chain(temporary).filter_map(disk).collect()
}

/// The graphics cards that drivers show below `root`; no driver library is loaded for this.
fn gpus(root: &Path) -> Vec<String> {
    if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        return vec!["the processor's own (Apple)".to_owned()];
    }
    let mut found: Vec<String> =
        entries(&root.join("proc/driver/nvidia/gpus")).iter().filter_map(|gpu| nvidia_name(gpu)).collect();
    let has_nvidia_names = !found.is_empty();
    for card in entries(&root.join("sys/class/drm")) {
        // card0 is a device, card0-HDMI-A-1 one of its sockets.
        let name = card.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_card = name.strip_prefix("card").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let vendor = fs::read_to_string(card.join("device/vendor")).unwrap_or_default();
        let maker = match vendor.trim() {
            "0x10de" if has_nvidia_names => continue,
            "0x10de" => "NVIDIA",
            "0x1002" => "AMD",
            "0x8086" => "Intel",
            _ => continue,
        };
        if is_card {
            found.push(format!("{maker} ({name})"));
        }
    }
    // In a container the card may be there without the files that describe it.
    if found.is_empty() && root.join("dev/nvidia0").exists() {
        found.push("NVIDIA".to_owned());
    }
    found
}

/// `Model:` of a file that NVIDIA's driver keeps for each card.
fn nvidia_name(gpu: &Path) -> Option<String> {
    let information = fs::read_to_string(gpu.join("information")).ok()?;
    let model = information.lines().find_map(|line| line.strip_prefix("Model:"))?;
    Some(model.trim().to_owned())
}

/// What is in a folder, in order of name; nothing if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[cfg(not(all(target_os = "macos", target_arch = "aarch64")))]
    #[test]
    fn cards_are_named_as_their_drivers_name_them() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(gpus(root.path()), [""; 0]);
        put(root.path(), "sys/class/drm/card0/device/vendor", "0x1002\n");
        put(root.path(), "sys/class/drm/card0-DP-1/device/vendor", "0x1002\n");
        put(root.path(), "sys/class/drm/card1/device/vendor", "0x10de\n");
        assert_eq!(gpus(root.path()), ["AMD (card0)", "NVIDIA (card1)"]);
        let information = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 1\n";
        put(root.path(), "proc/driver/nvidia/gpus/0000:01:00.0/information", information);
        assert_eq!(gpus(root.path()), ["NVIDIA H100 80GB HBM3", "AMD (card0)"]);
    }
}
