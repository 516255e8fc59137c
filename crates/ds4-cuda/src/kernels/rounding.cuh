// The rounding of cached rows: E4M3 and E2M1 codes under power-of-two scales. As ds4_model::rounding has it, bit for bit.
#pragma once
#include "common.cuh"

/// Nearest E4M3 code of a value within ±448.
DS4_DEVICE u32 e4m3_encode(float x) {
    u32 sign = as_bits(x) >> 31 << 7;
    float magnitude = fminf(fabsf(x), 448.0f);
    if (magnitude < 0.015625f) return sign | u32(round_even(magnitude * 512.0f));
    u32 bits = as_bits(magnitude);
    bits += 0x7FFFFu + (bits >> 20 & 1);
    return sign | ((bits >> 20) - (120u << 3));
}

DS4_DEVICE float e4m3_decode(u32 code) {
    float magnitude = as_float((code & 0x7F) << 20) * as_float(247u << 23);
    return as_float(as_bits(magnitude) | (code >> 7) << 31);
}

/// Nearest E2M1 code (sign in bit 3) of a value within ±6.
DS4_DEVICE u32 e2m1_encode(float x) {
    u32 sign = as_bits(x) >> 31 << 3;
    float m = fminf(fabsf(x), 6.0f);
    u32 code = m < 2.0f ? u32(round_even(m * 2.0f)) : m < 4.0f ? u32(round_even(m)) + 2 : u32(round_even(m * 0.5f)) + 4;
    return sign | code;
}

/// Twice the value of an E2M1 code.
DS4_DEVICE int e2m1_doubled_one(u32 code) {
    u32 m = code & 7;
    int v = m < 4 ? int(m) : m < 6 ? int(m) * 2 - 4 : int(m) * 4 - 16;
    return code & 8 ? -v : v;
}

DS4_DEVICE float e8m0_decode(u32 e) { return as_float(e == 0 ? 1u << 22 : e << 23); }

/// Stores a KV row, a pair of channels per thread (2 i and 2 i + 1 in thread i), and leaves what was stored in the pair.
/// All threads of the warps that hold the row take part; channels behind `dim` are none.
DS4_DEVICE void store_kv_pair(const CacheFormat &f, u8 *row, u32 i, float &a, float &b) {
    u32 channel = 2 * i;
    bool inside = channel < f.dim;
    if (f.exact) {
        if (inside) reinterpret_cast<float *>(row)[channel] = a, reinterpret_cast<float *>(row)[channel + 1] = b;
        return;
    }
    // A group of 64 channels is a warp.
    float most = warp_max(inside ? fmaxf(fabsf(a), fabsf(b)) : 0.0f);
    if (!inside) return;
    if (channel < f.nope) {
        float scale = pow2_at_least(fmaxf(most, 1e-4f) * (1.0f / 448.0f));
        u32 low = e4m3_encode(a / scale), high = e4m3_encode(b / scale);
        *reinterpret_cast<u16 *>(row + channel) = u16(low | high << 8);
        if (channel % 64 == 0) row[f.nope + f.rope * 2 + channel / 64] = u8(as_bits(scale) >> 23);
        a = e4m3_decode(low) * scale, b = e4m3_decode(high) * scale;
    } else {
        // What f16 cannot hold must not become infinite.
        u16 low = float_to_half(fminf(fmaxf(a, -65504.0f), 65504.0f));
        u16 high = float_to_half(fminf(fmaxf(b, -65504.0f), 65504.0f));
        *reinterpret_cast<u32 *>(row + f.nope + (channel - f.nope) * 2) = low | u32(high) << 16;
        a = half_to_float(low), b = half_to_float(high);
    }
}

/// Four channels of a 128-wide row per lane of one warp: 2 l, 2 l + 1, 64 + 2 l, 64 + 2 l + 1. The orthonormal
/// Walsh-Hadamard transform in natural order.
DS4_DEVICE void hadamard_128(float (&v)[4]) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        float a = v[j], b = v[j + 1];
        v[j] = a + b, v[j + 1] = a - b;
    }
    for (int mask = 1; mask < 32; mask *= 2)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float other = shuffle_xor(v[j], mask);
            v[j] = lane & mask ? other - v[j] : v[j] + other;
        }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        float a = v[j], b = v[j + 2];
        v[j] = a + b, v[j + 2] = a - b;
    }
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] *= 0.08838834764831845f;
}

/// E2M1 codes and scales of such a row: `scale[j]` for channels j * 64 + 2 l and the next.
DS4_DEVICE void round_index(float (&v)[4], u32 (&code)[4], float (&scale)[2]) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
        float most = fmaxf(fabsf(v[2 * j]), fabsf(v[2 * j + 1]));
        for (int mask = 8; mask > 0; mask /= 2) most = fmaxf(most, shuffle_xor(most, mask));
        scale[j] = pow2_at_least(fmaxf(most, 6.0f * 1.17549435e-38f) * (1.0f / 6.0f));
        for (int i = 0; i < 2; i++) {
            code[2 * j + i] = e2m1_encode(v[2 * j + i] / scale[j]);
            v[2 * j + i] = 0.5f * float(e2m1_doubled_one(code[2 * j + i])) * scale[j];
        }
    }
}
