//! Every way in which a file can be broken gives a sentence with the file, the byte and what was
//! expected.

mod common;

use common::Raw;
use ds4_gguf::{Error, Gguf};

const F32: u32 = 0;
const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Opens the bytes and returns the message, which must name the file, the byte and end in words.
fn message_at(raw: Raw, byte: usize) -> String {
    let error = Gguf::from_vec("broken.gguf", raw.0).expect_err("the file is broken");
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
    let message = error.to_string();
    let beginning = format!("broken.gguf: at byte {byte}: ");
    assert!(message.starts_with(&beginning), "{message}");
    message
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn empty_file() {
    assert_says(&message_at(Raw::default(), 0), &["empty", "\"GGUF\""]);
}

#[test]
fn wrong_magic() {
    let raw = Raw(b"PK\x03\x04whatever".to_vec());
    assert_says(&message_at(raw, 0), &[r#""PK\x03\x04""#, "not a GGUF file"]);
}

#[test]
fn file_shorter_than_the_magic() {
    let raw = Raw(b"GG".to_vec());
    assert_says(&message_at(raw, 0), &["ends inside the magic", "4 bytes", "2 are left"]);
}

#[test]
fn other_versions() {
    for version in [0, 1, 2, 4, 99] {
        let raw = Raw(b"GGUF".to_vec()).u32(version).u64(0).u64(0);
        let found = format!("version {version} is not supported");
        assert_says(&message_at(raw, 4), &[&found, "version 3 was expected"]);
    }
}

#[test]
fn big_endian_version() {
    let raw = Raw(b"GGUF\0\0\0\x03".to_vec()).u64(0).u64(0);
    assert_says(&message_at(raw, 4), &["big-endian"]);
}

#[test]
fn big_endian_magic() {
    let raw = Raw(b"FUGG\0\0\0\x03".to_vec()).u64(0).u64(0);
    assert_says(&message_at(raw, 0), &["big-endian"]);
}

#[test]
fn file_cut_at_every_byte() {
    let whole = common::valid_file();
    let last = Gguf::from_vec("whole.gguf", whole.clone()).unwrap();
    let last = last.tensor("MXFP4").unwrap();
    for len in 0..(last.offset + last.size) as usize {
        let raw = Raw(whole[..len].to_vec());
        let error = Gguf::from_vec("cut.gguf", raw.0).expect_err("the file is cut");
        let message = error.to_string();
        assert!(message.starts_with("cut.gguf: at byte "), "{message}");
    }
}

#[test]
fn absurd_tensor_count() {
    for count in [u64::MAX, u64::MAX / 32, 1 << 40, 1] {
        let announced = format!("announces {count} tensors");
        let message = message_at(Raw::new(count, 0), 8);
        assert_says(&message, &[&announced, "only 0 bytes are left"]);
    }
}

#[test]
fn absurd_metadata_count() {
    for count in [u64::MAX, 1 << 40, 1] {
        let announced = format!("announces {count} metadata entries");
        assert_says(&message_at(Raw::new(0, count), 16), &[&announced]);
    }
}

#[test]
fn absurd_array_lengths() {
    for (element, count) in [(0, u64::MAX), (8, u64::MAX / 8 + 1), (10, 1 << 61), (7, 100)] {
        let raw = Raw::new(0, 1).key("k", ARRAY).u32(element).u64(count).zeros(64);
        let announced = format!("announces {count} array elements");
        assert_says(&message_at(raw, 41), &[&announced, "64 bytes are left"]);
    }
}

/// A sparse file costs nothing to make and may be larger than memory.
#[test]
fn metadata_that_would_fill_the_memory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for element in [0, 7, STRING] {
        let raw = Raw::new(0, 1).key("k", ARRAY).u32(element).u64(1 << 33);
        std::fs::write(file.path(), raw.0).unwrap();
        if file.as_file().set_len(80 << 30).is_err() {
            return; // this file system has no sparse files
        }
        let error = Gguf::open(file.path()).unwrap_err().to_string();
        assert_says(&error, &["would take more than 268435456 bytes", "at byte "]);
    }
}

#[test]
fn string_past_the_end() {
    for len in [u64::MAX, 1 << 63, 1000] {
        let raw = Raw::new(0, 1).key("k", STRING).u64(len).zeros(16);
        let needed = format!("{len} bytes are needed and 16 are left");
        assert_says(&message_at(raw, 45), &["ends inside a metadata string", &needed]);
    }
}

#[test]
fn key_past_the_end() {
    let raw = Raw::new(0, 1).u64(50).zeros(20);
    assert_says(&message_at(raw, 32), &["ends inside a metadata key", "50 bytes"]);
}

#[test]
fn key_that_is_not_utf8() {
    let raw = Raw::new(0, 1).u64(3).bytes(b"ab\xff").u32(0).zeros(1);
    assert_says(&message_at(raw, 32), &["a metadata key is not valid UTF-8", "number 2"]);
}

#[test]
fn string_that_is_not_utf8() {
    let raw = Raw::new(0, 1).key("k", STRING).u64(2).bytes(b"\xc3(");
    assert_says(&message_at(raw, 45), &["a metadata string is not valid UTF-8"]);
}

#[test]
fn array_string_that_is_not_utf8() {
    let raw = Raw::new(0, 1).key("k", ARRAY).u32(STRING).u64(1).u64(1).bytes(b"\x80");
    assert_says(&message_at(raw, 57), &["not valid UTF-8"]);
}

#[test]
fn tensor_name_that_is_not_utf8() {
    let raw = Raw::new(1, 0).u64(1).bytes(b"\xff").zeros(64);
    assert_says(&message_at(raw, 32), &["a tensor name is not valid UTF-8"]);
}

#[test]
fn duplicate_key() {
    let raw = Raw::new(0, 2).key("k", U32).u32(1).key("k", U32).u32(2);
    assert_says(&message_at(raw, 41), &["metadata key \"k\" occurs a second time"]);
}

#[test]
fn duplicate_tensor() {
    let raw = Raw::new(2, 0).tensor("t", &[1], F32, 0).tensor("t", &[1], F32, 0).pad(32).zeros(32);
    assert_says(&message_at(raw, 82), &["tensor \"t\" occurs a second time"]);
}

#[test]
fn unknown_value_type() {
    for id in [13, 255, u32::MAX] {
        let raw = Raw::new(0, 1).key("k", id).zeros(8);
        let found = format!("\"k\" has the unknown value type {id}");
        assert_says(&message_at(raw, 33), &[&found, "0 to 12"]);
    }
}

#[test]
fn unknown_element_type() {
    let raw = Raw::new(0, 1).key("k", ARRAY).u32(13).u64(0);
    assert_says(&message_at(raw, 37), &["\"k\" has the unknown value type 13"]);
}

#[test]
fn nested_array() {
    let raw = Raw::new(0, 1).key("k", ARRAY).u32(ARRAY).u64(1).u32(U32).u64(0);
    assert_says(&message_at(raw, 37), &["\"k\" holds an array of arrays"]);
}

#[test]
fn boolean_of_two() {
    let raw = Raw::new(0, 1).key("k", 7).bytes(&[2]);
    assert_says(&message_at(raw, 37), &["0 or 1", "this byte is 2"]);
}

#[test]
fn alignment_that_is_no_power_of_two() {
    for alignment in [0u32, 1, 4, 13, 24, 48, 1 << 31, u32::MAX] {
        let raw = Raw::new(0, 1).key("general.alignment", U32).u32(alignment);
        let found = format!("general.alignment is {alignment}; a power of two");
        assert_says(&message_at(raw, 53), &[&found]);
    }
}

#[test]
fn alignment_of_another_type() {
    let raw = Raw::new(0, 1).key("general.alignment", STRING).str("32");
    assert_says(&message_at(raw, 53), &["should hold an integer", "holds a string"]);
}

#[test]
fn tensor_without_dimensions_or_with_five() {
    for rank in [0, 5, u32::MAX] {
        let raw = Raw::new(1, 0).str("t").u32(rank).zeros(64);
        let found = format!("\"t\" has {rank} dimensions; 1 to 4");
        assert_says(&message_at(raw, 33), &[&found]);
    }
}

#[test]
fn dimensions_of_zero_or_below() {
    for n in [0, u64::MAX, 1 << 63] {
        let raw = Raw::new(1, 0).tensor("t", &[4, n], F32, 0);
        let found = format!("dimension 1 of the tensor \"t\" is {n};");
        assert_says(&message_at(raw, 45), &[&found]);
    }
}

#[test]
fn dimensions_whose_product_overflows() {
    let shapes: [&[u64]; 4] = [&[1 << 62, 2], &[1 << 32, 1 << 32], &[1, 1 << 40, 1 << 40, 1 << 40], &[(1 << 63) - 1]];
    for shape in shapes {
        let raw = Raw::new(1, 0).tensor("t", shape, F32, 0).pad(32);
        assert_says(&message_at(raw, 37), &["\"t\" of shape", "larger than any file"]);
    }
}

#[test]
fn row_that_is_not_whole_blocks() {
    for (ty, name, row) in [(8, "32 elements of a Q8_0", 33), (10, "256 elements of a Q2_K", 128)] {
        let raw = Raw::new(1, 0).tensor("t", &[row, 2], ty, 0).pad(32).zeros(4096);
        let have = format!("have {row} elements");
        assert_says(&message_at(raw, 37), &[&have, "not a multiple", name]);
    }
}

#[test]
fn unknown_tensor_type() {
    for id in [2, 14, 31, u32::MAX] {
        let raw = Raw::new(1, 0).tensor("t", &[32], id, 0).pad(32).zeros(64);
        let found = format!("\"t\" has the type number {id}");
        assert_says(&message_at(raw, 45), &[&found, "F32 (0), F16 (1), Q8_0 (8)", "MXFP4 (39)"]);
    }
}

#[test]
fn misaligned_offset() {
    let raw = Raw::new(1, 0).tensor("t", &[1], F32, 4).pad(32).zeros(64);
    assert_says(&message_at(raw, 49), &["offset 4", "\"t\"", "alignment 32"]);
}

#[test]
fn offset_that_obeys_32_but_not_the_files_alignment() {
    let raw = Raw::new(1, 1).key("general.alignment", U32).u32(64);
    let raw = raw.tensor("t", &[1], F32, 32).pad(64).zeros(128);
    assert_says(&message_at(raw, 82), &["offset 32", "alignment 64"]);
}

#[test]
fn data_past_the_end() {
    for offset in [0, 32, 1 << 40, u64::MAX - 31] {
        let raw = Raw::new(1, 0).tensor("t", &[8], F32, offset).pad(32).zeros(31);
        let file_len = raw.len();
        let place = format!("32 bytes from byte {}", u128::from(offset) + 64);
        let has = format!("only {file_len} bytes");
        assert_says(&message_at(raw, 49), &["\"t\"", &place, &has, "incomplete"]);
    }
}

#[test]
fn names_in_messages_are_escaped_and_cut() {
    let name = format!("\x1b[31m{}", "x".repeat(5000));
    let raw = Raw::new(1, 0).tensor(&name, &[0], F32, 0);
    let error = Gguf::from_vec("broken.gguf", raw.0).unwrap_err().to_string();
    assert!(error.len() < 300, "{error}");
    assert_says(&error, &[r"\u{1b}[31mxxx", "…\""]);
}

#[test]
fn directory() {
    let folder = tempfile::tempdir().unwrap();
    let error = Gguf::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NotAFile { .. }));
    assert_says(&error.to_string(), &["a directory, not a file", &folder.path().display().to_string()]);
}

#[test]
fn missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.gguf");
    let error = Gguf::open(&path).unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
    assert_says(&error.to_string(), &["absent.gguf: cannot open: "]);
}

#[test]
fn empty_file_on_disk() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Gguf::open(file.path()).unwrap_err();
    assert_says(&error.to_string(), &["at byte 0: the file is empty"]);
}

/// Opening a pipe for reading would wait until somebody writes to it.
#[cfg(unix)]
#[test]
fn device_or_pipe() {
    let error = Gguf::open("/dev/zero").unwrap_err();
    assert_says(&error.to_string(), &["a device or pipe, not a file"]);
}

#[cfg(unix)]
#[test]
fn unreadable_file() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let none = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(file.path(), none).unwrap();
    if std::fs::File::open(file.path()).is_ok() {
        return; // the superuser reads everything
    }
    let error = Gguf::open(file.path()).unwrap_err();
    assert_says(&error.to_string(), &["cannot open: "]);
}

#[test]
fn overlapping_tensors_are_legal() {
    let raw = Raw::new(2, 0).tensor("a", &[8], F32, 0).tensor("b", &[4], F32, 0).pad(32).zeros(32);
    let gguf = Gguf::from_vec("shared.gguf", raw.0).unwrap();
    let [a, b] = gguf.tensors() else { panic!("two tensors") };
    assert_eq!(gguf.data(a)[..16], *gguf.data(b));
}

/// The last tensor's padding is often missing, and a file without tensors needs no padding at all.
#[test]
fn missing_trailing_padding_is_legal() {
    let raw = Raw::new(1, 0).tensor("t", &[1], F32, 0).pad(32).zeros(4);
    assert_eq!(Gguf::from_vec("t.gguf", raw.0).unwrap().tensors()[0].size, 4);
    let raw = Raw::new(0, 1).key("k", 0).bytes(&[1]);
    assert!(Gguf::from_vec("k.gguf", raw.0).unwrap().tensors().is_empty());
}
