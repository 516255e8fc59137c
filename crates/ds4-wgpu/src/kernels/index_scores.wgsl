// Lightning-indexer scores: sum over heads of weight * max(0, <query, row>). An invocation takes one compressed row.
// grid: (compressed rows / WG, batch rows from first_row).

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
@group(0) @binding(4) var<storage, read> query: array<u32>;
@group(0) @binding(5) var<storage, read> query_scales: array<f32>;
@group(0) @binding(6) var<storage, read> head_weights: array<f32>;
@group(0) @binding(7) var<storage, read_write> scores: array<f32>;

const GROUPS: u32 = DIM / 32u;
const INDEX_WORDS: u32 = select(DIM / 8u + (GROUPS + 3u) / 4u, DIM, EXACT);
const KEY_WORDS: u32 = select(DIM / 4u, DIM, EXACT);

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let k = block.x * WG + t;
    let row = p.first_row + block.y;
    let visible = (rows[row].y + 1u) / RATIO;
    if (visible <= TOP_K || k >= visible) {
        return;
    }
    let page = tables[tables[rows[row].z * 8u + 4u] + k / p.rows_per_page];
    let at = page * p.page_words + p.page_rows + k % p.rows_per_page * INDEX_WORDS;
    var key: array<u32, KEY_WORDS>;
    var key_scales: array<f32, GROUPS>;
    for (var i = 0u; i < KEY_WORDS; i += 1u) {
        if (EXACT) {
            key[i] = pages[at + i];
        } else {
            let half = pages[at + i / 2u] >> (16u * (i % 2u));
            key[i] = pack4xI8(vec4<i32>(
                e2m1_doubled(half & 15u),
                e2m1_doubled((half >> 4u) & 15u),
                e2m1_doubled((half >> 8u) & 15u),
                e2m1_doubled((half >> 12u) & 15u),
            ));
        }
    }
    if (!EXACT) {
        for (var g = 0u; g < GROUPS; g += 1u) {
            let exponent = (pages[at + DIM / 8u + g / 4u] >> (8u * (g % 4u))) & 0xFFu;
            // A quarter, because both sides' codes are doubled.
            key_scales[g] = bitcast<f32>(exponent << 23u) * 0.25;
        }
    }
    var score = 0.0;
    for (var h = 0u; h < IDX_HEADS; h += 1u) {
        let head = row * IDX_HEADS + h;
        var product = 0.0;
        if (EXACT) {
            for (var i = 0u; i < DIM; i += 1u) {
                product = fma(bitcast<f32>(query[head * DIM + i]), bitcast<f32>(key[i]), product);
            }
        } else {
            for (var g = 0u; g < GROUPS; g += 1u) {
                var sum = 0i;
                for (var i = 0u; i < 8u; i += 1u) {
                    sum += dot4I8Packed(query[head * (DIM / 4u) + g * 8u + i], key[g * 8u + i]);
                }
                product = fma(f32(sum), query_scales[head * GROUPS + g] * key_scales[g], product);
            }
        }
        score = fma(head_weights[head], max(product, 0.0), score);
    }
    scores[block.y * p.stride + k] = score;
}
