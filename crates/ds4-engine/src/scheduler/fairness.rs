//! Which of the waiting requests is next.
//!
//! A higher priority goes first. Of the same priority, the session that was served least: each session has a counter of the rows
//! that were computed for it, divided by its weight, and a session that was idle does not come back with an advantage. Requests without a session
//! count as new ones. Nobody is passed over for long: what has waited for [`PATIENCE`] goes by the time it came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::job::Job;

/// How long a request may be passed over.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a sampled token counts, in tokens of prompts: it has a pass over the weights almost for itself.
const DECODED: f64 = 4.0;
/// Sessions that are remembered while they are idle.
const REMEMBERED: usize = 1024;

/// What each session was served.
#[derive(Default)]
pub(super) struct Fairness {
    served: HashMap<Arc<str>, f64>,
}

impl Fairness {
    /// Rows were computed for a session of this weight.
    pub(super) fn serve(&mut self, session: Option<&Arc<str>>, weight: f64, prefill: usize, decoded: usize) {
        if let Some(session) = session {
            let rows = prefill as f64 + DECODED * decoded as f64;
            *self.served.entry(Arc::clone(session)).or_insert(0.0) += rows / weight;
        }
    }

    /// A session has a request again. It begins where the least served of the others is.
    pub(super) fn arrive<'a>(
        &mut self,
        session: Option<&Arc<str>>,
        active: impl Iterator<Item = Option<&'a Arc<str>>> + Clone,
    ) {
        let Some(session) = session else { return };
        if active.clone().any(|other| other == Some(session)) {
            return;
        }
        let floor = self.floor(active.clone());
        let served = self.served.entry(Arc::clone(session)).or_insert(0.0);
        *served = served.max(floor);
        if self.served.len() > REMEMBERED {
            let active: Vec<&Arc<str>> = active.flatten().collect();
            self.served.retain(|other, _| other == session || active.contains(&other));
        }
    }

    fn floor<'a>(&self, active: impl Iterator<Item = Option<&'a Arc<str>>>) -> f64 {
        let least = active.flatten().filter_map(|session| self.served.get(session)).copied().reduce(f64::min);
        least.unwrap_or(0.0)
    }

    /// The number of the next of `waiting`, which are in the order in which they came, that `fits`. One that was passed over for
    /// too long lets nobody past it. `running`: the sessions that are served now.
    pub(super) fn next(
        &self,
        waiting: &[Job],
        running: &[Option<Arc<str>>],
        now: Instant,
        mut fits: impl FnMut(&Job) -> bool,
    ) -> Option<usize> {
        let floor = self.floor(running.iter().map(Option::as_ref));
        let mut order: Vec<usize> = (0..waiting.len()).collect();
        let is_late = |job: &Job| job.waited(now) >= PATIENCE;
        order.sort_by(|&a, &b| {
            let (left, right) = (&waiting[a], &waiting[b]);
            let places = |job: &Job| {
                job.session().map_or(0, |session| running.iter().flatten().filter(|other| *other == session).count())
            };
            let served =
                |job: &Job| job.session().and_then(|session| self.served.get(session)).copied().unwrap_or(floor);
            right.priority().cmp(&left.priority()).then_with(|| is_late(right).cmp(&is_late(left))).then_with(|| {
                match is_late(left) {
                    true => a.cmp(&b),
                    false => {
                        places(left).cmp(&places(right)).then(served(left).total_cmp(&served(right))).then(a.cmp(&b))
                    }
                }
            })
        });
        for index in order {
            if fits(&waiting[index]) {
                return Some(index);
            }
            if is_late(&waiting[index]) {
                return None;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_twice_the_weight_gets_twice_as_much_for_the_same() {
        let (heavy, usual): (Arc<str>, Arc<str>) = ("heavy".into(), "usual".into());
        let mut fairness = Fairness::default();
        fairness.serve(Some(&heavy), 2.0, 100, 10);
        fairness.serve(Some(&usual), 1.0, 50, 5);
        assert_eq!(fairness.served[&heavy], fairness.served[&usual]);
        fairness.serve(None, 1.0, 1000, 0);
        assert_eq!(fairness.served.len(), 2, "requests without a session are on nobody's account");
    }
}
