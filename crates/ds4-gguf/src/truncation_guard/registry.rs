//! The live mappings, readable from a signal handler: a list of atomics without locks.
//!
//! Slots are allocated once and reused, never freed, so a handler that walks the list while
//! another thread opens or closes a file reads stale numbers at worst, never freed memory.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Longest file name that is kept, in bytes; of a longer one the end is kept.
pub(super) const NAME_BYTES: usize = 256;

static HEAD: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

/// One mapping. `start` is 0 while the other fields change, and while the slot is free.
struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    fd: AtomicI32,
    name_len: AtomicUsize,
    name: [AtomicU8; NAME_BYTES],
    /// Written before the slot is published, constant afterwards.
    next: AtomicPtr<Slot>,
}

/// What the registry knows about the mapping that contains an address.
pub(super) struct Found {
    /// Distance of the address from the mapping's beginning, which is the byte of the file.
    pub offset: usize,
    /// Length of the mapping, which is the file's length when it was opened.
    pub len: usize,
    /// The open file.
    pub fd: i32,
    /// Its name.
    pub name: [u8; NAME_BYTES],
    /// Bytes of `name` that are in use.
    pub name_len: usize,
}

/// Keeps a mapping known until it is dropped.
pub(crate) struct Registration {
    slot: &'static Slot,
}

impl Registration {
    /// `map` are the mapped bytes of `file`, which must stay open and mapped until the registration
    /// is dropped.
    pub fn new(map: &[u8], file: &File, name: &str) -> Registration {
        let slot = take_slot();
        let bytes = name.as_bytes();
        let kept = &bytes[bytes.len().saturating_sub(NAME_BYTES)..];
        for (to, &from) in slot.name.iter().zip(kept) {
            to.store(from, Relaxed);
        }
        slot.name_len.store(kept.len(), Relaxed);
        slot.fd.store(file.as_raw_fd(), Relaxed);
        slot.len.store(map.len(), Relaxed);
        slot.start.store(map.as_ptr().addr(), Release);
        Registration { slot }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.slot.start.store(0, Release);
        self.slot.taken.store(false, Release);
    }
}

/// A free slot of the list, or a new one.
fn take_slot() -> &'static Slot {
    for slot in slots() {
        let free = slot.taken.compare_exchange(false, true, Acquire, Relaxed);
        if free.is_ok() {
            return slot;
        }
    }
    let slot: &'static Slot = Box::leak(Box::new(Slot {
        taken: AtomicBool::new(true),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        fd: AtomicI32::new(-1),
        name_len: AtomicUsize::new(0),
        name: [const { AtomicU8::new(0) }; NAME_BYTES],
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let mut head = HEAD.load(Relaxed);
    loop {
        slot.next.store(head, Relaxed);
        let new = ptr::from_ref(slot).cast_mut();
        match HEAD.compare_exchange_weak(head, new, Release, Relaxed) {
            Ok(_) => return slot,
            Err(now) => head = now,
        }
    }
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    let mut next = HEAD.load(Acquire);
    std::iter::from_fn(move || {
        // SAFETY: the pointer is null or was made by `Box::leak` in `take_slot`, is never freed and
        // never written through; the acquire load sees the slot's fields initialized.
        let slot = unsafe { next.as_ref() }?;
        next = slot.next.load(Acquire);
        Some(slot)
    })
}

/// The mapping that contains `address`. Neither allocates nor locks: callable in a signal handler.
///
/// The faulting thread holds the mapping it reads, so the slot that matters here is not changing;
/// slots that do change are recognized by their `start` and skipped.
pub(super) fn find(address: usize) -> Option<Found> {
    for slot in slots() {
        let start = slot.start.load(Acquire);
        let len = slot.len.load(Relaxed);
        if start == 0 || address < start || address - start >= len {
            continue;
        }
        let mut found = Found {
            offset: address - start,
            len,
            fd: slot.fd.load(Relaxed),
            name: [0; NAME_BYTES],
            name_len: slot.name_len.load(Relaxed).min(NAME_BYTES),
        };
        for (to, from) in found.name.iter_mut().zip(&slot.name) {
            *to = from.load(Relaxed);
        }
        if slot.start.load(Acquire) == start {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_mapping_while_it_lives() {
        let bytes = vec![0u8; 100];
        let file = tempfile::tempfile().unwrap();
        let first = bytes.as_ptr().addr();
        let registration = Registration::new(&bytes, &file, "some.gguf");
        let found = find(first + 99).unwrap();
        assert_eq!((found.offset, found.len), (99, 100));
        assert_eq!(&found.name[..found.name_len], b"some.gguf");
        assert_eq!(found.fd, file.as_raw_fd());
        assert!(find(first + 100).is_none());
        drop(registration);
        assert!(find(first + 99).is_none());
    }

    #[test]
    fn keeps_the_end_of_a_long_name() {
        let bytes = vec![0u8; 1];
        let file = tempfile::tempfile().unwrap();
        let name = "d/".repeat(300) + "model.gguf";
        let _registration = Registration::new(&bytes, &file, &name);
        let found = find(bytes.as_ptr().addr()).unwrap();
        assert_eq!(found.name_len, NAME_BYTES);
        assert!(found.name.ends_with(b"/model.gguf"));
    }

    #[test]
    fn survives_threads_that_open_and_close_at_once() {
        let file = tempfile::tempfile().unwrap();
        std::thread::scope(|scope| {
            for i in 0..4u8 {
                let file = &file;
                scope.spawn(move || {
                    for round in 0..500usize {
                        let bytes = vec![0u8; 64 + round];
                        let name = format!("{i}.gguf");
                        let _registration = Registration::new(&bytes, file, &name);
                        let found = find(bytes.as_ptr().addr() + 63).unwrap();
                        assert_eq!((found.offset, found.len), (63, bytes.len()));
                        assert_eq!(&found.name[..found.name_len], name.as_bytes());
                    }
                });
            }
        });
    }
}
