// What a card does where the language leaves it open. Bit 0: neighbouring invocations exchange values as `span_sum` assumes. Bit 1:
// float16 becomes float32 exactly, its smallest numbers included.

@group(0) @binding(1) var<storage, read_write> found: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) block: vec3<u32>) {
    // A number that the compiler cannot know: 0 to 1023, most of which are subnormal as float16 bits when shifted down or not.
    let number = block.x * WG + t;
    let both = unpack2x16float(number | ((number | 0x8000u) << 16u));
    let exact = f32(number) * 5.9604644775390625e-08;
    let halves = both.x == exact && both.y == -exact && (number == 0u || exact != 0.0);
    found[number] = select(0u, 1u, neighbours_exchange(t)) | select(0u, 2u, halves);
}
