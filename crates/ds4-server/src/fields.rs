//! Reading the fields of a request: each with its path, so that every refusal names what is wrong where.

use std::cell::RefCell;

use ds4_chat::json::Json;

use crate::error::ApiError;

/// An object of a request. It remembers which fields were asked for, so that the others can be named in a trace.
#[derive(Debug)]
pub struct Object<'a> {
    entries: &'a [(String, Json)],
    path: String,
    read: RefCell<Vec<bool>>,
}

impl<'a> Object<'a> {
    /// The request itself.
    ///
    /// # Errors
    /// It is not an object.
    pub fn root(json: &'a Json) -> Result<Self, ApiError> {
        match json {
            Json::Object(entries) => Ok(Self::new(entries, String::new())),
            other => Err(ApiError::new(
                crate::ErrorKind::Invalid,
                format!("the request body must be a JSON object, but it is {}", kind_of(other)),
            )),
        }
    }

    fn new(entries: &'a [(String, Json)], path: String) -> Self {
        Self { read: RefCell::new(vec![false; entries.len()]), entries, path }
    }

    /// A field; `None` if it is absent or null.
    pub fn get(&self, name: &str) -> Option<Field<'a>> {
        #[cfg(test)]
        if self.path.is_empty() {
            ASKED.with_borrow_mut(|asked| asked.insert(name.to_owned()));
        }
        let index = self.entries.iter().position(|(key, _)| key == name)?;
        if let Some(read) = self.read.borrow_mut().get_mut(index) {
            *read = true;
        }
        let value = &self.entries[index].1;
        (!value.is_null()).then(|| Field { value, path: self.path_of(name) })
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// It is absent or null.
    pub fn required(&self, name: &str) -> Result<Field<'a>, ApiError> {
        self.get(name).ok_or_else(|| {
            let path = self.path_of(name);
            ApiError::invalid(path.clone(), format!("the field {path} is missing"))
        })
    }

    /// The path of a field.
    pub fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The object's own path; empty for the request itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its entries in order.
    pub fn entries(&self) -> &'a [(String, Json)] {
        self.entries
    }

    /// Paths of the fields that nobody asked for.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        let entries = self.entries.iter().zip(read.iter());
        entries.filter(|(_, read)| !**read).map(|((name, _), _)| self.path_of(name)).collect()
    }
}

#[cfg(test)]
thread_local! {
    /// Fields of requests themselves that were asked for on this thread.
    static ASKED: RefCell<std::collections::BTreeSet<String>> = const { RefCell::new(std::collections::BTreeSet::new()) };
}

/// Which fields of requests themselves `read` asks for, so that tests can compare them with what is documented.
#[cfg(test)]
pub(crate) fn asked<T>(read: impl FnOnce() -> T) -> (std::collections::BTreeSet<String>, T) {
    ASKED.take();
    let done = read();
    (ASKED.take(), done)
}

/// A value with its path. It is not null.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    value: &'a Json,
    path: String,
}

impl<'a> Field<'a> {
    /// A value that was made of the request's field at `path`.
    pub fn at(value: &'a Json, path: impl Into<String>) -> Self {
        Self { value, path: path.into() }
    }

    /// Its path, such as `messages[3].content`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value as it is.
    pub fn json(&self) -> &'a Json {
        self.value
    }

    /// A refusal of this value: "PATH must be EXPECTED, but it is …".
    pub fn must_be(&self, expected: &str) -> ApiError {
        ApiError::invalid(
            self.path.clone(),
            format!("{} must be {expected}, but it is {}", self.path, kind_of(self.value)),
        )
    }

    /// A refusal of this value with a sentence of its own.
    pub fn refused(&self, message: impl Into<String>) -> ApiError {
        ApiError::invalid(self.path.clone(), message)
    }

    /// A string.
    ///
    /// # Errors
    /// It is something else. The same goes for the other readers below.
    pub fn str(&self) -> Result<&'a str, ApiError> {
        self.value.as_str().ok_or_else(|| self.must_be("a string"))
    }

    /// `true` or `false`.
    #[allow(clippy::missing_errors_doc)] // see `str`
    pub fn bool(&self) -> Result<bool, ApiError> {
        self.value.as_bool().ok_or_else(|| self.must_be("true or false"))
    }

    /// An object.
    #[allow(clippy::missing_errors_doc)] // see `str`
    pub fn object(&self) -> Result<Object<'a>, ApiError> {
        match self.value {
            Json::Object(entries) => Ok(Object::new(entries, self.path.clone())),
            _ => Err(self.must_be("an object")),
        }
    }

    /// The elements of an array; null elements are an error.
    #[allow(clippy::missing_errors_doc)] // see `str`
    pub fn array(&self) -> Result<Vec<Field<'a>>, ApiError> {
        let Json::Array(items) = self.value else { return Err(self.must_be("an array")) };
        let field = |(index, value): (usize, &'a Json)| {
            let field = Field { value, path: format!("{}[{index}]", self.path) };
            if value.is_null() { Err(field.must_be("a value")) } else { Ok(field) }
        };
        items.iter().enumerate().map(field).collect()
    }

    /// An integer from `least` to `most`; `1.0` counts as 1.
    #[allow(clippy::missing_errors_doc)] // see `str`
    pub fn integer(&self, least: i64, most: i64) -> Result<i64, ApiError> {
        let expected = || self.must_be(&format!("an integer from {least} to {most}"));
        let Json::Number(spelling) = self.value else { return Err(expected()) };
        let value = match spelling.parse::<i64>() {
            Ok(value) => value,
            // A float with an integer's value, or an integer that is out of range anyway.
            Err(_) => match spelling.parse::<f64>() {
                Ok(value) if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 => value as i64,
                _ => return Err(expected()),
            },
        };
        if (least..=most).contains(&value) { Ok(value) } else { Err(expected()) }
    }

    /// A number from `least` to `most`.
    #[allow(clippy::missing_errors_doc)] // see `str`
    pub fn number(&self, least: f32, most: f32) -> Result<f32, ApiError> {
        let value = match self.value {
            Json::Number(spelling) => spelling.parse::<f64>().ok(),
            _ => None,
        };
        // Compared as it was sent: rounding must not bring a value into the range.
        match value {
            Some(value) if (f64::from(least)..=f64::from(most)).contains(&value) => Ok(value as f32),
            _ => Err(self.must_be(&format!("a number from {least} to {most}"))),
        }
    }
}

/// What a value is, for a sentence.
fn kind_of(value: &Json) -> String {
    const SHOWN: usize = 40;
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(value) => value.to_string(),
        Json::Number(spelling) if spelling.len() <= SHOWN => spelling.clone(),
        Json::Number(spelling) => format!("a number of {} characters", spelling.len()),
        Json::String(text) if text.is_empty() => "an empty string".to_owned(),
        Json::String(text) if text.chars().count() <= SHOWN => format!("the string {text:?}"),
        Json::String(_) => "a longer string".to_owned(),
        Json::Array(items) if items.is_empty() => "an empty array".to_owned(),
        Json::Array(_) => "an array".to_owned(),
        Json::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_what_javascript_takes_for_integers() {
        let json = Json::parse(
            r#"{"a": 1, "b": 1.0, "c": -0, "d": 1.5, "e": 1e999, "f": 18446744073709551616, "g": "5", "h": true, "i": 1e3}"#,
        )
        .expect("valid");
        let object = Object::root(&json).expect("an object");
        let read = |name| object.required(name).and_then(|field| field.integer(-5, 1000));
        for (name, expected) in [("a", 1), ("b", 1), ("c", 0), ("i", 1000)] {
            assert_eq!(read(name).expect(name), expected);
        }
        for name in ["d", "e", "f", "g", "h"] {
            let error = read(name).expect_err(name);
            assert_eq!(error.param.as_deref(), Some(name));
            assert!(error.message.starts_with(&format!("{name} must be an integer from -5 to 1000, but it is ")));
        }
    }

    #[test]
    fn refusals_name_the_path() {
        let json = Json::parse(r#"{"messages": [{"content": [{"type": 5}, null]}], "x": null}"#).expect("valid");
        let object = Object::root(&json).expect("an object");
        let messages = object.required("messages").and_then(|field| field.array()).expect("an array");
        let message = messages[0].object().expect("an object");
        let error = message.required("role").expect_err("absent");
        assert_eq!(
            (error.param.as_deref(), error.message.as_str()),
            (Some("messages[0].role"), "the field messages[0].role is missing")
        );
        let error = message.required("content").and_then(|field| field.array()).expect_err("a null element");
        assert_eq!(error.message, "messages[0].content[1] must be a value, but it is null");
        assert!(object.required("x").is_err(), "null is absence");
        assert_eq!(object.unread(), Vec::<String>::new());
        assert_eq!(message.unread(), Vec::<String>::new());
    }
}
