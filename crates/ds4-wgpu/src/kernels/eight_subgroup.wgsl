// The largest of what eight neighbouring invocations have, by exchange inside a subgroup of eight or more.

fn largest_of_eight(bits: u32, t: u32) -> u32 {
    var largest = bits;
    for (var step = 1u; step < 8u; step *= 2u) {
        largest = max(largest, subgroupShuffleXor(largest, step));
    }
    return largest;
}
