// The largest of what eight neighbouring invocations have, through workgroup memory.

var<workgroup> largest_of: array<u32, WG>;

fn largest_of_eight(bits: u32, t: u32) -> u32 {
    workgroupBarrier();
    largest_of[t] = bits;
    workgroupBarrier();
    let first = t / 8u * 8u;
    var largest = 0u;
    for (var i = 0u; i < 8u; i += 1u) {
        largest = max(largest, largest_of[first + i]);
    }
    return largest;
}
