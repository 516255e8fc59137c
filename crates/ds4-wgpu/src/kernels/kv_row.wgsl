// How a KV row lies in device memory, in words. Packed: E4M3 codes of the first NOPE channels, one exponent byte per 64 of them,
// the ROPE rest as float16. Exact: float32.

const KV_CODES: u32 = NOPE / 4u;
const KV_GROUPS: u32 = NOPE / 64u;
const KV_EXPONENTS: u32 = (KV_GROUPS + 3u) / 4u;
const KV_WORDS: u32 = select(KV_CODES + KV_EXPONENTS + ROPE / 2u, HEAD_DIM, EXACT);
