//! The request of a completion.

use ds4_chat::json::Json;
use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;

use crate::api::Api;
use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind};
use crate::fields::{Field, Object};
use crate::generation::{GenerationRequest, PromptSource};
use crate::request_fields::{MAX_TOKENS, logit_bias, sampling, stop};

/// A completion request that is worth preparing.
#[derive(Debug)]
pub struct CompletionRequest {
    /// The model's name, to be echoed.
    pub model: String,
    /// What to generate.
    pub generation: GenerationRequest,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the stream ends with a chunk for the usage.
    pub include_usage: bool,
    /// Whether log-probabilities are reported.
    pub logprobs: bool,
    /// Fields of the request that mean nothing here.
    pub ignored: Vec<String>,
}

/// Spellings of the tokens that mark a gap to fill, which are not part of the chat format.
const FILL: [&str; 3] = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];

impl CompletionRequest {
    /// Reads a request and encodes its prompt.
    ///
    /// # Errors
    /// The first field that is wrong or asks for what the server does not do.
    pub fn read(body: &Json, config: &ServerConfig, tokenizer: &Tokenizer) -> Result<Self, ApiError> {
        let object = Object::root(body)?;
        let model = object.get("model").map(|field| field.str()).transpose()?;
        for name in ["n", "best_of"] {
            if let Some(field) = object.get(name)
                && field.integer(1, 128)? != 1
            {
                let message = format!("{name} must be 1: this server gives one answer per request");
                return Err(ApiError::unsupported(ErrorKind::UnsupportedValue, name, message));
            }
        }
        if let Some(field) = object.get("echo")
            && field.bool()?
        {
            let message = "echo is not supported: the answer holds what follows the prompt only";
            return Err(ApiError::unsupported(ErrorKind::UnsupportedParameter, "echo", message));
        }
        let prompt = prompt(&object, tokenizer)?;
        let mut sampling = sampling(&object)?;
        if let Some(field) = object.get("logit_bias") {
            sampling.logit_bias = logit_bias(&field)?;
        }
        let logprobs = object.get("logprobs").map(|field| field.integer(0, 5)).transpose()?;
        sampling.logprobs = logprobs.and_then(|count| usize::try_from(count).ok());
        let max_tokens = object.get("max_tokens").map(|field| field.integer(1, MAX_TOKENS)).transpose()?;
        let stream = object.get("stream").map(|field| field.bool()).transpose()?.unwrap_or(false);
        let include_usage = match object.get("stream_options") {
            Some(field) if !stream => {
                return Err(field.refused("stream_options is only possible together with \"stream\": true"));
            }
            Some(field) => field.object()?.get("include_usage").map(|field| field.bool()).transpose()?.unwrap_or(false),
            None => false,
        };
        object.get("user");
        let stop = object.get("stop").map(|field| stop(&field)).transpose()?.unwrap_or_default();
        Ok(Self {
            model: model.unwrap_or(&config.model_id).to_owned(),
            generation: GenerationRequest {
                sampling,
                max_tokens: max_tokens.and_then(|value| usize::try_from(value).ok()),
                stop,
                ..GenerationRequest::new(Api::Completions, PromptSource::Raw(prompt))
            },
            stream,
            include_usage,
            logprobs: logprobs.is_some(),
            ignored: object.unread(),
        })
    }
}

/// The prompt's tokens: the beginning-of-sentence token and the text, in which nothing is a control token.
fn prompt(object: &Object<'_>, tokenizer: &Tokenizer) -> Result<Vec<u32>, ApiError> {
    let field = object.required("prompt")?;
    let mut ids: Vec<u32> = tokenizer.special(Special::Bos).into_iter().collect();
    let suffix = object.get("suffix").map(|field| field.str()).transpose()?.filter(|suffix| !suffix.is_empty());
    let text = prompt_text(&field)?;
    let Some(suffix) = suffix else {
        match text {
            PromptText::Text(text) => ids.extend(tokenizer.encode(text)),
            // Whoever sends tokens knows which ones the model wants at the start.
            PromptText::Tokens(tokens) => ids = tokens,
        }
        return Ok(ids);
    };
    let PromptText::Text(text) = text else {
        return Err(field.refused("suffix is only possible with a prompt that is text"));
    };
    let marker = |spelling: &str| match tokenizer.encode_with_special(spelling)[..] {
        [id] => Ok(id),
        _ => Err(ApiError::unsupported(
            ErrorKind::UnsupportedParameter,
            "suffix",
            "suffix is not supported: this model's vocabulary has no tokens to mark a gap in a text",
        )),
    };
    let [begin, hole, end] = [marker(FILL[0])?, marker(FILL[1])?, marker(FILL[2])?];
    ids.push(begin);
    ids.extend(tokenizer.encode(text));
    ids.push(hole);
    ids.extend(tokenizer.encode(suffix));
    ids.push(end);
    Ok(ids)
}

enum PromptText<'a> {
    Text(&'a str),
    Tokens(Vec<u32>),
}

fn prompt_text<'a>(field: &Field<'a>) -> Result<PromptText<'a>, ApiError> {
    if let Some(text) = field.json().as_str() {
        return Ok(PromptText::Text(text));
    }
    let expected = || field.must_be("a string, an array of one string, or an array of token ids");
    let items = if field.json().as_array().is_some() { field.array()? } else { return Err(expected()) };
    match items.as_slice() {
        [] => Err(expected()),
        [one] if one.json().as_str().is_some() => Ok(PromptText::Text(one.str()?)),
        // A batch of one.
        [one] if one.json().as_array().is_some() => prompt_text(one),
        [one, _, ..] if one.json().as_str().is_some() || one.json().as_array().is_some() => {
            let message = "prompt has several entries; this server continues one prompt per request";
            Err(ApiError::unsupported(ErrorKind::UnsupportedValue, field.path(), message))
        }
        tokens => {
            let token = |field: &Field<'_>| {
                let id = field.integer(0, i64::from(u32::MAX))?;
                u32::try_from(id).map_err(|_| field.must_be("a token id"))
            };
            Ok(PromptText::Tokens(tokens.iter().map(token).collect::<Result<_, _>>()?))
        }
    }
}
