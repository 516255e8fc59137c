//! Asking for memory before it is needed.

/// Asks for the cache lines of `len` bytes from `at` to be fetched into the L1 cache. They need not exist.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch_near(at: *const u8, len: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in 0..len.div_ceil(64) {
        // SAFETY: a hint about an address, which is not read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64 * line).cast()) };
    }
}

/// Asks for the cache lines of `len` bytes from `at` to be fetched into the L2 cache. They need not exist.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..len.div_ceil(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint about an address, which is not read.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(64 * line).cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    for line in 0..len.div_ceil(64) {
        let at = at.wrapping_add(64 * line);
        // SAFETY: a hint about an address, which is not read.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (at, len);
}
