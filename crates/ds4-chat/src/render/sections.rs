//! The fixed wordings of the prompt format: effort, tools and response-format sections. The model was trained on
//! exactly these texts (DeepSeek V4 release, `encoding_dsv4`), so they are part of the format, not ours to edit.

use super::options::{Effort, Profile};
use crate::conversation::{ResponseFormat, Tool};
use crate::special::{Prompt, Special};

const EFFORT_ABSOLUTE_MAXIMUM: &str = "\
Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.

";

const EFFORT_BEYOND_MAXIMUM: &str = "\
Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying cause rather than any surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that no assumption remains unchecked and no error remains undiscovered.

";

/// The text at the very start of a prompt in thinking mode.
pub(super) fn effort(profile: Profile, effort: Effort) -> &'static str {
    match (profile, effort) {
        (Profile::Preview, Effort::Low | Effort::High) | (Profile::Release0731, Effort::Low) => "",
        (Profile::Preview, Effort::Max) | (Profile::Release0731, Effort::High) => EFFORT_ABSOLUTE_MAXIMUM,
        (Profile::Release0731, Effort::Max) => EFFORT_BEYOND_MAXIMUM,
    }
}

/// In [`TOOLS_HEAD`] these stand for the DSML, think and end-think tokens.
const DSML: char = '\u{1}';
const THINK: char = '\u{2}';
const END_THINK: char = '\u{3}';

const TOOLS_HEAD: &str = "## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \"<\u{1}tool_calls>\" block like the following:

<\u{1}tool_calls>
<\u{1}invoke name=\"$TOOL_NAME\">
<\u{1}parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</\u{1}parameter>
...
</\u{1}invoke>
<\u{1}invoke name=\"$TOOL_NAME2\">
...
</\u{1}invoke>
</\u{1}tool_calls>

String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string=\"false\"`.

If thinking_mode is enabled (triggered by \u{2}), you MUST output your complete reasoning inside \u{2}...\u{3} BEFORE any tool calls or final response.

Otherwise, output directly after \u{3} with tool calls or final response.

### Available Tool Schemas

";

const TOOLS_TAIL: &str = "
You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
";

/// The tools section, one schema a line. It ends with a newline.
pub(super) fn tools<'a>(out: &mut Prompt, tools: impl IntoIterator<Item = &'a Tool>) {
    for part in TOOLS_HEAD.split_inclusive([DSML, THINK, END_THINK]) {
        let (text, control) = match part.chars().next_back() {
            Some(DSML) => (&part[..part.len() - 1], Some(Special::Dsml)),
            Some(THINK) => (&part[..part.len() - 1], Some(Special::Think)),
            Some(END_THINK) => (&part[..part.len() - 1], Some(Special::EndThink)),
            _ => (part, None),
        };
        out.text(text);
        if let Some(control) = control {
            out.control(control);
        }
    }
    for tool in tools {
        out.text(tool.definition().to_string()).text("\n");
    }
    out.text(TOOLS_TAIL);
}

/// The response-format section; nothing for free text.
pub(super) fn response_format(format: &ResponseFormat) -> Option<String> {
    match format {
        ResponseFormat::Text => None,
        ResponseFormat::JsonObject => Some(
            "You are a helpful assistant designed to output JSON.\n## Response Format:\n\nReply with JSON object ONLY."
                .to_owned(),
        ),
        ResponseFormat::JsonSchema(schema) => {
            Some(format!("## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n{schema}"))
        }
    }
}
