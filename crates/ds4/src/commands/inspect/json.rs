//! The report for programs.

use super::report::Report;

/// One indented JSON object, with a line feed at the end.
///
/// # Errors
/// None that a report can cause.
pub fn write(report: &Report) -> serde_json::Result<String> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    Ok(text)
}
