//! Numbers of slots and pages: handed out, and free again when the last holder is gone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Free numbers. The lowest is taken first.
#[derive(Debug, Default)]
struct Free {
    numbers: BTreeSet<u32>,
    next: u32,
}

/// A supply of numbers from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<Mutex<Free>>);

/// A number that is taken as long as this lives.
#[derive(Debug)]
pub(crate) struct Taken {
    pub number: u32,
    pool: Pool,
}

impl Pool {
    /// Takes a number.
    pub fn take(&self) -> Arc<Taken> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = free.numbers.pop_first().unwrap_or_else(|| {
            free.next += 1;
            free.next - 1
        });
        Arc::new(Taken { number, pool: self.clone() })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).numbers.insert(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_return_when_their_last_holder_is_gone() {
        let pool = Pool::default();
        let (a, b) = (pool.take(), pool.take());
        assert_eq!((a.number, b.number), (0, 1));
        let again = Arc::clone(&a);
        drop(a);
        assert_eq!(pool.take().number, 2, "a is still held");
        drop(again);
        assert_eq!(pool.take().number, 0);
    }
}
