//! The processors that this process may use, and binding threads to them.

/// Processors, as far as this process may use them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Their numbers: one of each core first, then those that share a core with one of these. Empty where the system does not
    /// tell.
    pub processors: Vec<usize>,
    /// The number of cores.
    pub cores: usize,
}

/// What this process may use.
pub fn allowed() -> Allowed {
    let count = || std::thread::available_parallelism().map_or(1, usize::from);
    #[cfg(target_os = "linux")]
    if let Some(numbers) = linux::affinity() {
        return by_core(&numbers, |processor| linux::siblings(processor).unwrap_or_else(|| processor.to_string()));
    }
    Allowed { processors: Vec::new(), cores: count() }
}

/// Threads that computing takes if nobody says otherwise: one per core, and no more than a container's share of time has.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(allowed().cores)
}

/// For each of these processors the node whose memory is nearest to it, numbered from 0 in the order in which they occur: all
/// 0 where the system knows of none.
pub fn nodes(processors: &[usize]) -> Vec<usize> {
    #[cfg(target_os = "linux")]
    let node = |&processor: &usize| linux::node(processor);
    #[cfg(not(target_os = "linux"))]
    let node = |_: &usize| None;
    numbered(processors.iter().map(node))
}

/// Numbers distinct values from 0 in the order in which they occur.
fn numbered(values: impl Iterator<Item = Option<usize>>) -> Vec<usize> {
    let mut known = Vec::new();
    let number = |value| {
        known.iter().position(|&k| k == value).unwrap_or_else(|| {
            known.push(value);
            known.len() - 1
        })
    };
    values.map(number).collect()
}

/// Sorts processors; those of one core have the same `core`.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))] // Elsewhere only tested.
fn by_core(numbers: &[usize], core: impl Fn(usize) -> String) -> Allowed {
    let mut seen = std::collections::HashSet::new();
    let (mut processors, others): (Vec<usize>, Vec<usize>) =
        numbers.iter().partition(|&&processor| seen.insert(core(processor)));
    let cores = processors.len();
    processors.extend(others);
    Allowed { processors, cores }
}

/// Binds the current thread to a processor, if the system can and will.
pub fn bind_current_thread(processor: usize) {
    #[cfg(target_os = "linux")]
    linux::bind(processor);
    #[cfg(not(target_os = "linux"))]
    let _ = processor;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::{size_of, zeroed};

    /// The processors in the calling thread's mask, ascending.
    pub fn affinity() -> Option<Vec<usize>> {
        // SAFETY: `cpu_set_t` is a plain bit array, for which zero bytes are valid; the call gets its true size and asks
        // about the calling thread (pid 0).
        let mask = unsafe {
            let mut mask: libc::cpu_set_t = zeroed();
            (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut mask) == 0).then_some(mask)?
        };
        // SAFETY: the numbers are below the size of the set.
        let numbers = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &mask) }).collect();
        Some(numbers)
    }

    /// The processors of a processor's core, as the kernel writes them.
    pub fn siblings(processor: usize) -> Option<String> {
        let topology = format!("/sys/devices/system/cpu/cpu{processor}/topology");
        ["core_cpus_list", "thread_siblings_list"]
            .iter()
            .find_map(|file| std::fs::read_to_string(format!("{topology}/{file}")).ok())
    }

    /// The number of a processor's node.
    pub fn node(processor: usize) -> Option<usize> {
        let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{processor}")).ok()?;
        entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
    }

    /// Binds the calling thread.
    pub fn bind(processor: usize) {
        if processor >= libc::CPU_SETSIZE as usize {
            return;
        }
        // SAFETY: as in `affinity`; the number is below the size of the set. A refusal leaves the thread where it is.
        unsafe {
            let mut one: libc::cpu_set_t = zeroed();
            libc::CPU_SET(processor, &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_come_before_the_second_threads_of_cores() {
        // Two cores of two threads each, numbered core by core; the process may not use the first.
        let allowed = by_core(&[1, 2, 3], |processor| (processor / 2).to_string());
        assert_eq!(allowed, Allowed { processors: vec![1, 2, 3], cores: 2 });
        let allowed = by_core(&[0, 1, 2, 3], |processor| (processor / 2).to_string());
        assert_eq!(allowed, Allowed { processors: vec![0, 2, 1, 3], cores: 2 });
    }

    #[test]
    fn nodes_are_numbered_as_they_occur() {
        assert_eq!(numbered([Some(4), Some(2), Some(4), None].into_iter()), [0, 1, 0, 2]);
        let processors = allowed().processors;
        let nodes = nodes(&processors);
        assert_eq!(nodes.len(), processors.len());
        assert!(nodes.first().is_none_or(|&node| node == 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_bound_thread_stays_on_its_processor() {
        let last = *allowed().processors.last().expect("a processor");
        let bound = std::thread::spawn(move || {
            bind_current_thread(last);
            linux::affinity()
        });
        assert_eq!(bound.join().expect("the thread"), Some(vec![last]));
        assert!(default_threads() >= 1 && default_threads() <= allowed().processors.len());
    }
}
