// Token embedding, copied into every stream. grid: (units of a row / WG, rows).

struct Params {
    /// Byte offset of the first row in the binding, bytes of a row.
    base: u32,
    row_bytes: u32,
    /// Tokens that the bound part of the table has.
    first: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> streams: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    prepare_weights(t);
    let u = block.x * WG + t;
    let token = rows[block.y].x;
    if (u >= N_EMBD / UNIT || token < p.first || token - p.first >= p.count) {
        return;
    }
    let unit = load_unit(p.base + (token - p.first) * p.row_bytes, u, N_EMBD / UNIT);
    for (var w = 0u; w < UNIT_VEC4; w += 1u) {
        let values = unit_vec4(unit, w);
        for (var stream = 0u; stream < HC; stream += 1u) {
            streams[(block.y * HC + stream) * (N_EMBD / 4u) + u * UNIT_VEC4 + w] = values;
        }
    }
}
