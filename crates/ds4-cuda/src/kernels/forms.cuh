// The forms of activations that products need: int8 with scales and sums, float16 in two parts.
#pragma once
#include "common.cuh"

/// A value as a float16 and what that leaves of it.
DS4_DEVICE u32 two_halves(float v) {
    u16 hi = float_to_half(v);
    return hi | u32(float_to_half(v - half_to_float(hi))) << 16;
}

/// Where the code of column `column` is among the turned ones: within a group of 32, the first halves of the four octets come before the
/// second ones, so that a matrix instruction's lane t has its codes in the order in which it has the weights (`weights.cuh`).
DS4_DEVICE u32 turned_place(u32 column) { return column / 32 * 32 + column % 8 / 4 * 16 + column % 32 / 8 * 4 + column % 4; }

/// Writes the forms of 32 consecutive values of a row, one per lane of a warp. `column`: of this lane.
DS4_DEVICE void emit_forms(const Rows &x, u32 row, u32 column, float v, bool integers, bool halves) {
    u64 at = u64(row) * x.blocks * 256 + column;
    if (halves) {
        u16 hi = float_to_half(v);
        ptr<u16>(x.hi)[at] = hi;
        ptr<u16>(x.lo)[at] = float_to_half(v - half_to_float(hi));
    }
    if (integers) {
        float amax = fabsf(v);
        for (int mask = 16; mask > 0; mask /= 2) amax = max_magnitude(amax, shuffle_xor(amax, mask));
        float d, id;
        group_scale(amax, d, id);
        int code = id == 0.0f ? 0 : quantize_code(v, id);
        int sum = code;
        for (int mask = 8; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
        ptr<i8>(x.q)[at] = i8(code);
        if (x.turned != 0) ptr<i8>(x.turned)[at - column + turned_place(column)] = i8(code);
        if (column % 32 == 0) ptr<float>(x.d)[at / 32] = d;
        if (column % 16 == 0) ptr<u32>(x.s)[at / 16] = two_halves(d * float(sum));
    }
}

/// Writes the forms of a lane's eight consecutive values; four lanes have a group of 32. `at`: of the first among all padded
/// columns. The whole warp takes part; only lanes with `write` write.
DS4_DEVICE void emit_eight(const Rows &x, u64 at, const float (&v)[8], bool integers, bool halves, bool write = true) {
    if (halves && write) {
        u32 hi[4], lo[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            u32 a = two_halves(v[2 * k]), b = two_halves(v[2 * k + 1]);
            hi[k] = byte_perm(a, b, 0x5410), lo[k] = byte_perm(a, b, 0x7632);
        }
        *reinterpret_cast<uint4 *>(ptr<u16>(x.hi) + at) = {hi[0], hi[1], hi[2], hi[3]};
        *reinterpret_cast<uint4 *>(ptr<u16>(x.lo) + at) = {lo[0], lo[1], lo[2], lo[3]};
    }
    if (!integers) return;
    float amax = fabsf(v[0]);
#pragma unroll
    for (int k = 1; k < 8; k++) amax = max_magnitude(amax, v[k]);
    amax = max_magnitude(amax, shuffle_xor(amax, 1));
    amax = max_magnitude(amax, shuffle_xor(amax, 2));
    float d, id;
    group_scale(amax, d, id);
    u32 codes[2] = {};
    int sum = 0;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        int code = id == 0.0f ? 0 : quantize_code(v[k], id);
        sum += code;
        codes[k / 4] |= u32(code & 0xFF) << (k % 4 * 8);
    }
    sum += shuffle_xor(sum, 1);
    if (!write) return;
    *reinterpret_cast<uint2 *>(ptr<i8>(x.q) + at) = {codes[0], codes[1]};
    if (x.turned != 0) {
        u32 *to = ptr<u32>(x.turned) + at / 32 * 8 + at % 32 / 8;
        to[0] = codes[0], to[4] = codes[1];
    }
    if (at % 32 == 0) ptr<float>(x.d)[at / 32] = d;
    if (at % 16 == 0) ptr<u32>(x.s)[at / 16] = two_halves(d * float(sum));
}

/// Eight consecutive values of a row of `cols`, from column `column` on; zero behind the last.
DS4_DEVICE void load_eight(const float *row, u32 column, u32 cols, float (&v)[8]) {
    if (column + 8 <= cols && reinterpret_cast<u64>(row + column) % 16 == 0) {
        float4 a = load<float4>(row + column), b = load<float4>(row + column + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        return;
    }
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = column + k < cols ? row[column + k] : 0.0f;
}
