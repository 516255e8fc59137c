//! From the arguments to the prompt's tokens.

use std::fs::File;
use std::io::{self, Read, Write};

use anyhow::{Context, anyhow, bail};
use ds4_chat::conversation::{Conversation, Message};
use ds4_chat::dsml::Options;
use ds4_chat::render::{Profile, RenderOptions, Thinking, render};
use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;

use crate::args::PromptArgs;

/// Longest prompt that is read, in bytes. No context holds as much.
const LONGEST: u64 = 64 << 20;

/// A prompt, ready for the engine.
pub struct RunPrompt {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// How to parse what the model writes; `None` where it is text and nothing else.
    pub parser: Option<Options>,
}

/// The prompt's text. One line feed at the end of a file or of standard input is not part of it: editors and `echo`
/// put it there.
///
/// # Errors
/// Unreadable, not UTF-8, far too long.
pub fn read(args: &PromptArgs) -> anyhow::Result<String> {
    let (bytes, name) = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) if text == "-" => {
            if io::IsTerminal::is_terminal(&io::stdin()) {
                let _ = writeln!(io::stderr(), "ds4: type the prompt, then Ctrl-D:");
            }
            (
                limited(io::stdin().lock()).context("cannot read the prompt from standard input")?,
                "standard input".into(),
            )
        }
        (Some(text), _) => return Ok(text.clone()),
        (None, Some(path)) => {
            let name = path.display().to_string();
            if path.is_dir() {
                bail!("{name} is a directory; --prompt-file takes a text file");
            }
            let file = File::open(path).with_context(|| format!("cannot open the prompt file {name}"))?;
            (limited(file).with_context(|| format!("cannot read the prompt file {name}"))?, name)
        }
        // The argument parser demands one of the two.
        (None, None) => bail!("there is no prompt; give one with -p TEXT or --prompt-file FILE"),
    };
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        anyhow!("the prompt in {name} is not UTF-8 text: byte {offset} does not begin or continue a character")
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn limited(source: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        bail!("the prompt is longer than {LONGEST} bytes, which no context holds");
    }
    Ok(bytes)
}

/// The prompt of a conversation with one question.
///
/// # Errors
/// A blank prompt.
pub fn chat(
    text: &str,
    system: Option<&str>,
    profile: Profile,
    thinking: Thinking,
    tokenizer: &Tokenizer,
) -> anyhow::Result<RunPrompt> {
    if text.trim().is_empty() {
        bail!("the prompt is empty; say what you would like to know (or use --raw to let the model begin)");
    }
    let mut conversation = Conversation::default();
    conversation.messages.extend(system.map(Message::system));
    conversation.messages.push(Message::user(text));
    let options = RenderOptions { profile, thinking, ..RenderOptions::default() };
    let rendered = render(&conversation, &options)?;
    let parser = Some(rendered.parser_options());
    Ok(RunPrompt { ids: tokenizer.encode_prompt(&rendered.prompt)?, parser })
}

/// The text as it is, behind the beginning-of-sentence token.
///
/// # Errors
/// A vocabulary without that token.
pub fn raw(text: &str, tokenizer: &Tokenizer) -> anyhow::Result<RunPrompt> {
    let bos = tokenizer.special(Special::Bos).context("the vocabulary has no beginning-of-sentence token")?;
    let mut ids = vec![bos];
    ids.extend(tokenizer.encode(text));
    Ok(RunPrompt { ids, parser: None })
}
