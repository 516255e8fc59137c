// Token embeddings, and the rotary angles of a batch.
#include "common.cuh"

struct EmbedParams {
    u64 table, rows, streams;
    u32 type, n_embd, hc, row_bytes;
};

/// The embedding of each row's token, into every stream. The table is as in the file. grid: (columns / 256, rows).
DS4_KERNEL(embed, 256, 4, EmbedParams) {
    u32 row = blockIdx.y, column = blockIdx.x * 256 + threadIdx.x;
    if (column >= p.n_embd) return;
    const u8 *from = ptr<const u8>(p.table) + u64(ptr<const RowInfo>(p.rows)[row].token) * p.row_bytes;
    float v;
    switch (p.type) {
        case F32: v = load<float>(from + column * 4); break;
        case F16: v = half_to_float(load<u16>(from + column * 2)); break;
        case BF16: v = as_float(u32(load<u16>(from + column * 2)) << 16); break;
        default: {  // Q8_0
            const u8 *block = from + column / 32 * 34;
            v = half_to_float(load<u16>(block)) * float(i8(block[2 + column % 32]));
        }
    }
    float *to = ptr<float>(p.streams) + u64(row) * p.hc * p.n_embd + column;
    for (u32 k = 0; k < p.hc; k++) to[k * p.n_embd] = v;
}

struct AnglesParams {
    u64 rows, frequencies, angles;
    u32 pairs, pad;
};

/// Cosine and sine of a position's angle. The angle is a float32 product, as in the published code.
DS4_DEVICE float2 angle_of(u32 position, float frequency) {
    double angle = double(float(position) * frequency);
    return {float(cos(angle)), float(sin(angle))};
}

/// Angles [row][plain, compressed][pair] from frequencies [plain, compressed][pair]. grid: rows.
DS4_KERNEL(angles, 128, 4, AnglesParams) {
    u32 position = ptr<const RowInfo>(p.rows)[blockIdx.x].position;
    for (u32 i = threadIdx.x; i < 2 * p.pairs; i += 128)
        ptr<float2>(p.angles)[u64(blockIdx.x) * 2 * p.pairs + i] = angle_of(position, ptr<const float>(p.frequencies)[i]);
}
