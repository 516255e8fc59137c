// The forms of activations that products need: int8 with scales and sums, float16 in two parts.
#pragma once
#include "common.cuh"

/// A value as a float16 and what that leaves of it.
DS4_DEVICE u32 two_halves(float v) {
    u16 hi = float_to_half(v);
    return hi | u32(float_to_half(v - half_to_float(hi))) << 16;
}

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
        if (column % 32 == 0) ptr<float>(x.d)[at / 32] = d;
        if (column % 16 == 0) ptr<u32>(x.s)[at / 16] = two_halves(d * float(sum));
    }
}
