//! Weights in planes: the layout on cards with memory of their own.
//!
//! A block of the file has scale, codes and minima side by side, at offsets that are no multiple of what a card loads at once. Copied,
//! a matrix row is taken apart: the codes of every group of 32, then the groups' scales, then what eight groups share. Neighbouring
//! lanes then load neighbouring 8 or 16 bytes. No value changes, so results are the same bits as from the file's layout, which
//! stays in use where the file itself is bound.

use crate::shader::Format;

/// Bytes of a format's planes: codes and scales of a group of 32 weights, and what eight groups share.
struct Planes {
    codes: usize,
    scales: usize,
    shared: usize,
}

fn planes(format: Format) -> Option<Planes> {
    let (codes, scales, shared) = match format {
        Format::F32 | Format::F16 | Format::Bf16 => return None,
        Format::Q8_0 => (32, 2, 0),
        Format::Q2K => (8, 2, 4),
        Format::Q4K => (16, 2, 4),
        Format::Iq2Xxs => (8, 0, 6),
        Format::Mxfp4 => (16, 1, 0),
    };
    Some(Planes { codes, scales, shared })
}

/// Bytes of a row of `cols` weights in planes; `None` for formats without blocks, which keep the file's layout.
pub(crate) fn row_bytes(format: Format, cols: usize) -> Option<usize> {
    let p = planes(format)?;
    let groups = cols / 32;
    Some((groups * (p.codes + p.scales) + groups / 8 * p.shared).next_multiple_of(16))
}

/// Takes a row of the file, `row`, apart. `out` has [`row_bytes`] bytes.
pub(crate) fn split(format: Format, row: &[u8], cols: usize, out: &mut [u8]) {
    let Some(p) = planes(format) else { return out.copy_from_slice(row) };
    let groups = cols / 32;
    let (codes, rest) = out.split_at_mut(groups * p.codes);
    let (scales, rest) = rest.split_at_mut(groups * p.scales);
    let (shared, padding) = rest.split_at_mut(groups / 8 * p.shared);
    padding.fill(0);
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => {}
        Format::Q8_0 => {
            for ((block, codes), scale) in
                row.chunks_exact(34).zip(codes.chunks_exact_mut(32)).zip(scales.chunks_exact_mut(2))
            {
                scale.copy_from_slice(&block[..2]);
                codes.copy_from_slice(&block[2..]);
            }
        }
        Format::Mxfp4 => {
            for ((block, codes), scale) in row.chunks_exact(17).zip(codes.chunks_exact_mut(16)).zip(scales) {
                *scale = block[0];
                codes.copy_from_slice(&block[1..]);
            }
        }
        Format::Iq2Xxs => {
            let (steps, shared) = shared.split_at_mut(groups / 8 * 4);
            let blocks = row.chunks_exact(66).zip(codes.chunks_exact_mut(64)).zip(steps.chunks_exact_mut(4));
            for (((block, codes), steps), shared) in blocks.zip(shared.chunks_exact_mut(2)) {
                shared.copy_from_slice(&block[..2]);
                let mut all_steps = 0;
                for (g, (from, to)) in block[2..].chunks_exact(8).zip(codes.chunks_exact_mut(8)).enumerate() {
                    let packed = u32::from_le_bytes([from[4], from[5], from[6], from[7]]);
                    to[..4].copy_from_slice(&from[..4]);
                    to[4..].copy_from_slice(&all_signs(packed).to_le_bytes());
                    all_steps |= packed >> 28 << (4 * g);
                }
                steps.copy_from_slice(&all_steps.to_le_bytes());
            }
        }
        Format::Q2K => {
            let blocks = row.chunks_exact(84).zip(codes.chunks_exact_mut(64)).zip(scales.chunks_exact_mut(16));
            for (((block, codes), scales), shared) in blocks.zip(shared.chunks_exact_mut(4)) {
                scales.copy_from_slice(&block[..16]);
                shared.copy_from_slice(&block[80..]);
                for (g, codes) in codes.chunks_exact_mut(8).enumerate() {
                    let from = &block[16 + g / 4 * 32..][..32];
                    for (i, code) in codes.iter_mut().enumerate() {
                        // Byte i % 4 of word i / 4: four words of the group in its planes.
                        let of_word = |k: usize| (from[i / 4 * 16 + 4 * k + i % 4] >> (2 * (g % 4)) & 3) << (2 * k);
                        *code = of_word(0) | of_word(1) | of_word(2) | of_word(3);
                    }
                }
            }
        }
        Format::Q4K => {
            let blocks = row.chunks_exact(144).zip(codes.chunks_exact_mut(128)).zip(scales.chunks_exact_mut(16));
            for (((block, codes), scales), shared) in blocks.zip(shared.chunks_exact_mut(4)) {
                shared.copy_from_slice(&block[..4]);
                let packed = &block[4..16];
                for (g, (codes, scale)) in codes.chunks_exact_mut(16).zip(scales.chunks_exact_mut(2)).enumerate() {
                    scale.copy_from_slice(&match g {
                        0..4 => [packed[g] & 63, packed[g + 4] & 63],
                        _ => [packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4],
                    });
                    let from = &block[16 + g / 2 * 32..][..32];
                    let shift = g % 2 * 4;
                    for (i, code) in codes.iter_mut().enumerate() {
                        *code = from[i] >> shift & 15 | (from[i + 16] >> shift & 15) << 4;
                    }
                }
            }
        }
    }
}

/// The signs of an IQ2_XXS group: bit w + 8 i for weight 4 w + i. The file has seven of every eight; the last makes their number even.
fn all_signs(packed: u32) -> u32 {
    // Bit 0 of byte i for bit i of the lowest four.
    let spread = |bits: u32| ((bits & 15) * 0x0020_4081) & 0x0101_0101;
    (0..4).fold(0, |signs, octet| {
        let seven = packed >> (7 * octet) & 127;
        let eight = seven | (seven.count_ones() & 1) << 7;
        signs | spread(eight) << (2 * octet) | spread(eight >> 4) << (2 * octet + 1)
    })
}

/// Takes rows apart, many at a time on several threads.
pub(crate) fn split_rows(format: Format, rows: &[u8], row: usize, cols: usize, out: &mut [u8]) {
    /// Bytes that are worth a thread.
    const WORTH: usize = 1 << 20;
    let Some(bytes) = row_bytes(format, cols) else { return out.copy_from_slice(rows) };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(rows.len().div_ceil(WORTH)).max(1);
    let each = (rows.len() / row).div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (rows, out) in rows.chunks(each * row).zip(out.chunks_mut(each * bytes)) {
            let mut work = move || {
                for (row, out) in rows.chunks_exact(row).zip(out.chunks_exact_mut(bytes)) {
                    split(format, row, cols, out);
                }
            };
            if threads == 1 { work() } else { drop(scope.spawn(work)) }
        }
    });
}
