//! What constrained output costs, with the model's own vocabulary: `cargo run --release -p ds4-grammar --example cost`.
//!
//! The time per token is that of the mask, computed on another thread and waited for at once. A server waits only for what
//! the model's step does not hide.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ds4_chat::json::Json;
use ds4_chat::special::{Prompt, Special};
use ds4_chat::tokenizer::Tokenizer;
use ds4_grammar::{Arguments, Entry, Format, Grammar, Grammars, Shape, ToolShape};

fn main() -> Result<(), Box<dyn Error>> {
    let tokenizer = Arc::new(Tokenizer::official()?);
    let grammars = Grammars::new(Arc::clone(&tokenizer));
    let before = resident_kib();
    timed("vocabulary, once", || grammars.compile(&Shape::answer(Format::object())))?;
    if let (Some(before), Some(after)) = (before, resident_kib()) {
        println!("{:40} {:8} MiB", "its memory", after.saturating_sub(before) / 1024);
    }

    let free = |count| {
        (0..count).map(|n| ToolShape { name: format!("tool_{n}"), arguments: Arguments::Any }).collect::<Vec<_>>()
    };
    let schema = Json::parse(
        r#"{"type": "object", "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}, "mode": {"enum": ["a", "b"]},
        "options": {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "string"}}}}}, "required": ["path"]}"#,
    )?;
    let strict = |count| {
        (0..count)
            .map(|n| ToolShape { name: format!("tool_{n}"), arguments: Arguments::Schema(schema.clone()) })
            .collect::<Vec<_>>()
    };
    let calls = timed("20 tools", || grammars.compile(&Shape::calls(Entry::Opener, free(20))))?;
    timed("20 tools, again", || grammars.compile(&Shape::calls(Entry::Opener, free(20))))?;
    timed("1000 tools", || grammars.compile(&Shape::calls(Entry::Opener, free(1000))))?;
    timed("20 strict tools", || grammars.compile(&Shape::calls(Entry::Opener, strict(20))))?;
    timed("100 strict tools", || grammars.compile(&Shape::calls(Entry::Opener, strict(100))))?;

    let prose: String = (0..200).map(|n| format!("line {n} of <b>some</b> text, with \"quotes\" and {n}\n")).collect();
    let call = format!(
        "tool_calls>\n<{{D}}invoke name=\"tool_3\">\n<{{D}}parameter name=\"x\" string=\"true\">{prose}</{{D}}parameter>\n\
         </{{D}}invoke>\n</{{D}}tool_calls>"
    );
    let mut prompt = Prompt::new();
    for (index, part) in call.split("{D}").enumerate() {
        if index > 0 {
            prompt.control(Special::Dsml);
        }
        prompt.text(part);
    }
    per_token("a call with a long text", &calls, &tokenizer.encode_prompt(&prompt)?)?;
    let entries: Vec<String> = (0..200).map(|n| format!("\"k{n}\": [{n}, \"some text {n}\", null]")).collect();
    let json = tokenizer.encode(&format!("{{{}}}", entries.join(", ")));
    per_token("any JSON object", &grammars.compile(&Shape::answer(Format::object()))?, &json)?;
    let record = Format { schema, strict: true };
    let json =
        tokenizer.encode(r#"{"path": "/srv/a/b.txt", "limit": 250, "mode": "b", "options": {"x": ["one", "two"]}}"#);
    per_token("JSON of a schema", &grammars.compile(&Shape::answer(record))?, &json)
}

fn timed<T, E: Error + 'static>(what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, Box<dyn Error>> {
    let start = Instant::now();
    let done = work()?;
    println!("{what:40} {:8.2} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(done)
}

fn per_token(what: &str, grammar: &Grammar, tokens: &[u32]) -> Result<(), Box<dyn Error>> {
    let mut matcher = grammar.matcher();
    let mut times = Vec::with_capacity(tokens.len());
    for &token in tokens {
        let start = Instant::now();
        if !matcher.allowed().allows(token) {
            return Err(format!("{what}: the example is not in its own grammar").into());
        }
        times.push(start.elapsed());
        matcher.accept(token);
    }
    times.sort();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let mean = micros(times.iter().sum::<Duration>()) / times.len() as f64;
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().map_or(0.0, micros);
    println!(
        "{what:40} {:8.0} µs per token (median {:.0}, 99 % {:.0}; {} tokens)",
        mean,
        at(0.5),
        at(0.99),
        times.len()
    );
    Ok(())
}

/// Memory of this process, where the system tells.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}
