// Attention of HEADS heads of one row over a chunk of CHUNK keys: softmax weights relative to the chunk's largest score, weighted sum of
// the values (which are the keys). Which keys a chunk has follows from the row's position alone, so that results do not depend on the
// batch. The rows' chunks are put together by `attend_merge.wgsl`. grid: (chunks, heads / HEADS, batch rows from first_row).

struct Params {
    first_row: u32,
    /// Words of a sequence's slot; words of a page and offset of the rows there.
    slot_words: u32,
    page_words: u32,
    page_rows: u32,
    rows_per_page: u32,
    window: u32,
    /// 0 without compression.
    ratio: u32,
    /// Whether `selection` says which compressed rows count.
    selecting: u32,
    most_chunks: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read> query: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> kv_stored: array<u32>;
@group(0) @binding(5) var<storage, read> slots: array<u32>;
@group(0) @binding(6) var<storage, read> pages: array<u32>;
@group(0) @binding(7) var<storage, read> selection: array<u32>;
// [batch rows][heads][chunks][HEAD_DIM + 4]: the weighted sum, then largest score and sum of weights.
@group(0) @binding(8) var<storage, read_write> parts: array<vec4<f32>>;

const HEADS: u32 = 8u;
const CHUNK: u32 = 16u;
const SLICES: u32 = 8u;
const QUADS: u32 = HEAD_DIM / 4u;
const ALL: u32 = 0xFFFFFFFFu;
const NEVER: f32 = -3.0e38;

const FROM_BATCH: u32 = 0u;
const FROM_RING: u32 = 1u;
const FROM_PAGE: u32 = 2u;

var<workgroup> key_source: array<u32, CHUNK>;
var<workgroup> key_at: array<u32, CHUNK>;
/// From one staged key to the next: odd, so that keys lie in different banks.
const STEP: u32 = KV_WORDS | 1u;
const KV_PIECES: u32 = (KV_WORDS + 31u) / 32u;

/// The chunk's keys as stored; float32 ones are read where they are.
var<workgroup> stage: array<u32, select(CHUNK * STEP, 1u, EXACT)>;
var<workgroup> part_scores: array<f32, SLICES * HEADS * CHUNK>;
var<workgroup> weights: array<f32, HEADS * CHUNK>;

fn key_word(source: u32, at: u32) -> u32 {
    if (source == FROM_BATCH) {
        return kv_stored[at];
    }
    if (source == FROM_RING) {
        return slots[at];
    }
    return pages[at];
}

/// Channels 4 quad to 4 quad + 3 of a float32 key.
fn exact_quad(k: u32, quad: u32) -> vec4<f32> {
    let source = key_source[k];
    let first = key_at[k] + 4u * quad;
    return bitcast<vec4<f32>>(vec4<u32>(
        key_word(source, first),
        key_word(source, first + 1u),
        key_word(source, first + 2u),
        key_word(source, first + 3u),
    ));
}

/// The same of a staged key.
fn staged_quad(k: u32, quad: u32) -> vec4<f32> {
    let at = k * STEP;
    if (quad < KV_CODES) {
        let group = quad / 16u;
        let exponent = (stage[at + KV_CODES + group / 4u] >> (8u * (group % 4u))) & 0xFFu;
        return e4m3_decode(stage[at + quad]) * bitcast<f32>(exponent << 23u);
    }
    let tail = at + KV_CODES + KV_EXPONENTS + 2u * (quad - KV_CODES);
    return vec4<f32>(half_decode(stage[tail]), half_decode(stage[tail + 1u]));
}

fn quad_of(k: u32, quad: u32) -> vec4<f32> {
    if (EXACT) {
        return exact_quad(k, quad);
    }
    return staged_quad(k, quad);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = p.first_row + block.z;
    // Brings the queries near while it is found out where the keys are: what is loaded here is loaded again below.
    let queries = (row * N_HEAD + block.y * HEADS) * QUADS;
    var near = 0u;
    for (var i = t; i < min(HEADS, N_HEAD - block.y * HEADS) * QUADS; i += WG) {
        near |= bitcast<u32>(query[queries + i].x);
    }
    let position = rows[row].y;
    let span = rows[row].z * 8u;
    let raw = min(position + 1u, p.window);
    var compressed = 0u;
    var listed = false;
    if (p.ratio != 0u) {
        compressed = (position + 1u) / p.ratio;
        if (p.selecting != 0u && selection[row * (TOP_K + 1u)] != ALL) {
            compressed = selection[row * (TOP_K + 1u)];
            listed = true;
        }
    }
    let first_key = block.x * CHUNK;
    if (first_key >= raw + compressed) {
        return;
    }
    let count = min(CHUNK, raw + compressed - first_key);
    if (t < count) {
        let k = first_key + t;
        if (k < raw) {
            let place = position + 1u - raw + k;
            let first_position = tables[span + 3u];
            if (place >= first_position) {
                key_source[t] = FROM_BATCH;
                key_at[t] = (tables[span + 1u] + place - first_position) * KV_WORDS;
            } else {
                key_source[t] = FROM_RING;
                key_at[t] = tables[span] * p.slot_words + place % p.window * KV_WORDS;
            }
        } else {
            var index = k - raw;
            if (listed) {
                index = selection[row * (TOP_K + 1u) + 1u + index];
            }
            let page = tables[tables[span + 4u] + index / p.rows_per_page];
            key_source[t] = FROM_PAGE;
            key_at[t] = page * p.page_words + p.page_rows + index % p.rows_per_page * KV_WORDS;
        }
    }
    workgroupBarrier();
    if (!EXACT) {
        // Each part of 32 invocations copies a key at a time, all its words together.
        for (var k = t / 32u; k < CHUNK; k += WG / 32u) {
            var words: array<u32, KV_PIECES>;
            if (k < count) {
                let source = key_source[k];
                let at = key_at[k];
                for (var j = 0u; j < KV_PIECES; j += 1u) {
                    let w = at + min(t % 32u + 32u * j, KV_WORDS - 1u);
                    if (source == FROM_BATCH) {
                        words[j] = kv_stored[w];
                    } else if (source == FROM_RING) {
                        words[j] = slots[w];
                    } else {
                        words[j] = pages[w];
                    }
                }
            }
            for (var j = 0u; j < KV_PIECES; j += 1u) {
                let w = t % 32u + 32u * j;
                if (w < KV_WORDS) {
                    stage[k * STEP + w] = words[j];
                }
            }
        }
        // Overwritten before it is read; without a use, the loads would be left out.
        weights[t] = bitcast<f32>(near);
        workgroupBarrier();
    }

    let first_head = block.y * HEADS;
    {
        let k = t / SLICES;
        let slice = t % SLICES;
        var acc: array<f32, HEADS>;
        if (k < count || !EXACT) {
            // Queries of two quads are loaded before they are used. The number of quads is a multiple of 2 * SLICES or the second is
            // beyond the end, where a key counts as 0.
            for (var quad = slice; quad < QUADS; quad += 2u * SLICES) {
                let other = min(quad + SLICES, QUADS - 1u);
                var q: array<vec4<f32>, 2u * HEADS>;
                for (var h = 0u; h < HEADS; h += 1u) {
                    let head = (row * N_HEAD + min(first_head + h, N_HEAD - 1u)) * QUADS;
                    q[h] = query[head + quad];
                    q[HEADS + h] = query[head + other];
                }
                let key = quad_of(k, quad);
                let second = select(vec4<f32>(), quad_of(k, other), quad + SLICES < QUADS);
                for (var h = 0u; h < HEADS; h += 1u) {
                    let v = q[h];
                    let w = q[HEADS + h];
                    let sum = fma(v.w, key.w, fma(v.z, key.z, fma(v.y, key.y, fma(v.x, key.x, acc[h]))));
                    acc[h] = fma(w.w, second.w, fma(w.z, second.z, fma(w.y, second.y, fma(w.x, second.x, sum))));
                }
            }
        }
        for (var h = 0u; h < HEADS; h += 1u) {
            part_scores[(slice * HEADS + h) * CHUNK + k] = acc[h];
        }
    }
    workgroupBarrier();
    let h = t / CHUNK;
    let k = t % CHUNK;
    {
        var tree: array<f32, SLICES>;
        for (var s = 0u; s < SLICES; s += 1u) {
            tree[s] = part_scores[(s * HEADS + h) * CHUNK + k];
        }
        let score = ((tree[0] + tree[1]) + (tree[2] + tree[3])) + ((tree[4] + tree[5]) + (tree[6] + tree[7]));
        weights[t] = select(NEVER, score * p.scale, k < count);
    }
    workgroupBarrier();
    var most = NEVER;
    for (var i = 0u; i < CHUNK; i += 1u) {
        most = max(most, weights[h * CHUNK + i]);
    }
    let weight = select(0.0, exp(weights[t] - most), k < count);
    workgroupBarrier();
    weights[t] = weight;
    workgroupBarrier();
    let stride = QUADS + 1u;
    let out = ((block.z * N_HEAD + first_head) * p.most_chunks + block.x) * stride;
    if (k == 0u && first_head + h < N_HEAD) {
        var sum = 0.0;
        for (var i = 0u; i < CHUNK; i += 1u) {
            sum += weights[h * CHUNK + i];
        }
        parts[out + h * p.most_chunks * stride + QUADS] = vec4<f32>(most, sum, 0.0, 0.0);
    }
    // An invocation takes one quad of channels for half of the heads.
    // Keys that a chunk lacks are 0 where they are staged.
    let last = select(CHUNK, count, EXACT);
    for (var item = t; item < QUADS * 2u; item += WG) {
        let quad = item / 2u;
        let half = (item % 2u) * (HEADS / 2u);
        var acc: array<vec4<f32>, HEADS / 2u>;
        for (var i = 0u; i < last; i += 1u) {
            let value = quad_of(i, quad);
            for (var j = 0u; j < HEADS / 2u; j += 1u) {
                acc[j] = fma(vec4<f32>(weights[(half + j) * CHUNK + i]), value, acc[j]);
            }
        }
        for (var j = 0u; j < HEADS / 2u; j += 1u) {
            if (first_head + half + j < N_HEAD) {
                parts[out + (half + j) * p.most_chunks * stride + quad] = acc[j];
            }
        }
    }
}
