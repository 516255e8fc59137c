//! What is answered to a request that cannot be served, in the shape of either family of APIs.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ds4_chat::render::RenderError;
use ds4_chat::tokenizer::TokenizerError;
use ds4_engine::EngineError;
use serde_json::{Value, json};

use crate::api::Api;

/// Which shape an error body has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}, "request_id"}`
    Anthropic,
}

/// An error for the client.
///
/// As a response it carries itself along; the outermost layer of the server, which knows the family of the path and
/// the request's id, writes the body. Inside a stream, [`body`](Self::body) is written by whoever writes the stream.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of error; it decides status, type and code.
    pub kind: ErrorKind,
    /// A sentence for the user.
    pub message: String,
    /// The request's field at fault, as a path such as `messages[3].content`.
    pub param: Option<String>,
}

/// Kinds of errors. Each has one HTTP status, and a type or code in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A body that is not JSON, a bad value, a missing field.
    Invalid,
    /// A prompt that does not fit the context. Clients compact their history when they see it.
    ContextLength {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A field for something that the server does not do.
    UnsupportedParameter,
    /// A value of a known field that asks for something that the server does not do.
    UnsupportedValue,
    /// A conversation that the server is to keep between requests. Clients go on with whole conversations when they see it.
    UnsupportedThread,
    /// The response named by `previous_response_id` is not stored.
    PreviousResponseNotFound,
    /// No key, or a wrong one.
    Authentication,
    /// A web page of a foreign origin, or a foreign host name on loopback.
    ForeignOrigin,
    /// Nothing has this path or id.
    NotFound,
    /// No model has this name.
    ModelNotFound,
    /// The path exists, but not for this method.
    MethodNotAllowed,
    /// The client sent too slowly.
    RequestTimeout,
    /// The body is too large.
    TooLarge,
    /// A content type or encoding that is not read.
    MediaType,
    /// The queue is full.
    Busy,
    /// The engine failed.
    Engine,
    /// The server is shutting down.
    Unavailable,
}

/// Seconds after which a client may try again.
const RETRY_AFTER: u32 = 5;

impl ErrorKind {
    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Invalid
            | Self::ContextLength { .. }
            | Self::UnsupportedParameter
            | Self::UnsupportedValue
            | Self::UnsupportedThread
            | Self::PreviousResponseNotFound => StatusCode::BAD_REQUEST,
            Self::Authentication => StatusCode::UNAUTHORIZED,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::NotFound | Self::ModelNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Engine => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// `error.type` of the OpenAI family.
    pub fn openai_type(self) -> &'static str {
        match self {
            Self::Authentication => "authentication_error",
            Self::Busy => "rate_limit_error",
            Self::Engine | Self::Unavailable => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// `error.code` of the OpenAI family.
    pub fn openai_code(self) -> Option<&'static str> {
        Some(match self {
            Self::Invalid | Self::Engine => return None,
            Self::ContextLength { .. } => "context_length_exceeded",
            Self::UnsupportedParameter | Self::UnsupportedThread => "unsupported_parameter",
            Self::UnsupportedValue => "unsupported_value",
            Self::PreviousResponseNotFound => "previous_response_not_found",
            Self::Authentication => "invalid_api_key",
            Self::ForeignOrigin => "origin_not_allowed",
            Self::NotFound => "not_found",
            Self::ModelNotFound => "model_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::TooLarge => "request_too_large",
            Self::MediaType => "unsupported_media_type",
            Self::Busy => "rate_limit_exceeded",
            Self::Unavailable => "unavailable",
        })
    }

    /// `error.type` of the Anthropic family.
    pub fn anthropic_type(self) -> &'static str {
        match self {
            Self::Authentication => "authentication_error",
            Self::ForeignOrigin => "permission_error",
            Self::NotFound | Self::ModelNotFound => "not_found_error",
            Self::RequestTimeout => "timeout_error",
            Self::TooLarge => "request_too_large",
            Self::Busy => "rate_limit_error",
            Self::Engine => "api_error",
            Self::Unavailable => "overloaded_error",
            _ => "invalid_request_error",
        }
    }
}

impl ApiError {
    /// An error that concerns no single field.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None }
    }

    /// A bad value of the field at `path`.
    pub fn invalid(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, message: message.into(), param: Some(path.into()) }
    }

    /// A field or value at `path` that asks for something that the server does not do.
    pub fn unsupported(kind: ErrorKind, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: Some(path.into()) }
    }

    /// A prompt of `prompt` tokens that leaves no room in a context of `context`. The wording is what agents look for in
    /// order to shorten their history. `max_tokens`: what was asked for as the answer.
    pub fn context_length(api: Api, prompt: usize, max_tokens: usize, context: usize) -> Self {
        let field = api.prompt_field();
        let message = match api.family() {
            Family::OpenAi => format!(
                "This model's maximum context length is {context} tokens. However, you requested {} tokens ({prompt} in \
                 the {field}, {max_tokens} in the completion). Please reduce the length of the {field} or completion.",
                prompt.saturating_add(max_tokens)
            ),
            Family::Anthropic => format!("prompt is too long: {prompt} tokens > {context} maximum"),
        };
        Self { kind: ErrorKind::ContextLength { prompt, context }, message, param: Some(field.to_owned()) }
    }

    /// The body, in the shape of `family`.
    pub fn body(&self, family: Family, request_id: &str) -> Value {
        match family {
            Family::OpenAi => {
                let mut error = json!({
                    "message": self.message,
                    "type": self.kind.openai_type(),
                    "param": self.param,
                    "code": self.kind.openai_code(),
                });
                if let ErrorKind::ContextLength { prompt, context } = self.kind {
                    error["n_prompt_tokens"] = json!(prompt);
                    error["n_ctx"] = json!(context);
                }
                json!({ "error": error })
            }
            Family::Anthropic => {
                let mut error = json!({ "type": self.kind.anthropic_type(), "message": self.anthropic_message() });
                if self.kind == ErrorKind::UnsupportedThread {
                    error["details"] = json!({ "error_code": "thread_unsupported_request", "unsupported": ["thread"] });
                }
                json!({ "type": "error", "error": error, "request_id": request_id })
            }
        }
    }

    /// Anthropic's errors have no field of their own for the path, so the message names it.
    fn anthropic_message(&self) -> String {
        match &self.param {
            Some(param) if self.kind == ErrorKind::Invalid && !self.message.contains(param.as_str()) => {
                format!("{param}: {}", self.message)
            }
            _ => self.message.clone(),
        }
    }

    /// The same error as the engine's for a request of `api`. `max_tokens`: what was asked for.
    pub fn from_engine(error: &EngineError, api: Api, max_tokens: usize) -> Self {
        let message = error.to_string();
        match error {
            EngineError::PromptTooLong { prompt, context } => Self::context_length(api, *prompt, max_tokens, *context),
            EngineError::QueueFull { .. } => Self::new(ErrorKind::Busy, message),
            EngineError::Stopped { .. } => Self::new(ErrorKind::Unavailable, message),
            EngineError::EmptyPrompt => Self::invalid(api.prompt_field(), message),
            EngineError::PromptToken { .. } => Self::invalid(api.prompt_field(), message),
            EngineError::NoTokens => Self::invalid("max_tokens", message),
            EngineError::Sampling(params) => Self::invalid(params.field(), message),
            EngineError::Stop(_) => Self::invalid("stop", message),
            _ => Self::new(ErrorKind::Engine, message),
        }
    }

    /// The same error as the renderer's for a request of `api`.
    pub fn from_render(error: &RenderError, api: Api) -> Self {
        let param = match error {
            RenderError::ForcedCallWithoutTools | RenderError::UnknownTool { .. } => "tool_choice",
            _ => api.prompt_field(),
        };
        Self::invalid(param, error.to_string())
    }
}

impl From<TokenizerError> for ApiError {
    fn from(error: TokenizerError) -> Self {
        Self::new(ErrorKind::Engine, format!("the prompt could not be encoded: {error}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        if matches!(self.kind, ErrorKind::Busy | ErrorKind::Unavailable) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        if matches!(self.kind, ErrorKind::RequestTimeout | ErrorKind::TooLarge) {
            // What is left of the body would be taken for the next request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_is_told_in_the_words_that_agents_look_for() {
        let error = ApiError::context_length(Api::Chat, 1000, 393_216, 131_072);
        assert_eq!(
            error.message,
            "This model's maximum context length is 131072 tokens. However, you requested 394216 tokens (1000 in the \
             messages, 393216 in the completion). Please reduce the length of the messages or completion."
        );
        let body = error.body(Family::OpenAi, "req_1");
        assert_eq!(body["error"]["code"], "context_length_exceeded");
        assert_eq!(body["error"]["param"], "messages");
        assert_eq!((&body["error"]["n_prompt_tokens"], &body["error"]["n_ctx"]), (&json!(1000), &json!(131_072)));

        let error = ApiError::context_length(Api::Messages, 219_898, 10, 131_072);
        let body = error.body(Family::Anthropic, "req_1");
        let expected = json!({
            "type": "error",
            "error": { "type": "invalid_request_error", "message": "prompt is too long: 219898 tokens > 131072 maximum" },
            "request_id": "req_1",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn anthropic_errors_name_the_field_once() {
        let error = ApiError::invalid("max_tokens", "must be at least 1");
        let body = error.body(Family::Anthropic, "req_1");
        assert_eq!(body["error"]["message"], "max_tokens: must be at least 1");
        let error = ApiError::invalid("max_tokens", "max_tokens is 0; it must be at least 1");
        let body = error.body(Family::Anthropic, "req_1");
        assert_eq!(body["error"]["message"], "max_tokens is 0; it must be at least 1");
    }

    #[test]
    fn who_is_sent_away_is_told_when_to_come_back() {
        for kind in [ErrorKind::Busy, ErrorKind::Unavailable] {
            let response = ApiError::new(kind, "later").into_response();
            assert!(response.headers().contains_key(header::RETRY_AFTER), "{kind:?}");
        }
    }
}
