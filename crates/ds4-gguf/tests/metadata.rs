//! Typed access to metadata.

mod common;

use ds4_gguf::{Array, Error, Gguf, Metadata, OptionalKey, Value};

fn metadata() -> Metadata {
    let gguf = Gguf::from_vec("valid.gguf", common::valid_file()).unwrap();
    gguf.metadata().clone()
}

#[test]
fn integers_are_read_whatever_their_width() {
    let m = metadata();
    let unsigned = [("key.0", 1), ("key.2", 2), ("key.4", 3), ("key.9", 4)];
    for (key, value) in unsigned {
        assert_eq!(m.u32(key).unwrap(), value);
        assert_eq!(m.u64(key).unwrap(), u64::from(value));
    }
    for (key, value) in [("key.1", -1), ("key.3", -2), ("key.5", -3), ("key.10", -4)] {
        assert_eq!(m.i32(key).unwrap(), value);
        let message = m.u32(key).unwrap_err().to_string();
        let expected = format!(
            "valid.gguf: the metadata key \"{key}\" holds {value}, which does not fit an unsigned \
             32-bit integer"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn integers_that_do_not_fit_are_errors() {
    let mut m = Metadata::new("x");
    m.insert("big", Value::U64(1 << 32));
    assert!(matches!(m.u32("big"), Err(Error::OutOfRange { .. })));
    assert_eq!(m.u64("big").unwrap(), 1 << 32);
    m.insert("bigs", Value::Array(Array::I64(vec![1, -1])));
    assert!(matches!(m.u32_array("bigs"), Err(Error::OutOfRange { .. })));
    assert_eq!(m.i32_array("bigs").unwrap(), [1, -1]);
}

#[test]
fn floats_booleans_and_strings() {
    let m = metadata();
    assert_eq!(m.f32("key.6").unwrap(), 0.5);
    assert_eq!(m.f32("key.11").unwrap(), 0.25);
    assert!(m.bool("key.7").unwrap());
    assert_eq!(m.str("key.8").unwrap(), "text");
    assert_eq!(m.f32_array("key.14").unwrap(), [10.0; 3]);
    assert_eq!(m.u32_array("key.13").unwrap(), [0, 4, 128]);
}

#[test]
fn string_arrays_iterate_and_index() {
    let m = metadata();
    let strings = m.str_array("key.16").unwrap();
    let all: Vec<&str> = strings.iter().collect();
    assert_eq!(all, ["a", "", "Ünïcode"]);
    assert_eq!(strings.iter().len(), 3);
    assert_eq!((strings.get(2), strings.get(3)), (Some("Ünïcode"), None));
}

#[test]
fn missing_and_wrong_type_are_told_apart() {
    let m = metadata();
    assert!(matches!(m.f32("absent"), Err(Error::MissingKey { .. })));
    assert!(matches!(m.f32("absent").optional(), Ok(None)));
    assert!(matches!(m.f32("key.8"), Err(Error::WrongType { .. })));
    assert!(matches!(m.f32("key.8").optional(), Err(Error::WrongType { .. })));
    // An integer is not silently taken for a float, nor a float for an integer.
    assert!(m.f32("key.4").is_err() && m.u32("key.6").is_err() && m.bool("key.0").is_err());
    let message = m.str_array("key.13").unwrap_err().to_string();
    assert_eq!(
        message,
        "valid.gguf: the metadata key \"key.13\" should hold an array of strings, but it holds \
         an array of signed 32-bit integers"
    );
}

#[test]
fn order_and_unknown_keys_are_kept() {
    let m = metadata();
    let keys: Vec<&str> = m.iter().map(|(key, _)| key).collect();
    let expected: Vec<String> = (0..18).map(|i| format!("key.{i}")).collect();
    assert_eq!(keys, expected);
}

#[test]
fn insert_replaces_in_place() {
    let mut m = Metadata::new("x");
    m.insert("a", Value::U8(1));
    m.insert("b", Value::U8(2));
    assert_eq!(m.insert("a", Value::U8(3)), Some(Value::U8(1)));
    assert_eq!((m.len(), m.u32("a").unwrap()), (2, 3));
    assert_eq!(m.iter().next().unwrap().0, "a");
}
