//! Who may use the server: keys, and which web pages.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::state::AppState;

/// The address that a connection came to, put into each request by the server.
#[derive(Clone, Copy, Debug)]
pub struct LocalAddress(pub std::net::SocketAddr);

/// Refuses requests of foreign web pages and without a key, and answers preflight requests.
///
/// Without a key, any page in a browser on this machine could use the server: a `text/plain` body needs no
/// preflight, and a name that the page's owner lets point at 127.0.0.1 makes its origin look like ours. So an `Origin` must
/// be ours or allowed, and the `Host` of a server bound to loopback must be a local one.
pub async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let config = state.config();
    let allowed = match origin(&request, config) {
        Ok(allowed) => allowed,
        Err(error) => return error.into_response(),
    };
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else if !is_open(request.uri().path()) && !has_key(request.headers(), &config.api_keys) {
        let message = "a valid API key is needed: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`";
        ApiError::new(ErrorKind::Authentication, message).into_response()
    } else {
        next.run(request).await
    };
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
        // The star does not include this one.
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, authorization"));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// Paths that need no key: a probe must be able to see whether the server lives.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/health" | "/healthz")
}

/// Whether a header carries one of `keys`. No keys: no header is needed.
fn has_key(headers: &HeaderMap, keys: &[String]) -> bool {
    if keys.is_empty() {
        return true;
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim().as_bytes())
    });
    let plain = headers.get("x-api-key").map(HeaderValue::as_bytes);
    // All are compared, in constant time each: how long it takes tells nothing about a key.
    let mut is_valid = false;
    for given in bearer.into_iter().chain(plain) {
        for key in keys {
            is_valid |= bool::from(given.ct_eq(key.as_bytes()));
        }
    }
    is_valid
}

/// The origin that may read the response, if the request has one.
fn origin(request: &Request, config: &ServerConfig) -> Result<Option<HeaderValue>, ApiError> {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or(request.uri().authority().map(|authority| authority.as_str()));
    let local = request.extensions().get::<LocalAddress>().map(|address| address.0);
    if local.is_some_and(|local| local.ip().is_loopback())
        && let Some(host) = host
        && !is_local(host, config)
    {
        let message = format!(
            "this server is bound to this machine, but was addressed as {host:?}; use localhost, or allow the name with --allow-host"
        );
        return Err(ApiError::new(ErrorKind::ForeignOrigin, message));
    }
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(None) };
    let text = String::from_utf8_lossy(origin.as_bytes());
    let is_ours = host.is_some_and(|host| text.strip_prefix("http://").or(text.strip_prefix("https://")) == Some(host));
    let is_listed = config.cors.iter().any(|allowed| allowed == "*" || allowed.trim_end_matches('/') == text);
    if is_ours || is_listed {
        return Ok(Some(origin.clone()));
    }
    let message = format!("web pages of {text} may not use this server; allow them with --cors {text}");
    Err(ApiError::new(ErrorKind::ForeignOrigin, message))
}

/// Whether a `Host` names this machine, or a name that the user gave it.
fn is_local(host: &str, config: &ServerConfig) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || config.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(name, value)| (name.parse().expect(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn either_header_may_carry_the_key() {
        let keys = ["secret".to_owned(), "other".to_owned()];
        for (pairs, expected) in [
            (vec![], false),
            (vec![("authorization", "Bearer secret")], true),
            (vec![("authorization", "bearer other")], true),
            (vec![("x-api-key", "secret")], true),
            (vec![("authorization", "Bearer wrong"), ("x-api-key", "secret")], true),
            (vec![("authorization", "Bearer "), ("x-api-key", "")], false),
            (vec![("authorization", "secret")], false),
            (vec![("authorization", "Basic secret")], false),
            (vec![("x-api-key", "secret2")], false),
            (vec![("x-api-key", "secre")], false),
        ] {
            assert_eq!(has_key(&headers(&pairs), &keys), expected, "{pairs:?}");
            assert!(has_key(&headers(&pairs), &[]));
        }
    }

    #[test]
    fn a_page_that_pretends_to_be_local_is_found_out() {
        let config = ServerConfig { hosts: vec!["box.lan".to_owned()], ..ServerConfig::default() };
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000", "box.lan:8000"] {
            assert!(is_local(host, &config), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8000", "192.168.1.5", "[fe80::1]:80", ""] {
            assert!(!is_local(host, &config), "{host}");
        }
    }

    #[test]
    fn only_our_own_pages_and_those_allowed_may_ask() {
        let allowed = |origin: &'static str, cors: &[&str]| {
            let config =
                ServerConfig { cors: cors.iter().map(|&cors| cors.to_owned()).collect(), ..ServerConfig::default() };
            let request = Request::builder().header("host", "localhost:8000").header("origin", origin);
            super::origin(&request.body(axum::body::Body::empty()).expect("valid"), &config).map_err(|error| error.kind)
        };
        assert!(allowed("http://localhost:8000", &[]).is_ok_and(|origin| origin.is_some()));
        for origin in ["https://evil.example", "http://localhost:3000", "null"] {
            assert_eq!(allowed(origin, &[]), Err(ErrorKind::ForeignOrigin), "{origin}");
        }
        assert!(allowed("http://localhost:3000", &["http://localhost:3000/"]).is_ok());
        assert!(allowed("https://any.example", &["*"]).is_ok());
    }
}
