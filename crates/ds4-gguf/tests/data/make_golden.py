#!/usr/bin/env python3
"""Rebuild the decoding vectors of this folder with the `gguf` Python package.

    pip install gguf numpy
    python3 make_golden.py

For each block format `<type>.blocks` holds encoded blocks and `<type>.f32` what the package decodes
them to (little-endian float32). The blocks are random bytes with finite scales, preceded by extreme
ones: all bits clear, all bits set, largest, smallest, negative and subnormal scales.

`activations.*` and `<type>.rows`, `<type>.dot` fix the canonical arithmetic of the integer dot
products: six weight rows of 512 elements per format against one activation row, computed here with
exact rational numbers and one rounding per fused multiply-add. `q8_0.encoded` is what the package
makes of `activations.f32`.
"""
import os
from fractions import Fraction

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import Q4_K, dequantize, quantize

HERE = os.path.dirname(os.path.abspath(__file__))
N_RANDOM = 8
# f16 bit patterns: 0, -0, smallest subnormal, largest subnormal, largest, most negative, 1, -0.5
EXTREME_HALVES = [0x0000, 0x8000, 0x0001, 0x03FF, 0x7BFF, 0xFBFF, 0x3C00, 0xB800]
# type -> (bytes per block, offsets of half-precision scales)
FORMATS = {
    "q8_0": (T.Q8_0, 34, [0]),
    "q2_k": (T.Q2_K, 84, [80, 82]),
    "q4_k": (T.Q4_K, 144, [0, 2]),
    "iq2_xxs": (T.IQ2_XXS, 66, [0]),
    "mxfp4": (T.MXFP4, 17, []),
    "f16": (T.F16, 2, [0]),
    "bf16": (T.BF16, 2, []),
}


def blocks(name, size, halves, rng):
    rows = [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(N_RANDOM)]
    rows += [np.zeros(size, np.uint8), np.full(size, 255, np.uint8)]
    if name == "mxfp4":
        for exponent in (0, 1, 2, 127, 128, 254, 255):
            row = rng.integers(0, 256, size, dtype=np.uint8)
            row[0] = exponent
            rows.append(row)
    for i, pattern in enumerate(EXTREME_HALVES if halves else []):
        row = rng.integers(0, 256, size, dtype=np.uint8)
        for k, at in enumerate(halves):
            other = EXTREME_HALVES[(i + 3 * k) % len(EXTREME_HALVES)]
            row[at : at + 2] = np.frombuffer(np.uint16(other).tobytes(), np.uint8)
        rows.append(row)
    out = np.stack(rows)
    for at in halves:  # make every scale finite: an exponent of all ones loses its lowest bit
        exponent_ones = (out[:, at + 1] & 0x7C) == 0x7C
        out[exponent_ones, at + 1] &= 0xFB
    if name == "bf16":
        out[(out[:, 1] & 0x7F) == 0x7F, 1] &= 0xFE
    return out


def main():
    for seed, (name, (ty, size, halves)) in enumerate(FORMATS.items()):
        raw = blocks(name, size, halves, np.random.default_rng(1000 + seed))
        with np.errstate(over="ignore"):
            y = dequantize(raw, ty).astype("<f4")
        raw.tofile(os.path.join(HERE, name + ".blocks"))
        y.tofile(os.path.join(HERE, name + ".f32"))
        print(f"{name:8} {raw.shape[0]:3} blocks -> {y.size} values")


# --- integer dot products -----------------------------------------------------------------------
ROW = 512
N_ROWS = 6
HALF = np.float16


def save(name, array):
    array.tofile(os.path.join(HERE, name))


def to_f32(x):
    """Nearest float32 of a Fraction, ties to even, by one rounding."""
    if x == 0:
        return np.float32(0)
    sign, x = (-1, -x) if x < 0 else (1, x)
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    if Fraction(2) ** exponent > x:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return np.float32(sign * float(round(x / unit) * unit))  # round() goes to even


def fma(a, b, c):
    return to_f32(Fraction(int(a)) * Fraction(float(b)) + Fraction(float(c)))


def quantize_activations(x):
    q, d = np.zeros(x.size, np.int8), np.zeros(x.size // 32, np.float32)
    for g in range(x.size // 32):
        group = x[32 * g : 32 * g + 32]
        amax = np.abs(group).max()
        if amax == 0:
            continue
        d[g] = amax / np.float32(127)
        scaled = group * (np.float32(127) / amax)
        magnitude = np.floor(np.abs(scaled).astype(np.float64) + 0.5)
        q[32 * g : 32 * g + 32] = (np.sign(scaled) * magnitude).astype(np.int8)
    return q, d


def with_halves(rows, halves):
    rows = rows.copy()
    for at, value in halves.items():
        rows[:, at : at + 2] = np.frombuffer(HALF(value).tobytes(), np.uint8)
    return rows


def parts(name, ty, blocks):
    """Per block of a row and group of 32: integer weights [groups, 32], their scales [groups], and
    the same for minima. The integers come from decoding with scales that are one."""
    f32, groups = np.float32, -1
    half = lambda at: blocks[:, at : at + 2].copy().view(HALF).astype(f32)
    whole = lambda rows: dequantize(rows, ty).reshape(groups, 32).astype(np.int64)
    per_group = lambda x, n: np.repeat(x, n)
    none = (None, None)
    if name == "q8_0":
        return whole(with_halves(blocks, {0: 1})), half(0).ravel(), *none
    if name == "mxfp4":
        unit = blocks.copy()
        unit[:, 0] = 128
        return whole(unit), np.ldexp(f32(1), blocks[:, 0].astype(int) - 128).astype(f32), *none
    if name == "iq2_xxs":
        words = blocks[:, 2:].copy().view("<u4").reshape(-1, 2)
        odd = 2 * (words[:, 1] >> 28).astype(np.int64) + 1
        weights = whole(with_halves(blocks, {0: 8})) // odd[:, None]
        return weights, per_group(half(0), 8) * odd.astype(f32) * f32(0.125), *none
    if name == "q2_k":
        weights = whole(with_halves(blocks, {80: 1, 82: 0}))
        minima = whole(with_halves(blocks, {80: 0, 82: -1}))
        return weights, per_group(half(80), 8), minima, per_group(half(82), 8)
    if name == "q4_k":
        scales, minima = (np.asarray(x).reshape(-1) for x in Q4_K.get_scale_min(blocks[:, 4:16]))
        packed = blocks[:, 16:].reshape(-1, 4, 32)
        weights = np.stack([packed & 15, packed >> 4], axis=2).reshape(groups, 32).astype(np.int64)
        ones = np.ones_like(weights)
        return (weights, per_group(half(0), 8) * scales.astype(f32), ones,
                per_group(half(2), 8) * minima.astype(f32))
    raise ValueError(name)


def dot(name, ty, blocks, q, d):
    weights, scales, minima, min_scales = parts(name, ty, blocks)
    acc = np.float32(0)
    for g in range(ROW // 32):
        x = q[32 * g : 32 * g + 32].astype(np.int64)
        acc = fma((weights[g] * x).sum(), scales[g] * d[g], acc)
        if minima is not None:
            acc = fma((minima[g] * x).sum(), -(min_scales[g] * d[g]), acc)
    return acc


def make_dots():
    rng = np.random.default_rng(7)
    x = rng.standard_normal(ROW).astype(np.float32)
    x[64:96] = 0
    x[5] = 11
    q, d = quantize_activations(x)
    save("activations.f32", x)
    save("activations.q", q)
    save("activations.d", d)
    save("q8_0.encoded", quantize(x, T.Q8_0))
    for name, (ty, size, halves) in FORMATS.items():
        if name in ("f16", "bf16"):
            continue
        per_row = ROW // (32 if size < 64 else 256)
        rows = rng.integers(0, 256, (N_ROWS * per_row, size), dtype=np.uint8)
        for at in halves:
            scale = (rng.standard_normal(len(rows)) * 0.01).astype(HALF)
            rows[:, at : at + 2] = scale[:, None].view(np.uint8)
        if name == "mxfp4":
            rows[:, 0] = rng.integers(115, 131, len(rows))
        out = [dot(name, ty, rows[i * per_row :][:per_row], q, d) for i in range(N_ROWS)]
        save(name + ".rows", rows)
        save(name + ".dot", np.array(out, np.float32))
        print(f"{name:8} {out}")


main()
make_dots()
