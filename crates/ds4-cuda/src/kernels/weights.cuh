// Weights as `repack.cu` lays them out, and the products of one block of 256 columns.
//
// Per tile of 16 rows and block of 256 columns (8 groups of 32), lane l = 4 g + t of a warp owns rows g and g + 8, and of each
// group the octet t. Where it says [lane] the bytes lie in that order, so that a warp reads 512 consecutive bytes at once.
//
// | type    | codes                                             | scales              | extra       |
// |---------|---------------------------------------------------|---------------------|-------------|
// | Q8_0    | [group 8][lane][row g: 4, row g+8: 4, g: 4, g+8: 4] | [row 16][group 8] f16 |             |
// | MXFP4   | [pair 4][lane][(g, g+8) of both groups, 4 each]   | [row 16][group 8] u8  |             |
// | Q4_K    | as MXFP4                                          | [row 16][16] raw      |             |
// | Q2_K    | [g, g+8][lane][group 8: 16 bits]                  | [row 16][16] raw      | [row 16] d, dmin f16 |
// | IQ2_XXS | [g, g+8][lane][index 8, signs 2 x 32 bits]        | [row 16] 8 x 4 bits   | [row 16] d f16 |
// | F16     | [group 8][g, g+8][lane][8 x f16]                  |                     |             |
// | F32, BF16 | row-major, no tiles                             |                     |             |
//
// The signs of IQ2_XXS: bit 4 e + i % 4 of word i / 4 is that of element e of group i's octet.
#pragma once
#include "common.cuh"
#include "iq2_xxs_grid.cuh"

template <u32 TYPE>
struct Layout;
template <>
struct Layout<Q8_0> {
    enum { codes = 4096, scales = 256, extra = 0 };
};
template <>
struct Layout<MXFP4> {
    enum { codes = 2048, scales = 128, extra = 0 };
};
template <>
struct Layout<Q4_K> {
    enum { codes = 2048, scales = 256, extra = 0 };
};
template <>
struct Layout<Q2_K> {
    enum { codes = 1024, scales = 256, extra = 64 };
};
template <>
struct Layout<IQ2_XXS> {
    enum { codes = 1024, scales = 64, extra = 32 };
};
template <>
struct Layout<F16> {
    enum { codes = 8192, scales = 0, extra = 0 };
};

/// Copies of the IQ2_XXS grid in shared memory: lanes that share a copy may collide in a bank, so several are kept.
constexpr int kGridCopies = 16;
constexpr int kGridWords = 256 * kGridCopies;

/// The four codes from bit 2 * `first` / 4 of packed 2-bit codes, one per byte: planes of a 16-bit or 32-bit word.
DS4_DEVICE u32 codes2(u32 word, int shift) { return word >> shift & 0x03030303u; }

/// Eight 4-bit codes to bytes: elements 0 to 3 and 4 to 7.
DS4_DEVICE void codes4(u32 word, u32 &low, u32 &high) {
    // Byte i holds element i (low nibble) and element i + 4 (high nibble).
    low = word & 0x0F0F0F0Fu;
    high = word >> 4 & 0x0F0F0F0Fu;
}

/// Four E2M1 codes, one per byte, as doubled signed integers.
DS4_DEVICE u32 e2m1_doubled(u32 codes) {
    u32 nibbles = (codes & 0x07u) | (codes >> 4 & 0x70u) | (codes >> 8 & 0x700u) | (codes >> 12 & 0x7000u);
    u32 magnitude = byte_perm(0x03020100u, 0x0C080604u, nibbles);
    u32 negative = (codes >> 3 & 0x01010101u) * 0xFFu;
    // Zero has no two's complement within its byte without a carry; it needs none.
    u32 zero = ((magnitude + 0x7F7F7F7Fu) & 0x80808080u) >> 7;
    return (magnitude ^ (negative & (zero * 0xFFu))) + (negative & zero);
}

/// The grid into shared memory, in its copies.
template <int COPIES = kGridCopies>
DS4_DEVICE void load_grid(u32 *grid) {
    for (int i = threadIdx.x; i < 256 * COPIES; i += blockDim.x) grid[i] = kIq2Grid[i / COPIES];
    sync_block();
}

/// IQ2_XXS: the signs of group i's octet, in bit 2 of each nibble.
DS4_DEVICE u32 iq2_signs(u32 low_word, u32 high_word, int i) {
    u32 word = i < 4 ? low_word : high_word;
    return (i % 4 == 0 ? word << 2 : i % 4 == 1 ? word << 1 : i % 4 == 2 ? word : word >> 1) & 0x44444444u;
}

/// IQ2_XXS: eight signed magnitudes from a grid word (nibbles 0, 1, 2 for 8, 25, 43) and signs.
DS4_DEVICE void iq2_octet(u32 grid_word, u32 signs, u32 &low, u32 &high) {
    u32 selector = grid_word | signs;
    low = byte_perm(0x002B1908u, 0x00D5E7F8u, selector);
    high = byte_perm(0x002B1908u, 0x00D5E7F8u, high_half(selector));
}

/// MXFP4: half of the block's scale, 2^(e - 128).
DS4_DEVICE float half_e8m0(u32 e) { return as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23); }

DS4_DEVICE u32 byte_of(const uint4 &v, int i) {
    u32 word = i < 4 ? v.x : i < 8 ? v.y : i < 12 ? v.z : v.w;
    return word >> (8 * (i % 4)) & 0xFF;
}

DS4_DEVICE u32 word_of(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

/// `d` times an integer below 2^23, rounded once: the integer's bits are those of a float that is 2^23 too large, so that no conversion,
/// a slow instruction, is needed. For a finite d.
DS4_DEVICE float times_small(float d, u32 v) { return fmaf(as_float(0x4B000000u | v), d, -8388608.0f * d); }

/// How a block's pieces are read: from device memory, where nobody needs them again, or from a copy in shared memory.
struct FromGlobal {
    DS4_MEMBER static uint4 wide(const void *p) { return load_stream(p); }
};
struct FromShared {
    DS4_MEMBER static uint4 wide(const void *p) { return load<uint4>(p); }
};

/// Where the pieces of block number `at` are.
template <u32 TYPE>
DS4_DEVICE const u8 *block_codes(const Weight &w, u64 at) {
    return ptr<const u8>(w.codes) + at * Layout<TYPE>::codes;
}
template <u32 TYPE>
DS4_DEVICE const u8 *block_scales(const Weight &w, u64 at) {
    return ptr<const u8>(w.scales) + at * Layout<TYPE>::scales;
}
template <u32 TYPE>
DS4_DEVICE const u8 *block_extra(const Weight &w, u64 at) {
    return ptr<const u8>(w.extra) + at * Layout<TYPE>::extra;
}

/// One tile and block of weights, loaded: 8 groups of A operands with the scales of rows g and g + 8.
///
/// `group` gives the operand of one group, `scales` what its integer sums are multiplied with. Where a format has minima, `mins`
/// gives them as a float16 operand, times the rows' `factor`: lane l has the 16s 4 t to 4 t + 3 of its two rows. Small integers
/// are float16 as they are: multiples of the smallest one, 2^-24.
constexpr float kTiny = 16777216.0f;

template <u32 TYPE>
struct BlockOf;

template <>
struct BlockOf<Q8_0> {
    uint4 codes[8], scale0, scale1;

    DS4_MEMBER void load_from(const Weight &w, u64 at, int lane, const u32 *) {
        take<FromGlobal>(block_codes<Q8_0>(w, at), block_scales<Q8_0>(w, at), block_extra<Q8_0>(w, at), lane);
    }
    /// From where the block's codes, scales and extra are.
    template <class From>
    DS4_MEMBER void take(const u8 *c, const u8 *s, const u8 *, int lane) {
        c += lane * 16;
#pragma unroll
        for (int i = 0; i < 8; i++) codes[i] = From::wide(c + i * 512);
        s += lane / 4 * 16;
        scale0 = From::wide(s), scale1 = From::wide(s + 128);
    }
    DS4_MEMBER void group(int i, const u32 *, u32 (&a)[4]) const {
        a[0] = codes[i].x, a[1] = codes[i].y, a[2] = codes[i].z, a[3] = codes[i].w;
    }
    DS4_MEMBER void scales(int i, float &s0, float &s1) const {
        s0 = half_to_float(u16(word_of(scale0, i / 2) >> (i % 2 * 16)));
        s1 = half_to_float(u16(word_of(scale1, i / 2) >> (i % 2 * 16)));
    }
    enum { minima = 0 };
    DS4_MEMBER void mins(u32 (&)[4], float (&)[2]) const {}
};

template <>
struct BlockOf<MXFP4> {
    uint4 codes[4];
    uint2 scale0, scale1;

    DS4_MEMBER void load_from(const Weight &w, u64 at, int lane, const u32 *) {
        take<FromGlobal>(block_codes<MXFP4>(w, at), block_scales<MXFP4>(w, at), block_extra<MXFP4>(w, at), lane);
    }
    /// From where the block's codes, scales and extra are.
    template <class From>
    DS4_MEMBER void take(const u8 *c, const u8 *s, const u8 *, int lane) {
        c += lane * 16;
#pragma unroll
        for (int i = 0; i < 4; i++) codes[i] = From::wide(c + i * 512);
        s += lane / 4 * 8;
        scale0 = load<uint2>(s), scale1 = load<uint2>(s + 64);
    }
    DS4_MEMBER void group(int i, const u32 *, u32 (&a)[4]) const {
        u32 row0 = i % 2 == 0 ? codes[i / 2].x : codes[i / 2].z, row1 = i % 2 == 0 ? codes[i / 2].y : codes[i / 2].w;
        u32 low, high;
        codes4(row0, low, high);
        a[0] = e2m1_doubled(low), a[2] = e2m1_doubled(high);
        codes4(row1, low, high);
        a[1] = e2m1_doubled(low), a[3] = e2m1_doubled(high);
    }
    DS4_MEMBER void scales(int i, float &s0, float &s1) const {
        s0 = half_e8m0((i < 4 ? scale0.x : scale0.y) >> (8 * (i % 4)) & 0xFF);
        s1 = half_e8m0((i < 4 ? scale1.x : scale1.y) >> (8 * (i % 4)) & 0xFF);
    }
    enum { minima = 0 };
    DS4_MEMBER void mins(u32 (&)[4], float (&)[2]) const {}
};

/// Scales and minima of one Q4_K row.
struct Q4Row {
    uint4 raw;
    DS4_MEMBER void at(int b, float &scale, float &minimum) const {
        u32 sc, mn;
        if (b < 4) {
            sc = byte_of(raw, 4 + b) & 63, mn = byte_of(raw, 8 + b) & 63;
        } else {
            u32 shared = byte_of(raw, 8 + b);
            sc = (shared & 15) | (byte_of(raw, b) >> 6) << 4;
            mn = shared >> 4 | (byte_of(raw, 4 + b) >> 6) << 4;
        }
        scale = half_to_float(u16(raw.x)) * float(sc);
        minimum = half_to_float(u16(raw.x >> 16)) * float(mn);
    }
    /// The codes of the minima of groups 2 t and 2 t + 1, in two bytes.
    DS4_MEMBER u32 minima(int t) const {
        u32 z = raw.z >> (t % 2 * 16), w = raw.w >> (t % 2 * 16);
        return t < 2 ? z & 0x3F3Fu : (w >> 4 & 0x0F0Fu) | (z >> 2 & 0x3030u);
    }
};

template <>
struct BlockOf<Q4_K> {
    uint4 codes[4];
    Q4Row row0, row1;
    int quarter;

    DS4_MEMBER void load_from(const Weight &w, u64 at, int lane, const u32 *) {
        take<FromGlobal>(block_codes<Q4_K>(w, at), block_scales<Q4_K>(w, at), block_extra<Q4_K>(w, at), lane);
    }
    /// From where the block's codes, scales and extra are.
    template <class From>
    DS4_MEMBER void take(const u8 *c, const u8 *s, const u8 *, int lane) {
        c += lane * 16;
#pragma unroll
        for (int i = 0; i < 4; i++) codes[i] = From::wide(c + i * 512);
        s += lane / 4 * 16;
        row0.raw = From::wide(s), row1.raw = From::wide(s + 128);
        quarter = lane % 4;
    }
    DS4_MEMBER void group(int i, const u32 *, u32 (&a)[4]) const {
        codes4(i % 2 == 0 ? codes[i / 2].x : codes[i / 2].z, a[0], a[2]);
        codes4(i % 2 == 0 ? codes[i / 2].y : codes[i / 2].w, a[1], a[3]);
    }
    DS4_MEMBER void scales(int i, float &s0, float &s1) const {
        float unused;
        row0.at(i, s0, unused), row1.at(i, s1, unused);
    }
    enum { minima = 1 };
    DS4_MEMBER void mins(u32 (&a)[4], float (&factor)[2]) const {
        u32 m0 = row0.minima(quarter), m1 = row1.minima(quarter);
        // Both 16s of a group have its minimum.
        a[0] = byte_perm(m0, 0, 0x4040), a[1] = byte_perm(m1, 0, 0x4040);
        a[2] = byte_perm(m0, 0, 0x4141), a[3] = byte_perm(m1, 0, 0x4141);
        factor[0] = half_to_float(u16(row0.raw.x >> 16)) * -kTiny, factor[1] = half_to_float(u16(row1.raw.x >> 16)) * -kTiny;
    }
};

template <>
struct BlockOf<Q2_K> {
    uint4 codes0, codes1, scale0, scale1;
    u32 d0, d1;
    int half, quarter;

    DS4_MEMBER void load_from(const Weight &w, u64 at, int lane, const u32 *) {
        take<FromGlobal>(block_codes<Q2_K>(w, at), block_scales<Q2_K>(w, at), block_extra<Q2_K>(w, at), lane);
    }
    /// From where the block's codes, scales and extra are.
    template <class From>
    DS4_MEMBER void take(const u8 *c, const u8 *s, const u8 *e, int lane) {
        c += lane * 16;
        codes0 = From::wide(c), codes1 = From::wide(c + 512);
        s += lane / 4 * 16;
        scale0 = From::wide(s), scale1 = From::wide(s + 128);
        e += lane / 4 * 4;
        d0 = load<u32>(e), d1 = load<u32>(e + 32);
        half = lane % 4 / 2, quarter = lane % 4;
    }
    /// Codes times their 4-bit scale: at most 45, so the sums of both sub-blocks are one integer product.
    DS4_MEMBER void group(int i, const u32 *, u32 (&a)[4]) const {
        u32 word0 = word_of(codes0, i / 2), word1 = word_of(codes1, i / 2);
        int shift = i % 2 * 4;
        // Selected by value, not by index, to stay in registers.
        u32 pair0 = word_of(scale0, i / 2) >> (i % 2 * 16), pair1 = word_of(scale1, i / 2) >> (i % 2 * 16);
        u32 s0 = pair0 >> (half * 8) & 15, s1 = pair1 >> (half * 8) & 15;
        a[0] = codes2(word0, shift) * s0, a[2] = codes2(word0, shift + 2) * s0;
        a[1] = codes2(word1, shift) * s1, a[3] = codes2(word1, shift + 2) * s1;
    }
    DS4_MEMBER void scales(int, float &s0, float &s1) const {
        s0 = half_to_float(u16(d0)), s1 = half_to_float(u16(d1));
    }
    enum { minima = 1 };
    DS4_MEMBER void mins(u32 (&a)[4], float (&factor)[2]) const {
        u32 m0 = quarter_of(scale0) >> 4 & 0x0F0F0F0Fu, m1 = quarter_of(scale1) >> 4 & 0x0F0F0F0Fu;
        a[0] = byte_perm(m0, 0, 0x4140), a[1] = byte_perm(m1, 0, 0x4140);
        a[2] = byte_perm(m0, 0, 0x4342), a[3] = byte_perm(m1, 0, 0x4342);
        factor[0] = half_to_float(u16(d0 >> 16)) * -kTiny, factor[1] = half_to_float(u16(d1 >> 16)) * -kTiny;
    }
    DS4_MEMBER u32 quarter_of(const uint4 &v) const {
        u32 low = quarter % 2 ? v.y : v.x, high = quarter % 2 ? v.w : v.z;
        return quarter < 2 ? low : high;
    }
};

template <>
struct BlockOf<IQ2_XXS> {
    uint4 row0, row1;
    u32 scale0, scale1;
    float d0, d1;
    int copy;

    DS4_MEMBER void load_from(const Weight &w, u64 at, int lane, const u32 *) {
        take<FromGlobal>(block_codes<IQ2_XXS>(w, at), block_scales<IQ2_XXS>(w, at), block_extra<IQ2_XXS>(w, at), lane);
    }
    /// From where the block's codes, scales and extra are.
    template <class From>
    DS4_MEMBER void take(const u8 *c, const u8 *s, const u8 *e, int lane) {
        c += lane * 16;
        row0 = From::wide(c), row1 = From::wide(c + 512);
        s += lane / 4 * 4;
        scale0 = load<u32>(s), scale1 = load<u32>(s + 32);
        e += lane / 4 * 2;
        d0 = half_to_float(load<u16>(e)) * 0.125f, d1 = half_to_float(load<u16>(e + 16)) * 0.125f;
        copy = lane % kGridCopies * 4;
    }
    DS4_MEMBER void octet(const uint4 &row, int i, const u32 *grid, u32 &low, u32 &high) const {
        u32 at = dot_bytes(i < 4 ? row.x : row.y, u32(4 * kGridCopies) << (8 * (i % 4)), copy);
        iq2_octet(load_table<0>(grid, at), iq2_signs(row.z, row.w, i), low, high);
    }
    DS4_MEMBER void group(int i, const u32 *grid, u32 (&a)[4]) const {
        octet(row0, i, grid, a[0], a[2]);
        octet(row1, i, grid, a[1], a[3]);
    }
    DS4_MEMBER void scales(int i, float &s0, float &s1) const {
        // Twice the four bits, plus one.
        s0 = times_small(d0, ((i == 0 ? scale0 << 1 : scale0 >> (4 * i - 1)) & 0x1Eu) | 1u);
        s1 = times_small(d1, ((i == 0 ? scale1 << 1 : scale1 >> (4 * i - 1)) & 0x1Eu) | 1u);
    }
    enum { minima = 0 };
    DS4_MEMBER void mins(u32 (&)[4], float (&)[2]) const {}
};

/// Minima of a block times the sums of its 16s.
DS4_DEVICE void minima_product(const u32 (&m)[4], const uint4 &sums, float (&c)[4]) {
    c[0] = c[1] = c[2] = c[3] = 0.0f;
    mma_f16(c, m[0], m[1], m[2], m[3], byte_perm(sums.x, sums.y, 0x5410), byte_perm(sums.z, sums.w, 0x5410));
    mma_f16(c, m[0], m[1], m[2], m[3], byte_perm(sums.x, sums.y, 0x7632), byte_perm(sums.z, sums.w, 0x7632));
}

/// Adds one tile and block of a block-quantized matrix times NT octets of columns to `acc`.
///
/// `b.codes(n, group)`: the lane's 8 int8 codes of column g of octet n. `b.scale(n, group)`: the scales of columns 2t and
/// 2t + 1; `b.sums(n)`: scale times sum of the 16s 4 t to 4 t + 3 of column g, each in two float16. Only the first `octets` are
/// in use.
/// With `ONE` only column 0 is wanted, which lanes with t = 0 have.
template <u32 TYPE, int NT, bool ONE = false, class B>
DS4_DEVICE void accumulate_block(const BlockOf<TYPE> &block, const u32 *grid, const B &b, float (&acc)[NT][4],
                                 int octets = NT) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        u32 a[4];
        float s0, s1;
        block.group(i, grid, a);
        block.scales(i, s0, s1);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            if (n >= octets) break;
            int c[4] = {kMagicInt, kMagicInt, kMagicInt, kMagicInt};
            uint2 codes = b.codes(n, i);
            u32 operand[2] = {codes.x, codes.y};
            mma_s8(c, a, operand);
            float2 d = b.scale(n, i);
            acc[n][0] = fmaf(magic_sum(c[0]), s0 * d.x, acc[n][0]);
            acc[n][2] = fmaf(magic_sum(c[2]), s1 * d.x, acc[n][2]);
            if (!ONE) acc[n][1] = fmaf(magic_sum(c[1]), s0 * d.y, acc[n][1]);
            if (!ONE) acc[n][3] = fmaf(magic_sum(c[3]), s1 * d.y, acc[n][3]);
        }
    }
    if constexpr (BlockOf<TYPE>::minima != 0) {
        u32 m[4];
        float factor[2];
        block.mins(m, factor);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            if (n >= octets) break;
            float c[4];
            minima_product(m, b.sums(n), c);
            acc[n][0] = fmaf(factor[0], c[0], acc[n][0]), acc[n][2] = fmaf(factor[1], c[2], acc[n][2]);
            if (!ONE) acc[n][1] = fmaf(factor[0], c[1], acc[n][1]), acc[n][3] = fmaf(factor[1], c[3], acc[n][3]);
        }
    }
}

/// One tile and block of a float16 matrix. Activations come as two float16: what the first leaves of a value is the second.
struct HalfBlock {
    uint4 codes[4][2];

    /// Half `part` of the block: groups 4 * part to 4 * part + 3.
    DS4_MEMBER void load_from(const Weight &w, u64 at, int part, int lane) {
        const u8 *c = ptr<const u8>(w.codes) + at * Layout<F16>::codes + part * 4096 + lane * 16;
#pragma unroll
        for (int i = 0; i < 4; i++) codes[i][0] = load_stream(c + i * 1024), codes[i][1] = load_stream(c + i * 1024 + 512);
    }
    /// Half of the block, from a copy in shared memory: four groups.
    DS4_MEMBER void take_staged(const u8 *c, int lane) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            codes[i][0] = load<uint4>(c + i * 1024 + lane * 16);
            codes[i][1] = load<uint4>(c + i * 1024 + lane * 16 + 512);
        }
    }
};

/// `b.hi(n, group)`, `b.lo(n, group)`: the lane's 8 float16 of column g.
template <int NT, class B>
DS4_DEVICE void accumulate_half(const HalfBlock &block, int part, const B &b, float (&acc)[NT][4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint4 &r0 = block.codes[i][0], &r1 = block.codes[i][1];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint4 hi = b.hi(n, part * 4 + i), lo = b.lo(n, part * 4 + i);
            mma_f16(acc[n], r0.x, r1.x, r0.y, r1.y, hi.x, hi.y);
            mma_f16(acc[n], r0.x, r1.x, r0.y, r1.y, lo.x, lo.y);
            mma_f16(acc[n], r0.z, r1.z, r0.w, r1.w, hi.z, hi.w);
            mma_f16(acc[n], r0.z, r1.z, r0.w, r1.w, lo.z, lo.w);
        }
    }
}

// --- single octets, for products in plain float32 -----------------------------------------------------------

/// Eight consecutive elements (octet t of group `group`) of row `row` of matrix `slab`, decoded.
DS4_DEVICE void decode_octet(const Weight &w, u32 slab, u32 row, u32 group, u32 t, float (&out)[8]) {
    const u8 *codes = ptr<const u8>(w.codes) + slab * w.slab_codes;
    const u8 *scales = ptr<const u8>(w.scales) + slab * w.slab_scales;
    const u8 *extra = ptr<const u8>(w.extra) + slab * w.slab_extra;
    u64 at = u64(row / 16) * w.blocks + group / 8;
    u32 r = row % 16, i = group % 8, lane = (r % 8) * 4 + t, half = r / 8;
    switch (w.type) {
        case F32: {
            const float *v = reinterpret_cast<const float *>(codes) + u64(row) * w.cols + group * 32 + t * 8;
            for (int k = 0; k < 8; k++) out[k] = group * 32 + t * 8 + k < w.cols ? v[k] : 0.0f;
            return;
        }
        case BF16: {
            const u16 *v = reinterpret_cast<const u16 *>(codes) + u64(row) * w.cols + group * 32 + t * 8;
            for (int k = 0; k < 8; k++) out[k] = group * 32 + t * 8 + k < w.cols ? as_float(u32(v[k]) << 16) : 0.0f;
            return;
        }
        case F16: {
            const u16 *v = reinterpret_cast<const u16 *>(codes + at * Layout<F16>::codes + i * 1024 + half * 512 + lane * 16);
            for (int k = 0; k < 8; k++) out[k] = half_to_float(v[k]);
            return;
        }
        case Q8_0: {
            const i8 *v = reinterpret_cast<const i8 *>(codes + at * Layout<Q8_0>::codes + i * 512 + lane * 16 + half * 4);
            float d = half_to_float(reinterpret_cast<const u16 *>(scales + at * Layout<Q8_0>::scales)[r * 8 + i]);
            for (int k = 0; k < 4; k++) out[k] = d * float(v[k]), out[4 + k] = d * float(v[8 + k]);
            return;
        }
        case MXFP4:
        case Q4_K: {
            u32 word = load<u32>(codes + at * 2048 + i / 2 * 512 + lane * 16 + i % 2 * 8 + half * 4);
            u32 low, high;
            codes4(word, low, high);
            if (w.type == MXFP4) {
                low = e2m1_doubled(low), high = e2m1_doubled(high);
                float d = half_e8m0(scales[at * Layout<MXFP4>::scales + r * 8 + i]);
                for (int k = 0; k < 4; k++)
                    out[k] = d * float(i8(low >> (8 * k))), out[4 + k] = d * float(i8(high >> (8 * k)));
            } else {
                Q4Row q = {load<uint4>(scales + at * Layout<Q4_K>::scales + r * 16)};
                float scale, minimum;
                q.at(i, scale, minimum);
                for (int k = 0; k < 4; k++) {
                    out[k] = scale * float(low >> (8 * k) & 15) - minimum;
                    out[4 + k] = scale * float(high >> (8 * k) & 15) - minimum;
                }
            }
            return;
        }
        case Q2_K: {
            u32 word = load<u32>(codes + at * Layout<Q2_K>::codes + half * 512 + lane * 16 + i / 2 * 4);
            u32 sub = scales[at * Layout<Q2_K>::scales + r * 16 + i * 2 + t / 2];
            u32 d = load<u32>(extra + at * Layout<Q2_K>::extra + r * 4);
            float scale = half_to_float(u16(d)) * float(sub & 15), minimum = half_to_float(u16(d >> 16)) * float(sub >> 4);
            u32 low = codes2(word, i % 2 * 4), high = codes2(word, i % 2 * 4 + 2);
            for (int k = 0; k < 4; k++) {
                out[k] = scale * float(low >> (8 * k) & 3) - minimum;
                out[4 + k] = scale * float(high >> (8 * k) & 3) - minimum;
            }
            return;
        }
        default: {  // IQ2_XXS
            const u8 *v = codes + at * Layout<IQ2_XXS>::codes + half * 512 + lane * 16;
            u32 low, high;
            iq2_octet(kIq2Grid[v[i]], iq2_signs(load<u32>(v + 8), load<u32>(v + 12), int(i)), low, high);
            u32 s = load<u32>(scales + at * Layout<IQ2_XXS>::scales + r * 4) >> (4 * i) & 15;
            float d = half_to_float(load<u16>(extra + at * Layout<IQ2_XXS>::extra + r * 2)) * float(2 * s + 1) * 0.125f;
            for (int k = 0; k < 4; k++)
                out[k] = d * float(i8(low >> (8 * k))), out[4 + k] = d * float(i8(high >> (8 * k)));
        }
    }
}
