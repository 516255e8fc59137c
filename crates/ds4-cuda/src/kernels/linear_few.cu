// Matrix products of small batches: every weight is read once for up to 32 rows of the batch.
//
// Blocks stay on their multiprocessor and go from unit to unit; their warps bring weights through rings, from before the batch is there
// and across units. The batch's rows are read where they are, most often from the cache next to the multiprocessor.
#include "units.cuh"

struct FewProductsParams {
    SmallProduct products[kMaxProducts];
    Rows x;
    /// Of each product: floats from one row of y to the next, rows of x per row of the batch.
    u32 y_stride[kMaxProducts], x_rows[kMaxProducts];
    u32 units, rows;
};

/// Items of a unit at most, floats from one column of an item's sums to the next (so that lanes store to different banks).
constexpr u32 kFewItems = 16, kFewColumn = 20;

/// Where a lane finds an octet of columns: offsets in codes (or float16), and in the scales of columns 2t and 2t + 1.
struct OctetPlace {
    u32 codes, even, odd;
};

/// Four groups of 32 of an octet of columns: the lane's codes of column g, and scales of columns 2t and 2t + 1.
struct IntegerColumns {
    uint2 code[4];
    float4 even, odd;

    DS4_MEMBER void load_from(const Rows &x, const OctetPlace &at, u32 group) {
        const i8 *q = ptr<const i8>(x.q) + at.codes + group * 32;
#pragma unroll
        for (int i = 0; i < 4; i++) code[i] = load<uint2>(q + i * 32);
        const float *d = ptr<const float>(x.d) + group;
        even = load<float4>(d + at.even), odd = load<float4>(d + at.odd);
    }
};

/// Half a block of Q8_0, staged: four groups.
struct StagedIntegers {
    u32 a[4][4];
    float s0[4], s1[4];

    DS4_MEMBER void load_from(const u8 *stage) {
        u32 lane = threadIdx.x % 32, g = lane / 4;
        uint2 scale0 = load<uint2>(stage + kStepCodes + g * 8), scale1 = load<uint2>(stage + kStepCodes + g * 8 + 64);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint4 codes = load<uint4>(stage + i * 512 + lane * 16);
            a[i][0] = codes.x, a[i][1] = codes.y, a[i][2] = codes.z, a[i][3] = codes.w;
            u32 shift = i % 2 * 16;
            s0[i] = half_to_float(u16((i < 2 ? scale0.x : scale0.y) >> shift));
            s1[i] = half_to_float(u16((i < 2 ? scale1.x : scale1.y) >> shift));
        }
    }
    DS4_MEMBER void add(const IntegerColumns &x, float (&acc)[4]) const {
        float even[4] = {x.even.x, x.even.y, x.even.z, x.even.w}, odd[4] = {x.odd.x, x.odd.y, x.odd.z, x.odd.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int c[4] = {kMagicInt, kMagicInt, kMagicInt, kMagicInt};
            u32 b[2] = {x.code[i].x, x.code[i].y};
            mma_s8(c, a[i], b);
            acc[0] = fmaf(magic_sum(c[0]), s0[i] * even[i], acc[0]);
            acc[2] = fmaf(magic_sum(c[2]), s1[i] * even[i], acc[2]);
            acc[1] = fmaf(magic_sum(c[1]), s0[i] * odd[i], acc[1]);
            acc[3] = fmaf(magic_sum(c[3]), s1[i] * odd[i], acc[3]);
        }
    }
};

/// Two groups of an octet of columns: the lane's float16 of column g, and what they leave of the values.
struct HalfColumns {
    uint4 hi[2], lo[2];

    DS4_MEMBER void load_from(const Rows &x, const OctetPlace &at, u32 group) {
        u32 from = at.codes + group * 32;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            hi[i] = load<uint4>(ptr<const u16>(x.hi) + from + i * 32);
            lo[i] = load<uint4>(ptr<const u16>(x.lo) + from + i * 32);
        }
    }
};

/// A quarter of a block of float16, staged: two groups.
struct StagedHalves {
    uint4 r[2][2];

    DS4_MEMBER void load_from(const u8 *stage) {
        u32 lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < 2; i++)
            r[i][0] = load<uint4>(stage + i * 1024 + lane * 16), r[i][1] = load<uint4>(stage + i * 1024 + 512 + lane * 16);
    }
    DS4_MEMBER void add(const HalfColumns &x, float (&acc)[4]) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint4 &r0 = r[i][0], &r1 = r[i][1];
            mma_f16(acc, r0.x, r1.x, r0.y, r1.y, x.hi[i].x, x.hi[i].y);
            mma_f16(acc, r0.x, r1.x, r0.y, r1.y, x.lo[i].x, x.lo[i].y);
            mma_f16(acc, r0.z, r1.z, r0.w, r1.w, x.hi[i].z, x.hi[i].w);
            mma_f16(acc, r0.z, r1.z, r0.w, r1.w, x.lo[i].z, x.lo[i].w);
        }
    }
};

/// Adds an item's steps, of `GROUPS` groups each, times `octets` octets of columns. Columns are asked for before they are needed: a step ahead
/// where there is one octet, an octet ahead where there are more.
template <class Weights, class Columns, u32 GROUPS, int NT, class Ring, class Fill>
DS4_DEVICE void add_steps(Ring &ring, Fill &&fill, const Rows &x, const OctetPlace (&at)[NT], u32 first, u32 last, u32 octets,
                          float (&acc)[NT][4]) {
    Columns columns[2];
    Weights weights;
    auto take = [&] {
        weights.load_from(ring.take());
        ring.give(fill);
    };
    if constexpr (NT == 1) {
        columns[0].load_from(x, at[0], first * GROUPS);
        // A block is an even number of steps.
#pragma unroll 1
        for (u32 step = first; step < last; step += 2) {
            columns[1].load_from(x, at[0], (step + 1) * GROUPS);
            take();
            weights.add(columns[0], acc[0]);
            if (step + 2 < last) columns[0].load_from(x, at[0], (step + 2) * GROUPS);
            take();
            weights.add(columns[1], acc[0]);
        }
    } else {
#pragma unroll 1
        for (u32 step = first; step < last; step++) {
            columns[0].load_from(x, at[0], step * GROUPS);
            take();
#pragma unroll
            for (int n = 0; n < NT; n++) {
                if (n >= int(octets)) break;
                if (n + 1 < NT && n + 1 < int(octets))
                    columns[(n + 1) % 2].load_from(x, at[n + 1 < NT ? n + 1 : n], step * GROUPS);
                weights.add(columns[n % 2], acc[n]);
            }
        }
    }
}

/// NT: octets of columns at a time. STAGES: of a warp's ring. BUFFERS: places for a unit's sums, so that with two of them a warp may begin the
/// next unit while others finish this one.
template <int NT, int STAGES, int BUFFERS>
DS4_DEVICE void few_units(const FewProductsParams &p) {
    constexpr u32 kItem = NT * 8 * kFewColumn;
    DS4_DYNAMIC_SHARED(memory);
    u32 warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    Share mine = share_of(p.products[0], p.units, blockIdx.x, gridDim.x, div_up(p.rows, NT * 8));
    Cursor ahead = cursor_at(p.products, mine);
    auto fill = [&](u8 *to) { fill_stage(p.products, ahead, to, mine); };
    Ring<STAGES, kStepBytes> ring;
    ring.start(memory + warp * (STAGES * kStepBytes), fill);
    float *parts = reinterpret_cast<float *>(memory + warps * STAGES * kStepBytes);
    wait_for_inputs();

    u32 turn = 0, last = p.rows - 1;
    for (u32 unit = mine.first, index = 0; unit < mine.end; unit += mine.step) {
        while (unit >= p.products[index].unit_end) index++;
        const SmallProduct &product = p.products[index];
        u32 number = unit - product.unit_begin, x_rows = p.x_rows[index];
        u32 group = product.group_rows == 0 ? 0 : number * product.tiles * 16 / product.group_rows;
        bool integers = product.w.type == Q8_0;
        for (u32 first = 0; first < p.rows; first += NT * 8) {
            u32 octets = min_u(NT, div_up(p.rows - first, 8));
            OctetPlace at[NT];
#pragma unroll
            for (int n = 0; n < NT; n++) {
                // Columns behind the last one repeat it; their results are not used.
                u32 column = first + n * 8;
                at[n].codes = (min_u(column + g, last) * x_rows + group) * p.x.blocks * 256 + t * 8;
                at[n].even = (min_u(column + 2 * t, last) * x_rows + group) * p.x.blocks * 8;
                at[n].odd = (min_u(column + 2 * t + 1, last) * x_rows + group) * p.x.blocks * 8;
            }
            float *part = parts + turn * (kFewItems * kItem);
            if (BUFFERS == 2) turn ^= 1;
            for (u32 item = warp; item < items_of(product); item += warps) {
                ItemPlace place = place_of(product, unit, item);
                if (!place.exists) continue;
                float acc[NT][4] = {};
                if (integers)
                    add_steps<StagedIntegers, IntegerColumns, 4>(ring, fill, p.x, at, place.first * 2, place.last * 2, octets, acc);
                else
                    add_steps<StagedHalves, HalfColumns, 2>(ring, fill, p.x, at, place.first * 4, place.last * 4, octets, acc);
                float *to = part + item * kItem + 2 * t * kFewColumn + g;
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    float *column = to + n * 8 * kFewColumn;
                    column[0] = acc[n][0], column[kFewColumn] = acc[n][1];
                    column[8] = acc[n][2], column[kFewColumn + 8] = acc[n][3];
                }
            }
            sync_block();
            // A warp has 32 rows of a column.
            u32 columns = min_u(p.rows - first, NT * 8);
            for (u32 column = warp, pair = 0;; column += warps) {
                while (column >= columns && pair < product.tiles / 2) column -= columns, pair++;
                if (pair >= product.tiles / 2) break;
                u32 out = (number * product.tiles + pair * 2) * 16 + lane;
                if (out >= product.w.rows) continue;
                const float *from = part + (pair * 2 + lane / 16) * product.segments * kItem + column * kFewColumn + lane % 16;
                float values[8], sum;
#pragma unroll
                for (u32 s = 0; s < 8; s++) values[s] = s < product.segments ? from[s * kItem] : 0.0f;
                sum = values[0];
#pragma unroll
                for (u32 s = 1; s < 8; s++)
                    if (s < product.segments) sum += values[s];
                ptr<float>(product.y)[u64(first + column) * p.y_stride[index] + out] = sum * product.scale;
            }
            if (BUFFERS == 1) sync_block();
        }
    }
}

// grid: blocks that share the units of all products; 512 threads, or 256 where shared memory is short. For Q8_0 and F16; up to 8, 16, 32
// columns at a time.
DS4_KERNEL_EARLY(linear_few_8, 512, 1, FewProductsParams) { few_units<1, 4, 2>(p); }
DS4_KERNEL_EARLY(linear_few_16, 512, 1, FewProductsParams) { few_units<2, 3, 2>(p); }
DS4_KERNEL_EARLY(linear_few_32, 512, 1, FewProductsParams) { few_units<4, 3, 1>(p); }
