//! Any text as JSON: a value or an error with a place; a value is the same after it was written and read again.

#![no_main]

use ds4_chat::json::Json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(value) = Json::parse(text) else { return };
    let written = value.to_string();
    // A number beyond float64 is written as Python writes it: Infinity.
    let again = Json::parse_python(&written).expect("what was written can be read");
    assert!(again == value, "{written}");
    assert!(Json::parse_python(text).is_ok());
});
