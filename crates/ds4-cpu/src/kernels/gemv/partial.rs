//! What the first pass over sixteen weight rows leaves for the second.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Weight rows side by side: the 32-bit lanes of a register.
pub(super) const ROWS: usize = 16;
/// Most groups of 32 inputs per row at a time: a whole number of blocks of every format, few enough for the L1 cache.
pub(super) const GROUPS: usize = 128;

/// Integer sums per row and group, and scales as they are stored, sixteen rows side by side. What stands in a place that
/// was not written is unspecified.
#[repr(C, align(64))]
pub(super) struct Partial {
    /// The sum of a group, or that and more, as the format wishes.
    pub sums: [[i32; GROUPS]; ROWS],
    /// The sum of the minima of a group, in formats that have them.
    pub min_sums: [[i32; GROUPS]; ROWS],
    /// The f16 scale of a block.
    #[cfg(target_arch = "x86_64")]
    pub d: [[u16; ROWS]; GROUPS],
    /// The f16 scale of a block's minima.
    #[cfg(target_arch = "x86_64")]
    pub dmin: [[u16; ROWS]; GROUPS],
    /// In place of these, with AVX2 and NEON, the scale of a group.
    pub scales: [[f32; ROWS]; GROUPS],
    /// And that of its minima.
    pub min_scales: [[f32; ROWS]; GROUPS],
}

impl Partial {
    pub fn new() -> Partial {
        Partial {
            sums: [[0; GROUPS]; ROWS],
            min_sums: [[0; GROUPS]; ROWS],
            #[cfg(target_arch = "x86_64")]
            d: [[0; ROWS]; GROUPS],
            #[cfg(target_arch = "x86_64")]
            dmin: [[0; ROWS]; GROUPS],
            scales: [[0.0; ROWS]; GROUPS],
            min_scales: [[0.0; ROWS]; GROUPS],
        }
    }
}

/// Sixteen groups, number `16 * part` and following, of all rows: the `i`-th register has group `i`, a row per lane.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn turned(sums: &[[i32; GROUPS]; ROWS], part: usize) -> [__m512i; 16] {
    assert!(part < GROUPS / 16);
    // SAFETY: groups `16 part..16 part + 16` exist in every row.
    unsafe { columns(|row| sums[row].as_ptr().add(16 * part).cast()) }
}

/// Sixteen words of each of sixteen rows: the `i`-th register has word `i`, a row per lane.
///
/// # Safety
/// Where `row` says that a row is, 64 bytes can be read.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) unsafe fn columns(row: impl Fn(usize) -> *const u8) -> [__m512i; 16] {
    let mut quads = [[_mm512_setzero_si512(); 4]; 4];
    for (i, quad) in quads.iter_mut().enumerate() {
        // SAFETY: the caller's promise; the load needs no alignment.
        let load = |k: usize| unsafe { _mm512_loadu_si512(row(4 * i + k).cast()) };
        *quad = quads_turned([load(0), load(1), load(2), load(3)]);
    }
    let mut groups = [_mm512_setzero_si512(); 16];
    for e in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x44>(quads[0][e], quads[1][e]);
        let low2 = _mm512_shuffle_i32x4::<0x44>(quads[2][e], quads[3][e]);
        let high = _mm512_shuffle_i32x4::<0xee>(quads[0][e], quads[1][e]);
        let high2 = _mm512_shuffle_i32x4::<0xee>(quads[2][e], quads[3][e]);
        groups[e] = _mm512_shuffle_i32x4::<0x88>(low, low2);
        groups[4 + e] = _mm512_shuffle_i32x4::<0xdd>(low, low2);
        groups[8 + e] = _mm512_shuffle_i32x4::<0x88>(high, high2);
        groups[12 + e] = _mm512_shuffle_i32x4::<0xdd>(high, high2);
    }
    groups
}

/// The four words of each 128-bit lane of four registers: the `e`-th result has word `e`, a register per word.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn quads_turned([r0, r1, r2, r3]: [__m512i; 4]) -> [__m512i; 4] {
    let (low, low2) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpacklo_epi32(r2, r3));
    let (high, high2) = (_mm512_unpackhi_epi32(r0, r1), _mm512_unpackhi_epi32(r2, r3));
    [
        _mm512_unpacklo_epi64(low, low2),
        _mm512_unpackhi_epi64(low, low2),
        _mm512_unpacklo_epi64(high, high2),
        _mm512_unpackhi_epi64(high, high2),
    ]
}

/// Sixteen half-precision numbers as floats.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn floats(halves: &[u16; ROWS]) -> __m512 {
    // SAFETY: 32 bytes; the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) })
}

/// The 16-bit number at the start of `bytes`.
///
/// # Safety
/// Two bytes can be read.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn half_at(bytes: *const u8) -> u16 {
    // SAFETY: the caller's promise.
    unsafe { bytes.cast::<u16>().read_unaligned() }
}
