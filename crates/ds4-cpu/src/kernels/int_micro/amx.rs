//! AMX: a tile register holds the sums of sixteen activation rows with sixteen weight rows. Scales belong to groups of 32
//! inputs, half of what one instruction could add up, so each group's sums leave the tile registers at once and are scaled
//! and added with AVX-512, whose registers hold the results of one tile of weights and sixteen rows. The way there leads
//! through memory.
//!
//! What one processor of this kind was seen to do with that, and what follows:
//!
//! - An instruction that stores sums soon after the product that makes them waits, and those behind it with it: four
//!   registers take turns, and each is stored three products later.
//! - While any instruction on tiles is under way or was a hundred cycles ago, 512-bit multiplications, conversions and
//!   dot products execute at half their rate, on one of two ports; integer and floating-point additions still use both. So
//!   most sums become floats by two additions. Formats with minima have too many multiplications for this to be worth it.
//!
//! Rust has these instructions in unstable form only, hence the assembly.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::super::panel::{Block, QUADS, WORDS};
use super::super::tile::{GROUP_CODES, ROWS, Tile};
use super::Sums;
use ds4_gguf::TensorType;
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Activation rows of a block; those beyond the last count for nothing.
pub(super) const MOST_ROWS: usize = 16;
/// Tile registers for sums, which take turns.
const TURNS: usize = 4;
/// Products between that of a group and the store of its sums.
const LAG: usize = 3;

/// Sums of a group, `[activation row][weight row]`.
type Group = [[i32; ROWS]; MOST_ROWS];

/// Sums of some groups, each in the place of its turn.
#[repr(C, align(64))]
struct Results([Group; TURNS]);

/// The number of activation rows from which on weights of a type are done sooner so, if any: decoding takes the same time with and
/// without, and the fewer rows share it, the less there is to gain.
pub(super) fn least_rows(ty: TensorType) -> Option<usize> {
    match ty {
        TensorType::IQ2_XXS => Some(8),
        TensorType::MXFP4 => Some(12),
        TensorType::Q8_0 => Some(24),
        _ => None,
    }
}

/// Sizes of the tile registers.
#[repr(C, align(64))]
pub(in crate::kernels) struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Rows and bytes of a row of the registers 0 to 3, which take sums, of 4 and 6 (left operands) and of 5 and 7 (right ones).
    pub(in crate::kernels) const fn new(sums: (u8, u16), left: (u8, u16), right: (u8, u16)) -> Config {
        let (s, l, r) = (sums.1, left.1, right.1);
        let row_bytes = [s, s, s, s, l, r, l, r, 0, 0, 0, 0, 0, 0, 0, 0];
        let (s, l, r) = (sums.0, left.0, right.0);
        let rows = [s, s, s, s, l, r, l, r, 0, 0, 0, 0, 0, 0, 0, 0];
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }

    /// For `rows` activation rows, left, and a quad of sixteen weight rows per row, right.
    const fn of_rows(rows: u8) -> Config {
        Config::new((rows, 64), (rows, 32), (QUADS as u8, 64))
    }
}

/// The tile registers of this thread, in use while it lives.
pub(super) struct Registers {
    /// Activation rows that they hold.
    rows: usize,
    of_this_thread: PhantomData<*const ()>,
}

/// The steps of a function's number of rows.
const STEP: usize = 2;

impl Registers {
    /// Takes them, for blocks of at most `rows` activation rows and at most [`MOST_ROWS`].
    ///
    /// # Safety
    /// The processor has AMX, and the operating system lets this process use it.
    pub unsafe fn take(rows: usize) -> Registers {
        let rows = rows.clamp(1, MOST_ROWS).next_multiple_of(STEP);
        let config = Config::of_rows(rows as u8);
        // SAFETY: the caller's promise; the configuration is one of palette 1. The compiler uses none of these registers.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly, preserves_flags)) };
        Registers { rows, of_this_thread: PhantomData }
    }

    /// See [`super::Loop::multiply`]; the tiles' codes are signed and have no minima, and blocks of rows have [`MOST_ROWS`] places.
    ///
    /// # Safety
    /// The lengths are those that `multiply` checks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub unsafe fn multiply(&self, tiles: &[Tile], x: Block<'_>, acc: &mut [Sums]) {
        assert!(acc.len() <= self.rows && x.rows == MOST_ROWS);
        for (t, tile) in tiles.iter().enumerate() {
            assert!(tile.minima().is_none());
            // SAFETY: the caller's promise.
            unsafe {
                match acc.len().div_ceil(STEP) {
                    1 => self.with_rows::<2>(tile, t, x, acc),
                    2 => self.with_rows::<4>(tile, t, x, acc),
                    3 => self.with_rows::<6>(tile, t, x, acc),
                    4 => self.with_rows::<8>(tile, t, x, acc),
                    5 => self.with_rows::<10>(tile, t, x, acc),
                    6 => self.with_rows::<12>(tile, t, x, acc),
                    7 => self.with_rows::<14>(tile, t, x, acc),
                    _ => self.with_rows::<16>(tile, t, x, acc),
                }
            }
        }
    }

    /// The same with one tile and at most `N` rows: groups are multiplied while others are scaled.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn with_rows<const N: usize>(&self, tile: &Tile, t: usize, x: Block<'_>, acc: &mut [Sums]) {
        assert!(acc.len() <= N && N <= MOST_ROWS);
        let mut total = [_mm512_setzero_ps(); N];
        for (r, acc) in acc.iter().enumerate() {
            // SAFETY: sixteen floats; the load needs no alignment.
            total[r] = unsafe { _mm512_loadu_ps(acc[t].as_ptr()) };
        }
        let n_groups = tile.codes().len();
        let operands = Operands::new(tile, x);
        let mut results = MaybeUninit::<Results>::uninit();
        let results = results.as_mut_ptr().cast::<Group>();
        // SAFETY: all of these groups exist, and the results have a place for each turn.
        unsafe {
            let begin = |g: usize| self.begin(g % TURNS, operands.activations(g), operands.codes(g));
            let sums = |g: usize| results.add(g % TURNS);
            let ahead = LAG.min(n_groups);
            for g in 0..ahead {
                begin(g);
            }
            for g in ahead..n_groups {
                let done = g - LAG;
                self.store(done % TURNS, sums(done));
                begin(g);
                total = operands.add(done, sums(done), total);
            }
            for done in n_groups - ahead..n_groups {
                self.store(done % TURNS, sums(done));
                total = operands.add(done, sums(done), total);
            }
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: as for the load.
            unsafe { _mm512_storeu_ps(acc[t].as_mut_ptr(), total[r]) };
        }
    }

    /// Begins the sums of a group in the registers of `turn`.
    ///
    /// # Safety
    /// There are [`MOST_ROWS`] times [`QUADS`] words of activations, and the codes of a group.
    #[inline(always)]
    unsafe fn begin(&self, turn: usize, activations: *const i32, codes: *const u8) {
        // SAFETY: `Registers` exists, so the registers are configured; the memory read is the caller's promise. The compiler uses
        // none of the tile registers.
        macro_rules! multiply {
            ($sums:literal, $x:literal, $w:literal) => {
                asm!(
                    concat!("tilezero tmm", $sums),
                    concat!("tileloadd tmm", $x, ", [{x} + {x_row}*1]"),
                    concat!("tileloadd tmm", $w, ", [{w} + {line}*1]"),
                    concat!("tdpbssd tmm", $sums, ", tmm", $x, ", tmm", $w),
                    x = in(reg) activations, w = in(reg) codes,
                    x_row = in(reg) QUADS * 4, line = in(reg) 64usize,
                    options(nostack, readonly, preserves_flags)
                )
            };
        }
        // SAFETY: as above.
        unsafe {
            match turn {
                0 => multiply!(0, 4, 5),
                1 => multiply!(1, 6, 7),
                2 => multiply!(2, 4, 5),
                _ => multiply!(3, 6, 7),
            }
        }
    }

    /// Writes the sums of `turn`; those of rows that the registers do not hold stay what they were.
    ///
    /// # Safety
    /// `to` is memory for them.
    #[inline(always)]
    unsafe fn store(&self, turn: usize, to: *mut Group) {
        macro_rules! store {
            ($sums:literal) => {
                asm!(
                    concat!("tilestored [{to} + {line}*1], tmm", $sums),
                    to = in(reg) to, line = in(reg) 64usize,
                    options(nostack, preserves_flags)
                )
            };
        }
        // SAFETY: `Registers` exists, so the registers are configured; where they are written is the caller's promise.
        unsafe {
            match turn {
                0 => store!(0),
                1 => store!(1),
                2 => store!(2),
                _ => store!(3),
            }
        }
    }
}

/// A tile and a block of activation rows.
struct Operands {
    words: *const i32,
    codes: *const u8,
    scales: *const f32,
}

impl Operands {
    #[inline(always)]
    fn new(tile: &Tile, x: Block<'_>) -> Operands {
        let (codes, scales) = (tile.codes().as_ptr().cast(), tile.scales().as_ptr().cast());
        Operands { words: x.words.as_ptr(), codes, scales }
    }

    /// What the block has for group `g`.
    ///
    /// # Safety
    /// There is such a group, here and below.
    #[inline(always)]
    unsafe fn activations(&self, g: usize) -> *const i32 {
        // SAFETY: the caller's promise; the block has `WORDS` words for each of its places.
        unsafe { self.words.add(g * WORDS * MOST_ROWS) }
    }

    #[inline(always)]
    unsafe fn codes(&self, g: usize) -> *const u8 {
        // SAFETY: the caller's promise; the tile has `GROUP_CODES` codes of a group.
        unsafe { self.codes.add(g * GROUP_CODES) }
    }

    /// Adds group `g` to the totals of `N` rows, given its sums.
    ///
    /// # Safety
    /// There is such a group, and it has these sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn add<const N: usize>(&self, g: usize, sums: *const Group, mut total: [__m512; N]) -> [__m512; N] {
        /// The last place of a float of this size is a one. A sum of 32 products of bytes has at most 20 bits, so adding it to the
        /// float's bits adds it to the number, exactly.
        const ONES: f32 = 12_582_912.0;
        // SAFETY: the caller's promise: of group `g`, a tile has sixteen scales, and a block's codes are followed by the scales of
        // its rows.
        unsafe {
            let words = self.activations(g);
            let d = |r: usize| _mm512_set1_ps(*words.add(QUADS * MOST_ROWS + r).cast());
            let scale = _mm512_load_ps(self.scales.add(g * ROWS));
            let sum = |r: usize| _mm512_load_si512(sums.cast::<i32>().add(r * ROWS).cast());
            // A third of the rows take a conversion, for which there is but one port, and the others two additions.
            for r in 0..N / 3 {
                total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum(r)), _mm512_mul_ps(scale, d(r)), total[r]);
            }
            for r in N / 3..N {
                let above = _mm512_add_epi32(sum(r), _mm512_set1_epi32(ONES.to_bits() as i32));
                let sum = _mm512_sub_ps(_mm512_castsi512_ps(above), _mm512_set1_ps(ONES));
                total[r] = _mm512_fmadd_ps(sum, _mm512_mul_ps(scale, d(r)), total[r]);
            }
        }
        total
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
