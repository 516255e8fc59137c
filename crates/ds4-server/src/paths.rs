//! The one spelling of a path.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// First parts of the paths of the APIs, after the version.
const APIS: [&str; 5] = ["chat", "completions", "responses", "messages", "models"];

/// Base URLs are configured by hand, with the version and without, and clients add it or not. So a missing, doubled
/// or foreign beginning of a path is mended: `/chat/completions`, `/v1/v1/messages`, `//v1/models` and
/// `/anthropic/v1/messages` become `/v1/…`. The query is kept.
pub fn normalize(uri: &mut Uri) {
    let Some(path) = normal_path(uri.path()) else { return };
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let Ok(path_and_query) = path_and_query.parse::<PathAndQuery>() else { return };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path_and_query);
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// The path to take instead, if there is one.
fn normal_path(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut rest = parts.as_slice();
    if let [first, after @ ..] = rest
        && *first == "anthropic"
    {
        rest = after;
    }
    while let ["v1", after @ ..] = rest {
        rest = after;
    }
    let is_api = rest.first().is_some_and(|first| APIS.contains(first));
    let normal = if is_api { format!("/v1/{}", rest.join("/")) } else { format!("/{}", parts.join("/")) };
    (normal != path).then_some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_of_all_kinds_lead_to_the_same_place() {
        for (from, to) in [
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/chat/completions", "/v1/chat/completions"),
            ("/v1/v1/messages?beta=true", "/v1/messages?beta=true"),
            ("/anthropic/v1/messages", "/v1/messages"),
            ("//v1//models/", "/v1/models"),
            ("/health", "/health"),
            ("/", "/"),
            ("/v1", "/v1"),
            ("/api/hello", "/api/hello"),
            ("http://localhost:1/models?limit=1000", "http://localhost:1/v1/models?limit=1000"),
        ] {
            let mut uri: Uri = from.parse().expect(from);
            normalize(&mut uri);
            assert_eq!(uri.to_string(), to, "{from}");
        }
    }
}
