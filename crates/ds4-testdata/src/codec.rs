//! How a test file is packed: byte planes, then Zstandard, perhaps with another file to refer to.
//!
//! - **Byte planes**: in an array of f32 the high bytes resemble each other and the low bytes are noise.
//!   Storing all first bytes, then all second bytes, and so on lets the entropy coder treat them apart;
//!   it takes about 10 % off float arrays and F16 weights.
//! - **Base file**: two models that differ in their experts only share everything else. The second is
//!   compressed with the first as a prefix, so that the common part costs nothing.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// Compresses `data`, split into `planes` byte planes, with `base` to refer back to.
///
/// The same input gives the same bytes for the same version of the Zstandard library.
///
/// # Errors
/// Those of the Zstandard library (memory).
pub fn pack(data: &[u8], planes: usize, base: Option<&[u8]>) -> io::Result<Vec<u8>> {
    // The window has to span the base as well, so that any byte of it can be referred to.
    let span = data.len() + base.map_or(0, <[u8]>::len);
    let window_log = span.next_power_of_two().ilog2().clamp(10, 27);
    let mut encoder = match base {
        Some(base) => zstd::Encoder::with_ref_prefix(Vec::new(), 22, base)?,
        None => zstd::Encoder::new(Vec::new(), 22)?,
    };
    encoder.window_log(window_log)?;
    encoder.long_distance_matching(base.is_some())?;
    encoder.set_pledged_src_size(Some(data.len() as u64))?;
    encoder.write_all(&split(data, planes))?;
    encoder.finish()
}

/// Undoes [`pack`]. `bytes` is the unpacked length.
///
/// # Errors
/// If `packed` is damaged, needs another base, or does not hold exactly `bytes` bytes.
pub fn unpack(packed: &[u8], bytes: usize, planes: usize, base: Option<&[u8]>) -> io::Result<Vec<u8>> {
    let mut decoder = match base {
        Some(base) => zstd::Decoder::with_ref_prefix(packed, base)?,
        None => zstd::Decoder::with_buffer(packed)?,
    };
    decoder.window_log_max(27)?;
    let mut data = Vec::with_capacity(bytes);
    // One byte more than expected is enough to see that there is too much.
    decoder.take(bytes as u64 + 1).read_to_end(&mut data)?;
    if data.len() != bytes {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unpacks to a length other than the {bytes} bytes that the index gives"),
        ));
    }
    Ok(join(&data, planes))
}

/// SHA-256 of `data` in lower-case hexadecimal.
pub fn sha256_hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Byte `i` of the input goes to plane `i % planes`; the planes follow each other.
fn split(data: &[u8], planes: usize) -> Vec<u8> {
    (0..planes).flat_map(|plane| data.iter().skip(plane).step_by(planes)).copied().collect()
}

/// The inverse of [`split`].
fn join(split: &[u8], planes: usize) -> Vec<u8> {
    let mut data = vec![0; split.len()];
    let mut next = split.iter();
    for plane in 0..planes {
        for (to, from) in data.iter_mut().skip(plane).step_by(planes).zip(&mut next) {
            *to = *from;
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without structure, the same in every run.
    fn noise(len: usize, mut seed: u32) -> Vec<u8> {
        let mut step = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        (0..len).map(|_| step()).collect()
    }

    #[test]
    fn planes_group_bytes_by_their_place_in_the_element() {
        assert_eq!(split(b"aAbBcCd", 2), b"abcdABC");
        assert_eq!(split(b"same", 1), b"same");
    }

    #[test]
    fn packing_is_undone_for_every_length_and_plane_count() {
        for planes in 1..=5 {
            for len in 0..=23 {
                let data = noise(len, 7);
                let packed = pack(&data, planes, None).unwrap();
                assert_eq!(unpack(&packed, len, planes, None).unwrap(), data, "{planes} {len}");
            }
        }
    }

    #[test]
    fn what_a_base_file_holds_already_costs_nothing() {
        let base = noise(300_000, 1);
        let data = [&noise(1000, 2), &base[100_000..], &noise(1000, 3)].concat();
        let packed = pack(&data, 1, Some(&base)).unwrap();
        assert!(packed.len() < 2300, "{} bytes for 2000 new ones", packed.len());
        assert_eq!(unpack(&packed, data.len(), 1, Some(&base)).unwrap(), data);
        let with_other_base = unpack(&packed, data.len(), 1, Some(&noise(300_000, 4)));
        assert!(with_other_base.map_or(true, |got| got != data));
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        let packed = pack(b"twelve bytes", 1, None).unwrap();
        assert!(unpack(&packed, 11, 1, None).is_err());
        assert!(unpack(&packed, 13, 1, None).is_err());
        assert!(unpack(&packed[..packed.len() - 1], 12, 1, None).is_err());
    }
}
