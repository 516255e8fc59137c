//! Sampling parameters and stop sequences.

use std::collections::BTreeMap;

use ds4_engine::{MAX_STOP_BYTES, MAX_STOP_SEQUENCES};

use crate::error::ApiError;
use crate::fields::{Field, Object};
use crate::generation::ClientSampling;

/// Largest token limit of a request, as with the hosted service.
pub const MAX_TOKENS: i64 = 393_216;

/// The parameters that have the same names everywhere: temperature, top_p, top_k, min_p, the two penalties and the seed.
///
/// # Errors
/// The first that is out of its range, by name.
pub fn sampling(object: &Object<'_>) -> Result<ClientSampling, ApiError> {
    let number = |name, least, most| object.get(name).map(|field| field.number(least, most)).transpose();
    let top_p = number("top_p", 0.0, 1.0)?;
    if top_p == Some(0.0) {
        return Err(ApiError::invalid(object.path_of("top_p"), "top_p is 0; it must be greater than 0 and at most 1"));
    }
    let top_k = object.get("top_k").map(|field| field.integer(0, i64::from(u32::MAX))).transpose()?;
    let seed = object.get("seed").map(|field| field.integer(0, i64::MAX)).transpose()?;
    Ok(ClientSampling {
        temperature: number("temperature", 0.0, 2.0)?,
        top_p,
        top_k: top_k.and_then(|value| u32::try_from(value).ok()),
        min_p: number("min_p", 0.0, 1.0)?,
        presence_penalty: number("presence_penalty", -2.0, 2.0)?,
        frequency_penalty: number("frequency_penalty", -2.0, 2.0)?,
        seed: seed.and_then(|value| u64::try_from(value).ok()),
        ..ClientSampling::default()
    })
}

/// `logit_bias`: token ids in decimal to numbers from -100 to 100. Whether the ids exist is checked with the vocabulary.
///
/// # Errors
/// A key that is not a token id; a value out of range.
pub fn logit_bias(field: &Field<'_>) -> Result<BTreeMap<u32, f32>, ApiError> {
    let object = field.object()?;
    let mut bias = BTreeMap::new();
    for (key, _) in object.entries() {
        let is_decimal = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
        let token = key.parse::<u32>().ok().filter(|_| is_decimal).ok_or_else(|| {
            field.refused(format!("{} has the key {key:?}, which is not a token id in decimal digits", field.path()))
        })?;
        bias.insert(token, object.required(key)?.number(-100.0, 100.0)?);
    }
    Ok(bias)
}

/// Stop sequences: a string, or an array of strings.
///
/// # Errors
/// Another type, too many, too long, or empty.
pub fn stop(field: &Field<'_>) -> Result<Vec<String>, ApiError> {
    let texts = match field.json().as_str() {
        Some(_) => vec![field.clone()],
        None if field.json().as_array().is_some() => field.array()?,
        None => return Err(field.must_be("a string or an array of strings")),
    };
    if texts.len() > MAX_STOP_SEQUENCES {
        let message =
            format!("{} has {} stop sequences; at most {MAX_STOP_SEQUENCES} are possible", field.path(), texts.len());
        return Err(field.refused(message));
    }
    let text = |field: &Field<'_>| match field.str()? {
        "" => Err(field.refused(format!("{} is empty, which would end every answer before it begins", field.path()))),
        text if text.len() > MAX_STOP_BYTES => {
            Err(field.refused(format!("{} is longer than {MAX_STOP_BYTES} bytes", field.path())))
        }
        text => Ok(text.to_owned()),
    };
    texts.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use ds4_chat::json::Json;

    use super::*;

    #[test]
    fn stop_sequences_come_alone_or_in_a_list() {
        let read = |json: &str| {
            let json = Json::parse(json).expect("valid");
            let object = Object::root(&json).expect("an object");
            stop(&object.get("stop").expect("there")).map_err(|error| error.param.unwrap_or_default())
        };
        assert_eq!(read(r#"{"stop": "a"}"#), Ok(vec!["a".to_owned()]));
        assert_eq!(read(r#"{"stop": ["a", "b"]}"#), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(read(r#"{"stop": []}"#), Ok(vec![]));
        for (json, path) in [
            (r#"{"stop": ""}"#, "stop"),
            (r#"{"stop": ["a", ""]}"#, "stop[1]"),
            (r#"{"stop": 5}"#, "stop"),
            (r#"{"stop": [null]}"#, "stop[0]"),
        ] {
            assert_eq!(read(json), Err(path.to_owned()), "{json}");
        }
        let many = format!("{{\"stop\": [{}]}}", vec!["\"a\""; 17].join(","));
        assert_eq!(read(&many), Err("stop".to_owned()));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let read = |json: &str| {
            let json = Json::parse(json).expect("valid");
            let object = Object::root(&json).expect("an object");
            sampling(&object).map_err(|error| error.param.unwrap_or_default())
        };
        let all = r#"{"temperature": 0, "top_p": 0.5, "top_k": 7.0, "min_p": 0, "presence_penalty": -2, "seed": 9223372036854775807}"#;
        let expected = ClientSampling {
            temperature: Some(0.0),
            top_p: Some(0.5),
            top_k: Some(7),
            min_p: Some(0.0),
            presence_penalty: Some(-2.0),
            seed: Some(i64::MAX as u64),
            ..ClientSampling::default()
        };
        assert_eq!(read(all), Ok(expected));
        for (json, name) in [
            (r#"{"temperature": 2.01}"#, "temperature"),
            (r#"{"temperature": 2.00000001}"#, "temperature"),
            (r#"{"temperature": "1"}"#, "temperature"),
            (r#"{"temperature": 1e999}"#, "temperature"),
            (r#"{"top_p": 0}"#, "top_p"),
            (r#"{"top_k": -1}"#, "top_k"),
            (r#"{"seed": 9223372036854775808}"#, "seed"),
            (r#"{"seed": 1.5}"#, "seed"),
            (r#"{"frequency_penalty": true}"#, "frequency_penalty"),
        ] {
            assert_eq!(read(json), Err(name.to_owned()), "{json}");
        }
    }

    #[test]
    fn biases_are_by_token_id() {
        let read = |json: &str| {
            let json = Json::parse(json).expect("valid");
            let object = Object::root(&json).expect("an object");
            logit_bias(&object.get("logit_bias").expect("there")).map_err(|error| error.message)
        };
        assert_eq!(read(r#"{"logit_bias": {"5": -100, "07": 1.5}}"#), Ok(BTreeMap::from([(5, -100.0), (7, 1.5)])));
        for json in [
            "[]",
            r#"{"a": 1}"#,
            r#"{"+5": 1}"#,
            r#"{"": 1}"#,
            r#"{"5": 101}"#,
            r#"{"5": null}"#,
            r#"{"99999999999": 1}"#,
        ] {
            assert!(read(&format!("{{\"logit_bias\": {json}}}")).is_err(), "{json}");
        }
    }
}
