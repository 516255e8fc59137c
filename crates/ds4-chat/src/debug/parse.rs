//! One line with a model's output → what it says.

use super::fields::{DebugError, field, flag, list, text, wrong};
use crate::dsml::{End, Options, ParsedOutput, Start, TokenParser};
use crate::json::Json;
use crate::tokenizer::Tokenizer;

/// Parses the output of one JSON line and gives
/// `{"reasoning_content": …, "content": …, "tool_calls": [{"name", "arguments", "complete"}], "finish_reason": …}`.
///
/// The line has the token `ids`, whether the prompt ended with `<think>` (`thinking`) and showed `tools`, how the output
/// ended (`finish`: `stop` or `length`), and optionally `initial` (`reasoning` or `content` where a prefix is continued)
/// and the switches `calls_in_reasoning` and `lenient`.
///
/// # Errors
///
/// [`DebugError`] when the line is not JSON or a field has no meaning.
pub fn parse_line(line: &str, tokenizer: &Tokenizer) -> Result<serde_json::Value, DebugError> {
    let line = Json::parse(line)?;
    // A line may be the input itself or hold it, as the lines for rendering do.
    let input = field(&line, "input").unwrap_or(&line);
    let switch = |name: &str| flag(input, "input", name).map(|value| value.unwrap_or(false));
    let start = match text(input, "input", "initial")? {
        Some("reasoning") => Start::ReasoningContinued,
        Some("content") => Start::ContentContinued,
        Some(other) => {
            return Err(wrong("input.initial", format!("unknown value {other:?}: use reasoning or content")));
        }
        None if switch("thinking")? => Start::Reasoning,
        None => Start::Content,
    };
    let options = Options {
        start,
        tools: switch("tools")?,
        calls_in_reasoning: switch("calls_in_reasoning")?,
        lenient: switch("lenient")?,
        single_call: false,
    };
    let end = match text(input, "input", "finish")? {
        None | Some("stop") => End::Stop,
        Some("length") => End::Length,
        Some(other) => return Err(wrong("input.finish", format!("unknown value {other:?}: use stop or length"))),
    };
    let mut parser = TokenParser::new(tokenizer, options);
    let mut output = ParsedOutput::default();
    for id in ids(input, tokenizer)? {
        output.apply_all(&parser.push(id));
    }
    output.apply_all(&parser.finish(end));
    let calls: Vec<serde_json::Value> = output
        .tool_calls
        .iter()
        .map(|call| serde_json::json!({"name": call.name, "arguments": call.arguments, "complete": call.complete}))
        .collect();
    Ok(serde_json::json!({
        "reasoning_content": output.reasoning,
        "content": output.content,
        "tool_calls": calls,
        "finish_reason": output.finish_reason.map(|reason| reason.name()),
    }))
}

fn ids(input: &Json, tokenizer: &Tokenizer) -> Result<Vec<u32>, DebugError> {
    let mut ids = Vec::new();
    for (index, id) in list(input, "input", "ids")?.iter().enumerate() {
        let id = match id {
            Json::Number(digits) => digits.parse().ok().filter(|id: &u32| (*id as usize) < tokenizer.vocab_size()),
            _ => None,
        };
        let range = tokenizer.vocab_size();
        ids.push(id.ok_or_else(|| wrong(format!("input.ids[{index}]"), format!("must be a token id below {range}")))?);
    }
    Ok(ids)
}
