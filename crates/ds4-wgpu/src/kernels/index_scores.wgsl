// Lightning-indexer scores: sum over heads of weight * max(0, <query, row>). A workgroup takes KEYS compressed rows; each of its TEAMS
// adds up some of the heads, and a fixed tree what they found. grid: (compressed rows / KEYS, batch rows from first_row).

struct Params {
    first_row: u32,
    /// Scores of a row.
    stride: u32,
    page_words: u32,
    page_rows: u32,
    rows_per_page: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
// Queries: doubled int8 codes, or with EXACT float32 bits.
@group(0) @binding(4) var<storage, read> query: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> query_scales: array<f32>;
@group(0) @binding(6) var<storage, read> head_weights: array<f32>;
@group(0) @binding(7) var<storage, read_write> scores: array<f32>;

const GROUPS: u32 = DIM / 32u;
const INDEX_WORDS: u32 = select(DIM / 8u + (GROUPS + 3u) / 4u, DIM, EXACT);
const KEYS: u32 = 32u;
const TEAMS: u32 = WG / KEYS;
const HEADS_EACH: u32 = (IDX_HEADS + TEAMS - 1u) / TEAMS;
/// Words of a row's int8 codes, and from one row to the next in workgroup memory: odd, so that rows lie in different banks.
const WORDS: u32 = DIM / 4u;
const STEP: u32 = WORDS + 1u;

var<workgroup> keys: array<u32, select(KEYS * STEP, 1u, EXACT)>;
var<workgroup> partial: array<f32, WG>;

/// First word of a compressed row.
fn row_at(row: u32, k: u32) -> u32 {
    let page = tables[tables[rows[row].z * 8u + 4u] + k / p.rows_per_page];
    return page * p.page_words + p.page_rows + k % p.rows_per_page * INDEX_WORDS;
}

/// Products of float32 rows, for heads from `first`.
fn exact_score(row: u32, at: u32, first: u32) -> f32 {
    var score = 0.0;
    for (var h = first; h < min(first + HEADS_EACH, IDX_HEADS); h += 1u) {
        let head = row * IDX_HEADS + h;
        var product = 0.0;
        for (var i = 0u; i < DIM / 4u; i += 1u) {
            let q = bitcast<vec4<f32>>(query[head * (DIM / 4u) + i]);
            for (var j = 0u; j < 4u; j += 1u) {
                product = fma(q[j], bitcast<f32>(pages[at + 4u * i + j]), product);
            }
        }
        score = fma(head_weights[head], max(product, 0.0), score);
    }
    return score;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = p.first_row + block.y;
    let visible = (rows[row].y + 1u) / RATIO;
    let first = block.x * KEYS;
    if (visible <= TOP_K || first >= visible) {
        return;
    }
    if (!EXACT) {
        for (var i = t; i < KEYS * WORDS; i += WG) {
            let k = min(first + i / WORDS, visible - 1u);
            let w = i % WORDS;
            let half = (pages[row_at(row, k) + w / 2u] >> (16u * (w % 2u))) & 0xFFFFu;
            let bytes = (half | (half << 8u)) & 0x00FF00FFu;
            keys[i / WORDS * STEP + w] = doubled((bytes | (bytes << 4u)) & 0x0F0F0F0Fu);
        }
        workgroupBarrier();
    }
    let k = t % KEYS;
    let first_head = t / KEYS * HEADS_EACH;
    let at = row_at(row, min(first + k, visible - 1u));
    var score = 0.0;
    if (EXACT) {
        score = exact_score(row, at, first_head);
    } else {
        var key: array<u32, WORDS>;
        for (var i = 0u; i < WORDS; i += 1u) {
            key[i] = keys[k * STEP + i];
        }
        var key_scales: array<f32, GROUPS>;
        for (var g = 0u; g < GROUPS; g += 1u) {
            let exponent = (pages[at + DIM / 8u + g / 4u] >> (8u * (g % 4u))) & 0xFFu;
            // A quarter, because both sides' codes are doubled.
            key_scales[g] = bitcast<f32>(exponent << 23u) * 0.25;
        }
        for (var h = first_head; h < min(first_head + HEADS_EACH, IDX_HEADS); h += 1u) {
            let head = row * IDX_HEADS + h;
            var product = 0.0;
            for (var g = 0u; g < GROUPS; g += 1u) {
                let low = query[head * (DIM / 16u) + 2u * g];
                let high = query[head * (DIM / 16u) + 2u * g + 1u];
                var sum = dot4I8Packed(low.x, key[8u * g]) + dot4I8Packed(low.y, key[8u * g + 1u]);
                sum += dot4I8Packed(low.z, key[8u * g + 2u]) + dot4I8Packed(low.w, key[8u * g + 3u]);
                sum += dot4I8Packed(high.x, key[8u * g + 4u]) + dot4I8Packed(high.y, key[8u * g + 5u]);
                sum += dot4I8Packed(high.z, key[8u * g + 6u]) + dot4I8Packed(high.w, key[8u * g + 7u]);
                product = fma(f32(sum), query_scales[head * GROUPS + g] * key_scales[g], product);
            }
            score = fma(head_weights[head], max(product, 0.0), score);
        }
    }
    partial[t] = score;
    for (var step = TEAMS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if (t < step * KEYS) {
            partial[t] += partial[t + step * KEYS];
        }
    }
    if (t < KEYS && first + t < visible) {
        scores[block.y * p.stride + first + t] = partial[t];
    }
}
