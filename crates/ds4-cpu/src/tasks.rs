//! Handing out the tasks of an operation.
//!
//! On a machine whose memory is divided among nodes, each node's threads have tasks of their own, a contiguous part of all,
//! and help the others only when these are done. An operation is cut alike every time, so that a part of a matrix, or of a
//! buffer, is nearly always read and written by threads of the same node: the one in whose memory the system put it when it
//! was first touched.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// The tasks of one operation, by node.
pub(crate) struct Tasks {
    parts: Vec<Part>,
}

/// Tasks `next..end`. A cache line of its own each: threads of different nodes have nothing to do with each other's.
#[repr(align(128))]
#[derive(Default)]
struct Part {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Tasks {
    /// None yet, for `nodes` nodes, at least one.
    pub fn new(nodes: usize) -> Tasks {
        Tasks { parts: (0..nodes.max(1)).map(|_| Part::default()).collect() }
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.parts.len()
    }

    /// Offers tasks `0..n`. No thread is taking any meanwhile.
    pub fn offer(&self, n: usize) {
        let nodes = self.nodes();
        for (i, part) in self.parts.iter().enumerate() {
            part.next.store(i * n / nodes, SeqCst);
            part.end.store((i + 1) * n / nodes, SeqCst);
        }
    }

    /// The next task for a thread of node `node`, in increasing order within each part.
    pub fn take(&self, node: usize) -> Option<usize> {
        let nodes = self.nodes();
        (0..nodes).find_map(|i| {
            let part = &self.parts[(node + i) % nodes];
            let end = part.end.load(SeqCst);
            // A part that is done is only looked at, so that its number does not run away.
            if part.next.load(SeqCst) >= end {
                return None;
            }
            Some(part.next.fetch_add(1, SeqCst)).filter(|&task| task < end)
        })
    }

    /// Takes back what nobody has begun.
    pub fn withdraw(&self) {
        self.parts.iter().for_each(|part| part.next.store(part.end.load(SeqCst), SeqCst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_by(tasks: &Tasks, node: usize) -> Vec<usize> {
        std::iter::from_fn(|| tasks.take(node)).collect()
    }

    #[test]
    fn a_node_takes_its_own_tasks_first_and_then_those_of_others() {
        let tasks = Tasks::new(3);
        tasks.offer(7);
        assert_eq!(tasks.take(1), Some(2));
        assert_eq!(taken_by(&tasks, 2), [4, 5, 6, 0, 1, 3]);
        assert_eq!(tasks.take(0), None);
        // Fewer tasks than nodes; and none of the numbers of before is left.
        tasks.offer(2);
        assert_eq!(taken_by(&tasks, 0), [0, 1]);
        tasks.offer(0);
        assert_eq!(taken_by(&tasks, 1), [0; 0]);
    }

    #[test]
    fn one_node_takes_them_in_order() {
        let tasks = Tasks::new(1);
        tasks.offer(5);
        assert_eq!(taken_by(&tasks, 0), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn withdrawn_tasks_are_not_taken() {
        let tasks = Tasks::new(2);
        tasks.offer(10);
        assert_eq!(tasks.take(0), Some(0));
        tasks.withdraw();
        assert_eq!((tasks.take(0), tasks.take(1)), (None, None));
    }

    #[test]
    fn threads_of_all_nodes_together_take_every_task_once() {
        let tasks = Tasks::new(2);
        tasks.offer(10_000);
        let seen: Vec<AtomicUsize> = (0..10_000).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (tasks, seen) = (&tasks, &seen);
                scope.spawn(move || {
                    while let Some(task) = tasks.take(thread % 2) {
                        seen[task].fetch_add(1, SeqCst);
                    }
                });
            }
        });
        assert!(seen.iter().all(|seen| seen.load(SeqCst) == 1));
    }
}
