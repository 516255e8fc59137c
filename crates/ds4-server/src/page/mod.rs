//! `GET /`: a page to talk to the model, in one file that fetches nothing from elsewhere.

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use crate::state::AppState;

const MARKUP: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// The script's files in the order in which they build on each other. They share one scope.
const SCRIPT: [&str; 8] = [
    include_str!("js/dom.js"),
    include_str!("js/inline.js"),
    include_str!("js/markdown.js"),
    include_str!("js/storage.js"),
    include_str!("js/client.js"),
    include_str!("js/turn.js"),
    include_str!("js/sidebar.js"),
    include_str!("js/app.js"),
];

/// The routes of this folder.
pub fn routes() -> Router<AppState> {
    Router::new().route("/", get(page))
}

struct Page {
    html: String,
    policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let script = format!("\"use strict\";\n(() => {{\n{}}})();\n", SCRIPT.join("\n"));
    let html = MARKUP.replace("/*{style}*/", STYLE).replace("/*{script}*/", &script);
    Page { html, policy: policy(STYLE, &script) }
});

/// What the browser lets the page do: run exactly this script and style, and talk to this server. Should text of the model
/// ever become markup by a mistake, it can still neither run nor fetch anything.
fn policy(style: &str, script: &str) -> HeaderValue {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash(script),
        hash(style)
    );
    HeaderValue::from_str(&policy).unwrap_or_else(|_| unreachable!("ASCII without control characters"))
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ];
    (headers, PAGE.html.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_fetches_nothing() {
        let html = &PAGE.html;
        assert!(!html.contains("/*{") && html.contains("</html>"));
        // What would end the element early, or be markup after all.
        let script =
            html.split_once("<script>").and_then(|(_, rest)| rest.split_once("</script>")).expect("a script").0;
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            assert!(!script.contains(forbidden), "{forbidden}");
        }
        assert!(html.ends_with("</script>\n</body>\n</html>\n"), "something ended the script early");
        for outside in ["src=", "@import", "url(", "<link rel=\"stylesheet"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }
}
