// Compressed rows of the windows that end in the batch: pooling, norm, rotation, and storing in the page. INDEX: the indexer's
// compressor, whose rows are transformed (Hadamard) and stored as E2M1. grid: (rows); rows that end no window have nothing to do.

struct Params {
    compressor: Compressor,
    norm: u32,
    /// Words of a sequence's slot; words of a page and offset of the rows there.
    slot_words: u32,
    page_words: u32,
    page_rows: u32,
    rows_per_page: u32,
    kind: u32,
    kinds: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> tables: array<u32>;
@group(0) @binding(5) var<storage, read> projected: array<u32>;
@group(0) @binding(6) var<storage, read> slots: array<u32>;
@group(0) @binding(7) var<storage, read_write> pages: array<u32>;

const INDEX_GROUPS: u32 = DIM / 32u;
const INDEX_EXPONENTS: u32 = (INDEX_GROUPS + 3u) / 4u;
const INDEX_WORDS: u32 = select(DIM / 8u + INDEX_EXPONENTS, DIM, EXACT);

var<workgroup> index_scales: array<f32, max(INDEX_GROUPS, 1u)>;

fn store_index_row(t: u32, to: u32) {
    workgroupBarrier();
    if (!EXACT) {
        for (var half = 1u; half < DIM; half *= 2u) {
            for (var i = t; i < DIM / 2u; i += WG) {
                let low = i / half * 2u * half + i % half;
                let a = row_values[low];
                let b = row_values[low + half];
                row_values[low] = a + b;
                row_values[low + half] = a - b;
            }
            workgroupBarrier();
        }
        for (var i = t; i < DIM; i += WG) {
            row_values[i] *= HADAMARD_NORM;
        }
        workgroupBarrier();
        if (t < INDEX_GROUPS) {
            // Six times the smallest normal number.
            var largest = 7.0529664e-38;
            for (var i = 0u; i < 32u; i += 1u) {
                largest = max(largest, abs(row_values[t * 32u + i]));
            }
            index_scales[t] = pow2_at_least(largest * (1.0 / 6.0));
        }
        workgroupBarrier();
    }
    for (var i = t; i < INDEX_WORDS; i += WG) {
        var word = 0u;
        if (EXACT) {
            word = bitcast<u32>(row_values[i]);
        } else if (i < DIM / 8u) {
            let scale = index_scales[i / 4u];
            for (var k = 0u; k < 8u; k += 1u) {
                word |= e2m1_encode(over_pow2(row_values[8u * i + k], scale)) << (4u * k);
            }
        } else {
            for (var k = 0u; k < 4u; k += 1u) {
                let group = (i - DIM / 8u) * 4u + k;
                if (group < INDEX_GROUPS) {
                    word |= (bitcast<u32>(index_scales[group]) >> 23u) << (8u * k);
                }
            }
        }
        pages[to + i] = word;
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let info = rows[block.x];
    let position = info.y;
    if ((position + 1u) % RATIO != 0u) {
        return;
    }
    let span = span_of(info.z);
    let frontier = span.slot * p.slot_words + p.compressor.frontier;
    for (var d = t; d < DIM; d += WG) {
        if (OVERLAPPING) {
            row_values[d] = pool_overlapping(p.compressor, span, frontier, position, d);
        } else {
            let r = run_window(p.compressor, span, frontier, position, d);
            row_values[d] = r.weighted / r.sum;
        }
    }
    norm_and_rotate(t, DIM, p.norm, (block.x * p.kinds + p.kind) * (ROPE / 2u), p.eps);
    let window = position / RATIO;
    let page = tables[span.pages + window / p.rows_per_page];
    let first = page * p.page_words + p.page_rows;
    if (INDEX) {
        store_index_row(t, first + window % p.rows_per_page * INDEX_WORDS);
    } else {
        kv_scales(t);
        let to = first + window % p.rows_per_page * KV_WORDS;
        for (var i = t; i < KV_WORDS; i += WG) {
            pages[to + i] = kv_word(i);
        }
    }
}
