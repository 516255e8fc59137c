//! Which conversation a request belongs to, where a client says so.
//!
//! It is a hint: it decides who is served next and which states make way when memory runs out, never what is answered or what is
//! reused.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use ds4_engine::{MAX_WEIGHT, MIN_WEIGHT};

use crate::generation::GenerationRequest;

/// Longest name that counts.
const LONGEST: usize = 256;

/// Headers that name a conversation, the most precise first: sub-agents of Codex have their own `thread-id` and their parent's
/// session.
const HEADERS: [&str; 4] = ["x-claude-code-session-id", "thread-id", "x-session-id", "session-id"];
/// Names a sub-agent of the first of these.
const AGENT: &str = "x-claude-code-agent-id";
/// How much a session is to get beside others of the same priority: 2 is twice as much as usual.
const WEIGHT: &str = "x-session-weight";

/// The session that a request's headers name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    name: Option<String>,
    /// From [`WEIGHT`], if it is one.
    weight: Option<f64>,
}

impl Session {
    fn of(headers: &HeaderMap) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).and_then(session_name);
        let name = HEADERS.iter().find_map(|name| header(name)).and_then(|session| match header(AGENT) {
            Some(agent) => session_name(&format!("{session}/{agent}")),
            None => Some(session),
        });
        let is_weight = |weight: &f64| (MIN_WEIGHT..=MAX_WEIGHT).contains(weight);
        let weight = headers.get(WEIGHT).and_then(|value| value.to_str().ok()?.trim().parse().ok()).filter(is_weight);
        Self { name, weight }
    }

    /// The request as part of this session; without one, of the session that its body names.
    pub fn with(self, request: GenerationRequest) -> GenerationRequest {
        let weight = self.weight.unwrap_or(request.weight);
        GenerationRequest { session: self.name.or(request.session), weight, ..request }
    }
}

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

/// A name, if it is one that can be shown and kept.
pub(crate) fn session_name(text: &str) -> Option<String> {
    let is_name = !text.is_empty() && text.len() <= LONGEST && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn session(pairs: &[(&'static str, &str)]) -> Session {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).expect("a header"));
        }
        Session::of(&headers)
    }

    fn of(pairs: &[(&'static str, &str)]) -> Option<String> {
        session(pairs).name
    }

    #[test]
    fn a_weight_is_a_number_within_bounds() {
        let weight = |text| session(&[("x-session-weight", text)]).weight;
        assert_eq!((weight("2"), weight(" 0.25 "), weight("100")), (Some(2.0), Some(0.25), Some(100.0)));
        for text in ["", "0", "-1", "101", "NaN", "inf", "much"] {
            assert_eq!(weight(text), None, "{text}");
        }
    }

    #[test]
    fn the_most_precise_header_counts() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("x-session-id", "a")]).as_deref(), Some("a"));
        assert_eq!(of(&[("session-id", "a"), ("thread-id", "b")]).as_deref(), Some("b"));
        assert_eq!(of(&[("x-claude-code-session-id", "a"), ("x-claude-code-agent-id", "b")]).as_deref(), Some("a/b"));
        assert_eq!(of(&[("x-claude-code-agent-id", "b")]), None);
    }

    #[test]
    fn what_is_no_name_is_ignored() {
        assert_eq!(of(&[("x-session-id", "")]), None);
        assert_eq!(of(&[("x-session-id", "two words")]), None);
        assert_eq!(of(&[("x-session-id", &"x".repeat(LONGEST + 1))]), None);
    }
}
