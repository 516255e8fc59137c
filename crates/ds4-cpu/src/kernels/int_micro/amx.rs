//! AMX: a tile register holds the sums of sixteen activation rows with sixteen weight rows. Scales belong to groups of 32
//! inputs, half of what one instruction could add up, so each group's sums leave the tile registers at once and are scaled
//! and added with AVX-512, whose registers hold the results of one tile of weights and sixteen rows. The way there leads
//! through memory, which costs what the products gain: see docs/cpu-performance.md.
//!
//! Rust has these instructions in unstable form only, hence the assembly.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::super::panel::{Block, QUADS, WORDS};
use super::super::tile::{GROUP_CODES, ROWS, Tile};
use super::Sums;
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Activation rows of a block; those beyond the last count for nothing.
pub(super) const MOST_ROWS: usize = 16;
/// Fewer rows are done sooner without.
pub(super) const LEAST_ROWS: usize = 4;
/// Groups whose sums are computed together.
const AT_ONCE: usize = 2;
/// Bytes from one group of a block of activations to the next.
const GROUP_BYTES: usize = WORDS * MOST_ROWS * 4;

/// Sums of some groups, `[activation row][weight row]` each.
#[repr(C, align(64))]
struct Results([[[i32; ROWS]; MOST_ROWS]; AT_ONCE]);

/// Sizes of the tile registers.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Registers 0 and 1 take sums, 2 and 4 activations (a row each), 3 and 5 weights (a quad each).
static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 32, 64, 32, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, QUADS as u8, 16, QUADS as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The tile registers of this thread, in use while it lives.
pub(super) struct Registers(PhantomData<*const ()>);

impl Registers {
    /// Takes them.
    ///
    /// # Safety
    /// The processor has AMX, and the operating system lets this process use it.
    pub unsafe fn take() -> Registers {
        // SAFETY: the caller's promise; the configuration is one of palette 1. The compiler uses none of these registers.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly, preserves_flags)) };
        Registers(PhantomData)
    }

    /// See [`super::Loop::multiply`]; the tiles' codes are signed, and blocks of rows have [`MOST_ROWS`] places.
    ///
    /// # Safety
    /// The lengths are those that `multiply` checks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub unsafe fn multiply(&self, tiles: &[Tile], x: Block<'_>, acc: &mut [Sums]) {
        for (t, tile) in tiles.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                match (acc.len().div_ceil(4), tile.minima().is_some()) {
                    (1, false) => self.groups::<4, false>(tile, t, x, acc),
                    (2, false) => self.groups::<8, false>(tile, t, x, acc),
                    (3, false) => self.groups::<12, false>(tile, t, x, acc),
                    (_, false) => self.groups::<16, false>(tile, t, x, acc),
                    (1, true) => self.groups::<4, true>(tile, t, x, acc),
                    (2, true) => self.groups::<8, true>(tile, t, x, acc),
                    (3, true) => self.groups::<12, true>(tile, t, x, acc),
                    (_, true) => self.groups::<16, true>(tile, t, x, acc),
                }
            }
        }
    }

    /// The same with one tile and at most `N` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn groups<const N: usize, const MINIMA: bool>(&self, tile: &Tile, t: usize, x: Block<'_>, acc: &mut [Sums]) {
        assert!(acc.len() <= N && N <= MOST_ROWS && x.rows == MOST_ROWS);
        let mut results = Results([[[0; ROWS]; MOST_ROWS]; AT_ONCE]);
        let mut total = [_mm512_setzero_ps(); N];
        for (r, acc) in acc.iter().enumerate() {
            // SAFETY: sixteen floats; the load needs no alignment.
            total[r] = unsafe { _mm512_loadu_ps(acc[t].as_ptr()) };
        }
        let n_groups = tile.codes().len();
        let (codes, scales) = (tile.codes().as_ptr().cast::<u8>(), tile.scales().as_ptr().cast::<f32>());
        let (factors, min_scales) = match tile.minima() {
            Some(minima) => (minima.factors.as_ptr().cast::<i32>(), minima.scales.as_ptr().cast::<f32>()),
            None => (std::ptr::null(), std::ptr::null()),
        };
        for first in (0..n_groups).step_by(AT_ONCE) {
            let groups = AT_ONCE.min(n_groups - first);
            // SAFETY: groups `first` to `first + groups` of every array: the block has `WORDS` words for each of its places, a
            // tile `GROUP_CODES` codes and sixteen of each scale (and of each factor pair where MINIMA); `multiply` checked.
            unsafe {
                let words = x.words.as_ptr().add(first * WORDS * MOST_ROWS);
                self.sums(groups, words, codes.add(first * GROUP_CODES), &mut results);
                for k in 0..groups {
                    let (words, g) = (words.add(k * WORDS * MOST_ROWS), first + k);
                    let d = |r: usize| _mm512_set1_ps(*words.add(QUADS * MOST_ROWS + r).cast());
                    let scale = _mm512_load_ps(scales.add(g * ROWS));
                    for r in 0..N {
                        let sum = _mm512_cvtepi32_ps(_mm512_load_si512(results.0[k][r].as_ptr().cast()));
                        total[r] = _mm512_fmadd_ps(sum, _mm512_mul_ps(scale, d(r)), total[r]);
                    }
                    if MINIMA {
                        let factor = _mm512_load_si512(factors.add(g * ROWS).cast());
                        let scale = _mm512_load_ps(min_scales.add(g * ROWS));
                        for r in 0..N {
                            let pair = _mm512_set1_epi32(*words.add((QUADS + 2) * MOST_ROWS + r));
                            let sum = _mm512_cvtepi32_ps(_mm512_madd_epi16(factor, pair));
                            total[r] = _mm512_fnmadd_ps(sum, _mm512_mul_ps(scale, d(r)), total[r]);
                        }
                    }
                }
            }
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: as for the load.
            unsafe { _mm512_storeu_ps(acc[t].as_mut_ptr(), total[r]) };
        }
    }

    /// Sums of one group or two.
    ///
    /// # Safety
    /// `words` and `codes` have as many.
    #[inline(always)]
    unsafe fn sums(&self, groups: usize, words: *const i32, codes: *const u8, results: &mut Results) {
        // SAFETY: `Registers` exists, so the registers are configured; the memory read is the caller's promise, and what is
        // written are one or two of the results. The compiler uses none of the tile registers.
        unsafe {
            if groups == AT_ONCE {
                asm!(
                    "tilezero tmm0",
                    "tileloadd tmm2, [{x} + {x_row}*1]",
                    "tileloadd tmm3, [{w} + {line}*1]",
                    "tdpbssd tmm0, tmm2, tmm3",
                    "tilezero tmm1",
                    "tileloadd tmm4, [{x} + {x_row}*1 + {next_x}]",
                    "tileloadd tmm5, [{w} + {line}*1 + {next_w}]",
                    "tdpbssd tmm1, tmm4, tmm5",
                    "tilestored [{sums} + {line}*1], tmm0",
                    "tilestored [{sums} + {line}*1 + {next_sums}], tmm1",
                    x = in(reg) words, w = in(reg) codes, sums = in(reg) results,
                    x_row = in(reg) QUADS * 4, line = in(reg) 64usize,
                    next_x = const GROUP_BYTES, next_w = const GROUP_CODES, next_sums = const ROWS * MOST_ROWS * 4,
                    options(nostack, preserves_flags)
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tileloadd tmm2, [{x} + {x_row}*1]",
                    "tileloadd tmm3, [{w} + {line}*1]",
                    "tdpbssd tmm0, tmm2, tmm3",
                    "tilestored [{sums} + {line}*1], tmm0",
                    x = in(reg) words, w = in(reg) codes, sums = in(reg) results,
                    x_row = in(reg) QUADS * 4, line = in(reg) 64usize,
                    options(nostack, preserves_flags)
                );
            }
        }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: `Registers` exists, so the processor has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Whether the processor has the instructions and the operating system lets this process use them, for which it is asked.
pub(in super::super) fn is_offered() -> bool {
    static OFFERED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *OFFERED.get_or_init(|| has_instructions() && permitted())
}

/// What the processor says.
fn has_instructions() -> bool {
    /// Bits of CPUID leaf 7: tiles, and products of bytes.
    const TILES: u32 = 1 << 24;
    const BYTES: u32 = 1 << 25;
    /// The operating system saves extended state (bit of leaf 1).
    const OSXSAVE: u32 = 1 << 27;
    /// Parts of that state: configuration and contents of tile registers.
    const STATE: u64 = 3 << 17;
    #[target_feature(enable = "xsave")]
    unsafe fn saved() -> u64 {
        // SAFETY: the caller knows that the instruction is there.
        unsafe { _xgetbv(0) }
    }
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    // SAFETY: OSXSAVE is set.
    features & TILES != 0 && features & BYTES != 0 && unsafe { saved() } & STATE == STATE
}

/// Asks the operating system for the registers: their state is large, and a process gets it on request only.
fn permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and changes what this process may execute, nothing else.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}
