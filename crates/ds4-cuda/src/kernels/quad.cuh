// Four tiles in one accumulator, for products with one or two columns.
//
// The matrix instruction has eight columns. With one or two to multiply with, the others are free: four tiles add their products
// to the same accumulator, each in columns of its own. Tile k meets an operand that is zero but in columns 2 k and 2 k + 1, so its sums
// come out in the lanes with t = k, and these scale the sums of one tile only, not every lane those of all four. With one column, columns 2 k
// and 2 k + 1 have two groups of it. Sums are integers: the order of the tiles does not matter, and zeros change nothing.
#pragma once
#include "stream.cuh"

/// Copies of the grid that these kernels keep: one per lane.
constexpr int kLaneCopies = 32;
constexpr u32 kLaneGridWords = 256 * kLaneCopies;

/// The copy of the IQ2_XXS grid that a lane reads.
struct LaneGrid {
#ifdef DS4_EMULATION
    const u8 *at;
    DS4_MEMBER explicit LaneGrid(const u32 *grid) : at(reinterpret_cast<const u8 *>(grid + threadIdx.x % 32)) {}
#else
    u32 at;
    DS4_MEMBER explicit LaneGrid(const u32 *grid) : at(u32(__cvta_generic_to_shared(grid)) + threadIdx.x % 32 * 4) {}
#endif
    /// The word that byte i of `index` stands for.
    DS4_MEMBER u32 word(u32 index, int i) const {
#ifdef DS4_EMULATION
        return load<u32>(at + (index >> (8 * i) & 0xFF) * (4 * kLaneCopies));
#else
        u32 v;
        asm("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(dot_bytes(index, u32(4 * kLaneCopies) << (8 * i), at)));
        return v;
#endif
    }
    /// The A operand of group i of rows g and g + 8.
    DS4_MEMBER void group(const uint4 (&rows)[2], int i, u32 (&a)[4]) const {
#pragma unroll
        for (int r = 0; r < 2; r++)
            iq2_octet(word(i < 4 ? rows[r].x : rows[r].y, i % 4), iq2_signs(rows[r].z, rows[r].w, i), a[r], a[2 + r]);
    }
    /// Writes all copies, with all threads of the block; a barrier has to follow.
    DS4_MEMBER static void fill(u32 *grid) {
        for (u32 i = threadIdx.x; i < kLaneGridWords / 4; i += blockDim.x) {
            u32 v = kIq2Grid[i / (kLaneCopies / 4)];
            reinterpret_cast<uint4 *>(grid)[i] = {v, v, v, v};
        }
    }
};

/// The scale of group i: twice its four bits of `word`, plus one, times d.
DS4_DEVICE float iq2_scale(float d, u32 word, int i) {
    return times_small(d, ((i == 0 ? word << 1 : word >> (4 * i - 1)) & 0x1Eu) | 1u);
}

/// Codes of four tile blocks of IQ2_XXS (gate and up, two tiles each) in a warp's registers, and what the lane's own tile is scaled with.
struct Iq2Quad {
    uint4 codes[4][2];
    u32 scale[2], d[2];
};

/// Where gate and up of a stack are, for a lane. A block's number counts all experts' blocks, tile after tile.
struct Iq2Stack {
    const u8 *codes[2], *scales, *extra;
    u32 per_expert, blocks, tiles;

    DS4_MEMBER Iq2Stack(const Weight &gate, const Weight &up) {
        u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        codes[0] = ptr<const u8>(gate.codes) + lane * 16, codes[1] = ptr<const u8>(up.codes) + lane * 16;
        scales = ptr<const u8>(t < 2 ? gate.scales : up.scales) + g * 4;
        extra = ptr<const u8>(t < 2 ? gate.extra : up.extra) + g * 2;
        blocks = gate.blocks, tiles = div_up(gate.rows, 16), per_expert = tiles * blocks;
    }
    /// Blocks from a unit's first tile to its second; a unit with one tile has it twice.
    DS4_MEMBER u32 second(u32 unit) const { return unit * 2 + 1 < tiles ? blocks : 0; }
    /// Tiles 0 and 1 of gate, then of up.
    DS4_MEMBER void load_codes(Iq2Quad &to, u32 at, u32 second, int k) const {
        const u8 *from = codes[k / 2] + u64(at + (k % 2 ? second : 0)) * Layout<IQ2_XXS>::codes;
        to.codes[k][0] = load_stream(from), to.codes[k][1] = load_stream(from + 512);
    }
    DS4_MEMBER void load_scales(Iq2Quad &to, u32 at, u32 second) const {
        u64 mine = at + (threadIdx.x % 2 ? second : 0);
        const u8 *s = scales + mine * Layout<IQ2_XXS>::scales, *e = extra + mine * Layout<IQ2_XXS>::extra;
        to.scale[0] = load<u32>(s), to.scale[1] = load<u32>(s + 32);
        to.d[0] = load<u16>(e), to.d[1] = load<u16>(e + 16);
    }
};

/// Eight scales of a block of a column.
DS4_DEVICE void load_scales(const u8 *from, float (&to)[8]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float4 v = load<float4>(from + i * 16);
        to[i * 4] = v.x, to[i * 4 + 1] = v.y, to[i * 4 + 2] = v.z, to[i * 4 + 3] = v.w;
    }
}

/// The eight codes (of group i, the lane's octet) at `from` as an operand.
DS4_DEVICE void load_octet(const u8 *from, int i, u32 (&operand)[2]) {
    uint2 v = load<uint2>(from + i * 32);
    operand[0] = v.x, operand[1] = v.y;
}

/// What Q2_K needs of a tile block in shared memory (codes, scales, extra) to multiply: half a block, groups 4 h to 4 h + 3.
struct Q2Half {
    uint2 row0, row1;
    u32 s0, s1;

    DS4_MEMBER Q2Half(const u8 *block, int h) {
        u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, select = t < 2 ? 0x6420u : 0x7531u;
        row0 = load<uint2>(block + lane * 16 + h * 8), row1 = load<uint2>(block + 512 + lane * 16 + h * 8);
        const u8 *scales = block + Layout<Q2_K>::codes + g * 16 + h * 8;
        // Every second byte is that of the lane's 16 columns.
        uint2 raw0 = load<uint2>(scales), raw1 = load<uint2>(scales + 128);
        s0 = byte_perm(raw0.x, raw0.y, select) & 0x0F0F0F0Fu, s1 = byte_perm(raw1.x, raw1.y, select) & 0x0F0F0F0Fu;
    }
    /// The A operand of group 4 h + j: codes times their 4-bit scale.
    DS4_MEMBER void group(int j, u32 (&a)[4]) const {
        int shift = j % 2 * 4;
        u32 w0 = j < 2 ? row0.x : row0.y, w1 = j < 2 ? row1.x : row1.y;
        u32 f0 = byte_perm(s0, 0, 0x4440 + j), f1 = byte_perm(s1, 0, 0x4440 + j);
        a[0] = codes2(w0, shift) * f0, a[2] = codes2(w0, shift + 2) * f0;
        a[1] = codes2(w1, shift) * f1, a[3] = codes2(w1, shift + 2) * f1;
    }
};

/// Adds the minima of a Q2_K tile block in shared memory times the sums of 16s at `sums` (this lane's four).
DS4_DEVICE void add_q2_minima(const u8 *block, const u8 *sums, float (&c)[4]) {
    u32 lane = threadIdx.x % 32;
    const u8 *scales = block + Layout<Q2_K>::codes + lane * 4;
    u32 m0 = load<u32>(scales) >> 4 & 0x0F0F0F0Fu, m1 = load<u32>(scales + 128) >> 4 & 0x0F0F0F0Fu;
    u32 a[4] = {byte_perm(m0, 0, 0x4140), byte_perm(m1, 0, 0x4140), byte_perm(m0, 0, 0x4342), byte_perm(m1, 0, 0x4342)};
    uint4 s = load<uint4>(sums);
    mma_f16(c, a[0], a[1], a[2], a[3], byte_perm(s.x, s.y, 0x5410), byte_perm(s.z, s.w, 0x5410));
    mma_f16(c, a[0], a[1], a[2], a[3], byte_perm(s.x, s.y, 0x7632), byte_perm(s.z, s.w, 0x7632));
}

/// d and dmin of rows g and g + 8 of a Q2_K tile block in shared memory, as products are multiplied with them.
struct Q2Factors {
    float d0, d1, min0, min1;

    DS4_MEMBER explicit Q2Factors(const u8 *block) {
        const u8 *from = block + Layout<Q2_K>::codes + Layout<Q2_K>::scales + threadIdx.x % 32 / 4 * 4;
        u32 e0 = load<u32>(from), e1 = load<u32>(from + 32);
        d0 = half_to_float(u16(e0)), d1 = half_to_float(u16(e1));
        min0 = half_to_float(u16(e0 >> 16)) * -kTiny, min1 = half_to_float(u16(e1 >> 16)) * -kTiny;
    }
};
