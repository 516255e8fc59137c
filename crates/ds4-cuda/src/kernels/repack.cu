// Weights from the file's layout into tiles of 16 rows and blocks of 256 columns (`weights.cuh`).
//
// Rows and columns behind the last ones become zero. One block of threads writes one tile and block, one byte or word at a time
// per thread: loading is bound by the bus, not by this.
#include "weights.cuh"

struct RepackParams {
    u64 from;
    Weight to;
    /// Bytes of one row in the file; rows of all matrices that `from` holds; row of the first matrix that it begins with.
    u64 row_bytes;
    u32 slab, pad;
};

struct Source {
    const u8 *base;
    u64 row_bytes;
    u32 rows, cols;

    /// The 256 (or 32) element block that holds (row, column), or null behind the end.
    DS4_MEMBER const u8 *block(u32 row, u32 column, u32 elements, u32 bytes) const {
        if (row >= rows || column >= cols) return nullptr;
        return base + u64(row) * row_bytes + u64(column / elements) * bytes;
    }
};

DS4_DEVICE void repack_q8(const Source &s, u32 tile, u32 block, u8 *codes, u8 *scales) {
    for (u32 i = threadIdx.x; i < 4096; i += blockDim.x) {
        u32 group = i / 512, lane = i % 512 / 16, byte = i % 16, part = byte / 4;
        u32 row = tile * 16 + lane / 4 + part % 2 * 8, element = lane % 4 * 8 + part / 2 * 4 + byte % 4;
        const u8 *from = s.block(row, block * 256 + group * 32, 32, 34);
        codes[i] = from ? from[2 + element] : 0;
    }
    for (u32 i = threadIdx.x; i < 128; i += blockDim.x) {
        const u8 *from = s.block(tile * 16 + i / 8, block * 256 + i % 8 * 32, 32, 34);
        reinterpret_cast<u16 *>(scales)[i] = from ? load_u16_unaligned2(from) : 0;
    }
}

/// The 4-bit codes of an element in the source block of its format.
DS4_DEVICE u32 code4(u32 type, const u8 *from, u32 group, u32 element) {
    if (type == MXFP4) return from[1 + element % 16] >> (element / 16 * 4) & 15;
    return from[16 + group / 2 * 32 + element] >> (group % 2 * 4) & 15;
}

DS4_DEVICE void repack_4bit(const Source &s, u32 type, u32 tile, u32 block, u8 *codes, u8 *scales) {
    for (u32 i = threadIdx.x; i < 2048; i += blockDim.x) {
        u32 lane = i % 512 / 16, byte = i % 16, group = i / 512 * 2 + byte / 8;
        u32 row = tile * 16 + lane / 4 + byte / 4 % 2 * 8, element = lane % 4 * 8 + byte % 4;
        u32 column = block * 256 + group * 32;
        const u8 *from = type == MXFP4 ? s.block(row, column, 32, 17) : s.block(row, column, 256, 144);
        codes[i] = from ? u8(code4(type, from, group, element) | code4(type, from, group, element + 4) << 4) : 0;
    }
    if (type == MXFP4) {
        for (u32 i = threadIdx.x; i < 128; i += blockDim.x) {
            const u8 *from = s.block(tile * 16 + i / 8, block * 256 + i % 8 * 32, 32, 17);
            scales[i] = from ? from[0] : 0;
        }
    } else {
        for (u32 i = threadIdx.x; i < 256; i += blockDim.x) {
            const u8 *from = s.block(tile * 16 + i / 16, block * 256, 256, 144);
            scales[i] = from ? from[i % 16] : 0;
        }
    }
}

DS4_DEVICE void repack_q2k(const Source &s, u32 tile, u32 block, u8 *codes, u8 *scales, u8 *extra) {
    for (u32 i = threadIdx.x; i < 1024; i += blockDim.x) {
        u32 half = i / 512, lane = i % 512 / 16, word = i % 16 / 4, byte = i % 4;
        const u8 *from = s.block(tile * 16 + lane / 4 + half * 8, block * 256, 256, 84);
        u32 v = 0;
        // Byte b of the word holds codes b and b + 4 of two groups' octets.
        for (u32 k = 0; from && k < 4; k++) {
            u32 element = (word * 2 + k / 2) * 32 + lane % 4 * 8 + k % 2 * 4 + byte;
            v |= (from[16 + element / 128 * 32 + element % 32] >> (element % 128 / 32 * 2) & 3u) << (2 * k);
        }
        codes[i] = u8(v);
    }
    for (u32 i = threadIdx.x; i < 256; i += blockDim.x) {
        const u8 *from = s.block(tile * 16 + i / 16, block * 256, 256, 84);
        scales[i] = from ? from[i % 16] : 0;
    }
    for (u32 i = threadIdx.x; i < 64; i += blockDim.x) {
        const u8 *from = s.block(tile * 16 + i / 4, block * 256, 256, 84);
        extra[i] = from ? from[80 + i % 4] : 0;
    }
}

/// The signs of eight elements of octet `octet` of a group; the last one makes their number even.
DS4_DEVICE u32 iq2_file_signs(const u8 *block, u32 group, u32 octet) {
    const u8 *b = block + 2 + group * 8 + 4;
    u32 code = (b[0] | b[1] << 8 | b[2] << 16 | u32(b[3]) << 24) >> (7 * octet) & 127;
    return code | (count_bits(code) & 1) << 7;
}

DS4_DEVICE void repack_iq2(const Source &s, u32 tile, u32 block, u8 *codes, u8 *scales, u8 *extra) {
    for (u32 i = threadIdx.x; i < 1024; i += blockDim.x) {
        u32 half = i / 512, lane = i % 512 / 16, byte = i % 16, octet = lane % 4;
        const u8 *from = s.block(tile * 16 + lane / 4 + half * 8, block * 256, 256, 66);
        u32 v = 0;
        if (from && byte < 8) v = from[2 + byte * 8 + octet];
        if (from && byte >= 8) {
            // Elements 2 (byte % 4) and the next, of four groups.
            for (u32 k = 0; k < 4; k++) {
                u32 signs = iq2_file_signs(from, (byte - 8) / 4 * 4 + k, octet) >> (byte % 4 * 2);
                v |= (signs & 1) << k | (signs >> 1 & 1) << (4 + k);
            }
        }
        codes[i] = u8(v);
    }
    for (u32 i = threadIdx.x; i < 16; i += blockDim.x) {
        const u8 *from = s.block(tile * 16 + i, block * 256, 256, 66);
        u32 v = 0;
        for (u32 group = 0; from && group < 8; group++) v |= u32(from[2 + group * 8 + 7] >> 4) << (4 * group);
        reinterpret_cast<u32 *>(scales)[i] = v;
        reinterpret_cast<u16 *>(extra)[i] = from ? load_u16_unaligned2(from) : 0;
    }
}

DS4_DEVICE void repack_f16(const Source &s, u32 tile, u32 block, u8 *codes) {
    for (u32 i = threadIdx.x; i < 4096; i += blockDim.x) {
        u32 group = i / 512, half = i % 512 / 256, lane = i % 256 / 8, element = i % 8;
        u32 row = tile * 16 + half * 8 + lane / 4, column = block * 256 + group * 32 + lane % 4 * 8 + element;
        const u8 *from = s.block(row, column, 1, 2);
        reinterpret_cast<u16 *>(codes)[i] = from ? load<u16>(from) : 0;
    }
}

/// grid: (blocks, tiles, matrices); 128 threads.
DS4_KERNEL(repack, 128, 8, RepackParams) {
    u32 block = blockIdx.x, tile = blockIdx.y, matrix = blockIdx.z;
    const Weight &w = p.to;
    Source s = {ptr<const u8>(p.from) + u64(matrix) * w.rows * p.row_bytes, p.row_bytes, w.rows, w.cols};
    u64 at = u64(tile) * w.blocks + block, slab = p.slab + matrix;
    u8 *codes = ptr<u8>(w.codes) + slab * w.slab_codes, *scales = ptr<u8>(w.scales) + slab * w.slab_scales;
    u8 *extra = ptr<u8>(w.extra) + slab * w.slab_extra;
    switch (w.type) {
        case Q8_0: repack_q8(s, tile, block, codes + at * Layout<Q8_0>::codes, scales + at * Layout<Q8_0>::scales); break;
        case Q4_K: repack_4bit(s, Q4_K, tile, block, codes + at * Layout<Q4_K>::codes, scales + at * Layout<Q4_K>::scales); break;
        case MXFP4: repack_4bit(s, MXFP4, tile, block, codes + at * Layout<MXFP4>::codes, scales + at * Layout<MXFP4>::scales); break;
        case Q2_K:
            repack_q2k(s, tile, block, codes + at * Layout<Q2_K>::codes, scales + at * Layout<Q2_K>::scales,
                       extra + at * Layout<Q2_K>::extra);
            break;
        case IQ2_XXS:
            repack_iq2(s, tile, block, codes + at * Layout<IQ2_XXS>::codes, scales + at * Layout<IQ2_XXS>::scales,
                       extra + at * Layout<IQ2_XXS>::extra);
            break;
        default: repack_f16(s, tile, block, codes + at * Layout<F16>::codes);
    }
}
