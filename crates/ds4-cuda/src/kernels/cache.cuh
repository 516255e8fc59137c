// What a batch adds to its sequences: rounded KV rows, compressed rows, indexer rows; then rings and frontiers.
#pragma once
#include "rounding.cuh"

struct Compressor {
    /// Features of the batch [rows][width], position bias [ratio][width], norm weight [dim].
    u64 kv, gate, ape, norm;
    u32 dim, width;
};

struct CacheParams {
    u64 rows, spans, kv, kv_stored, kv_norm, angles, frequencies;
    Compressor attention, indexer;
    LayerPlace place;
    CacheFormat format;
    u32 kind, pairs, has_indexer, overlapping;
    float eps;
    /// Whether the KV rows are final already and only have to be stored.
    u32 forms_only;
};

DS4_DEVICE float2 window_angle(const CacheParams &p, u32 position, u32 pair) {
    double angle = double(float(position) * ptr<const float>(p.frequencies)[p.kind * p.pairs + pair]);
    return {float(cos(angle)), float(sin(angle))};
}

/// Norm, rotation and rounding of the batch row's KV row: channels 2 t and 2 t + 1 in thread t. At least 256 threads.
DS4_DEVICE void round_row(const CacheParams &p, u32 row, float *scratch) {
    u32 t = threadIdx.x, dim = p.format.dim;
    float2 *kv = ptr<float2>(p.kv) + u64(row) * dim / 2;
    bool inside = 2 * t < dim;
    float2 v = {0.0f, 0.0f};
    if (inside) v = kv[t];
    if (!p.forms_only) {
        float sum = block_sum(fmaf(v.x, v.x, v.y * v.y), scratch, 8);
        float scale = 1.0f / sqrtf(sum / float(dim) + p.eps);
        if (inside) {
            const float *norm = ptr<const float>(p.kv_norm);
            v = {v.x * scale * norm[2 * t], v.y * scale * norm[2 * t + 1]};
            if (2 * t >= dim - p.format.rope) {
                float2 a = ptr<const float2>(p.angles)[(u64(row) * 2 + p.kind) * p.pairs + t - (dim - p.format.rope) / 2];
                v = {v.x * a.x - v.y * a.y, v.x * a.y + v.y * a.x};
            }
        }
    }
    store_kv_pair(p.format, ptr<u8>(p.kv_stored) + u64(row) * p.format.kv_stride, t, v.x, v.y);
    // Values written from outside stay what they are: they may not have been through this yet.
    if (inside && !p.forms_only) kv[t] = v;
}

/// A token's value and gate of one channel: from the batch, or from the frontier if it was computed before.
struct Feature {
    float value, gate;
};

DS4_DEVICE Feature batch_feature(const Compressor &c, const Span &span, u32 ratio, u32 position, u32 channel) {
    u64 at = u64(span.first_row + position - span.first_position) * c.width + channel;
    return {ptr<const float>(c.kv)[at], ptr<const float>(c.gate)[at] + ptr<const float>(c.ape)[position % ratio * c.width + channel]};
}

/// Most tokens of a window that overlaps with the one before.
constexpr u32 kMostOverlap = 4;

/// A frontier of overlapping windows: open window [4][2 dim] values, gates; previous first halves [4][dim] values, gates.
struct Overlapping {
    float *kv, *gate, *previous_kv, *previous_gate;
};

DS4_DEVICE Overlapping overlapping_of(float *frontier, u32 dim, u32 ratio) {
    return {frontier, frontier + 2 * ratio * dim, frontier + 4 * ratio * dim, frontier + 5 * ratio * dim};
}

/// Softmax over the gates, weighted sum of the values: one channel of the window that ends at `position`.
DS4_DEVICE float pool_overlapping(const Compressor &c, const Span &span, u32 ratio, const Overlapping &f, u32 position, u32 d) {
    u32 start = position + 1 - ratio;
    Feature slots[2 * kMostOverlap];
    float bias[2 * kMostOverlap];
    // All loads before what is made of them.
#pragma unroll
    for (u32 s = 0; s < 2 * kMostOverlap; s++) {
        slots[s] = {0.0f, -infinity()}, bias[s] = 0.0f;
        if (s >= 2 * ratio) continue;
        bool current = s >= ratio;
        u32 slot = current ? s - ratio : s, channel = current ? c.dim + d : d;
        // Position of the token; windows before the first have none.
        int token = int(start) + int(s) - int(ratio);
        const float *value = f.previous_kv + slot * c.dim + d, *gate = f.previous_gate + slot * c.dim + d;
        if (token >= int(span.first_position)) {
            u64 at = u64(span.first_row + u32(token) - span.first_position) * c.width + channel;
            value = ptr<const float>(c.kv) + at, gate = ptr<const float>(c.gate) + at;
            bias[s] = ptr<const float>(c.ape)[slot * c.width + channel];
        } else if (token >= int(span.first_position / ratio * ratio)) {
            value = f.kv + slot * c.width + channel, gate = f.gate + slot * c.width + channel;
        }
        slots[s] = {*value, *gate};
    }
    float most = -infinity(), sum = 0.0f, weighted = 0.0f;
#pragma unroll
    for (u32 s = 0; s < 2 * kMostOverlap; s++) {
        // Only the batch's gates are without their bias; a zero changes no other.
        slots[s].gate += bias[s];
        most = fmaxf(most, slots[s].gate);
    }
#pragma unroll
    for (u32 s = 0; s < 2 * kMostOverlap; s++) {
        if (s >= 2 * ratio) continue;
        float weight = expf(slots[s].gate - most);
        sum += weight;
        weighted = fmaf(weight, slots[s].value, weighted);
    }
    return weighted / sum;
}

/// A running softmax.
struct Running {
    float most, sum, weighted;
};

DS4_DEVICE void running_push(Running &r, const Feature &f) {
    float most = fmaxf(r.most, f.gate);
    float before = expf(r.most - most), now = expf(f.gate - most);
    r.most = most;
    r.sum = fmaf(r.sum, before, now);
    r.weighted = fmaf(r.weighted, before, now * f.value);
}

/// The running softmax of one channel over the tokens of the window of `position`, up to it.
DS4_DEVICE Running run_window(const Compressor &c, const Span &span, u32 ratio, const float *frontier, u32 position, u32 d) {
    u32 start = position / ratio * ratio;
    Running r = {-infinity(), 0.0f, 0.0f};
    if (start < span.first_position) r = {frontier[d], frontier[c.dim + d], frontier[2 * c.dim + d]}, start = span.first_position;
    for (u32 token = start; token <= position; token++) running_push(r, batch_feature(c, span, ratio, token, d));
    return r;
}

DS4_DEVICE float pool_channel(const CacheParams &p, const Compressor &c, const Span &span, float *frontier, u32 position, u32 d) {
    if (p.overlapping)
        return pool_overlapping(c, span, p.place.ratio, overlapping_of(frontier, c.dim, p.place.ratio), position, d);
    Running r = run_window(c, span, p.place.ratio, frontier, position, d);
    return r.weighted / r.sum;
}

/// The compressed row of the window that ends at this row's position.
DS4_DEVICE void append_compressed(const CacheParams &p, const RowInfo &info, float *scratch) {
    const Compressor &c = p.attention;
    Span span = ptr<const Span>(p.spans)[info.span];
    float *frontier = ptr<float>(span.frontier) + p.place.frontier;
    u32 t = threadIdx.x, window = info.position / p.place.ratio;
    bool inside = 2 * t < c.dim;
    float a = 0.0f, b = 0.0f;
    if (inside) {
        a = pool_channel(p, c, span, frontier, info.position, 2 * t);
        b = pool_channel(p, c, span, frontier, info.position, 2 * t + 1);
    }
    float sum = block_sum(fmaf(a, a, b * b), scratch, 8);
    float scale = 1.0f / sqrtf(sum / float(c.dim) + p.eps);
    if (inside) {
        const float *norm = ptr<const float>(c.norm);
        a = a * scale * norm[2 * t], b = b * scale * norm[2 * t + 1];
        if (2 * t >= c.dim - p.format.rope) {
            float2 r = window_angle(p, window * p.place.ratio, t - (c.dim - p.format.rope) / 2);
            float x = a * r.x - b * r.y, y = a * r.y + b * r.x;
            a = x, b = y;
        }
    }
    u8 *page = ptr<u8>(ptr<const u64>(span.pages)[window / p.place.rows_per_page]);
    u8 *row = page + p.place.page_kv + u64(window % p.place.rows_per_page) * p.format.kv_stride;
    store_kv_pair(p.format, row, t, a, b);
}

/// The indexer row of the window that ends at this row's position: one warp, four channels a lane.
DS4_DEVICE void append_index(const CacheParams &p, const RowInfo &info) {
    if (threadIdx.x >= 32) return;
    const Compressor &c = p.indexer;
    Span span = ptr<const Span>(p.spans)[info.span];
    float *frontier = ptr<float>(span.frontier) + p.place.index_frontier;
    u32 lane = threadIdx.x, window = info.position / p.place.ratio;
    float v[4], sum = 0.0f;
    for (int i = 0; i < 4; i++) {
        v[i] = pool_channel(p, c, span, frontier, info.position, i / 2 * 64 + 2 * lane + i % 2);
        sum = fmaf(v[i], v[i], sum);
    }
    float scale = 1.0f / sqrtf(warp_sum(sum) / float(c.dim) + p.eps);
    const float *norm = ptr<const float>(c.norm);
    u32 tail = c.dim - p.format.rope;
    for (int j = 0; j < 2; j++) {
        u32 channel = j * 64 + 2 * lane;
        float a = v[2 * j] * scale * norm[channel], b = v[2 * j + 1] * scale * norm[channel + 1];
        if (channel >= tail) {
            float2 r = window_angle(p, window * p.place.ratio, (channel - tail) / 2);
            float x = a * r.x - b * r.y, y = a * r.y + b * r.x;
            a = x, b = y;
        }
        v[2 * j] = a, v[2 * j + 1] = b;
    }
    u8 *page = ptr<u8>(ptr<const u64>(span.pages)[window / p.place.rows_per_page]);
    u8 *row = page + p.place.page_index + u64(window % p.place.rows_per_page) * p.format.index_stride;
    if (p.format.exact) {
        float *to = reinterpret_cast<float *>(row);
        for (int j = 0; j < 2; j++) to[j * 64 + 2 * lane] = v[2 * j], to[j * 64 + 2 * lane + 1] = v[2 * j + 1];
        return;
    }
    u32 code[4];
    float group[2];
    hadamard_128(v);
    round_index(v, code, group);
    for (int j = 0; j < 2; j++) {
        row[j * 32 + lane] = u8(code[2 * j] | code[2 * j + 1] << 4);
        if (lane % 16 == 0) row[c.dim / 2 + j * 2 + lane / 16] = u8(as_bits(group[j]) >> 23);
    }
}

/// The batch row's entries, by role: the KV row; the row of attention's compressor if it ends a window; the indexer's.
DS4_DEVICE void append_row(const CacheParams &p, u32 number, u32 role, const RowInfo &info, float *scratch) {
    if (role == 0) {
        round_row(p, number, scratch);
    } else if (p.place.ratio != 0 && (info.position + 1) % p.place.ratio == 0) {
        if (role == 1) append_compressed(p, info, scratch);
        else append_index(p, info);
    }
}

/// Moves a compressor's frontier to the end of the span: one channel per thread at a time.
DS4_DEVICE void move_frontier(const CacheParams &p, const Compressor &c, const Span &span, float *frontier) {
    u32 ratio = p.place.ratio, end = span.first_position + span.len;
    bool closed = end / ratio > span.first_position / ratio;
    for (u32 d = threadIdx.x; d < c.dim; d += blockDim.x) {
        if (!p.overlapping) {
            Running r = {-infinity(), 0.0f, 0.0f};
            if (end % ratio != 0) r = run_window(c, span, ratio, frontier, end - 1, d);
            frontier[d] = r.most, frontier[c.dim + d] = r.sum, frontier[2 * c.dim + d] = r.weighted;
            continue;
        }
        Overlapping f = overlapping_of(frontier, c.dim, ratio);
        if (closed) {
            // The last closed window's first half, before its slots are overwritten.
            Feature half[kMostOverlap];
#pragma unroll
            for (u32 s = 0; s < kMostOverlap; s++) {
                if (s >= ratio) continue;
                u32 token = (end / ratio - 1) * ratio + s;
                half[s] = token >= span.first_position ? batch_feature(c, span, ratio, token, d)
                                                       : Feature{f.kv[s * c.width + d], f.gate[s * c.width + d]};
            }
#pragma unroll
            for (u32 s = 0; s < kMostOverlap; s++)
                if (s < ratio) f.previous_kv[s * c.dim + d] = half[s].value, f.previous_gate[s * c.dim + d] = half[s].gate;
        }
        for (u32 s = 0; s < ratio; s++) {
            u32 token = end / ratio * ratio + s;
            for (u32 channel = d; channel < c.width; channel += c.dim) {
                if (token < end && token >= span.first_position) {
                    Feature v = batch_feature(c, span, ratio, token, channel);
                    f.kv[s * c.width + channel] = v.value, f.gate[s * c.width + channel] = v.gate;
                } else if (token >= end) {
                    f.kv[s * c.width + channel] = 0.0f, f.gate[s * c.width + channel] = -infinity();
                }
            }
        }
    }
}

/// The batch row into the window's ring, or, by its span's last row, a frontier.
DS4_DEVICE void commit_row(const CacheParams &p, u32 number, u32 role, const RowInfo &info) {
    Span span = ptr<const Span>(p.spans)[info.span];
    u32 last = span.first_position + span.len - 1;
    if (role == 0) {
        if (info.position + p.format.window <= last) return;
        const u32 *from = ptr<const u32>(p.kv_stored + u64(number) * p.format.kv_stride);
        u32 *to = ptr<u32>(span.ring + p.place.ring + u64(info.position % p.format.window) * p.format.kv_stride);
        for (u32 i = threadIdx.x; i < p.format.kv_stride / 4; i += blockDim.x) to[i] = from[i];
    } else if (info.position == last) {
        bool attention = role == 1;
        move_frontier(p, attention ? p.attention : p.indexer, span,
                      ptr<float>(span.frontier) + (attention ? p.place.frontier : p.place.index_frontier));
    }
}
