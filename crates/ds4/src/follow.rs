//! A generation, followed to its end on the terminal.

use std::time::Duration;

use anyhow::bail;
use ds4_engine::{Event, FinishReason, Generation};

use crate::answer::Answer;
use crate::interrupt::Interrupt;
use crate::summary::{Ending, Summary};
use crate::terminal::{Progress, Unit};

/// How long to wait for the next event before looking for Ctrl-C: a step of a large model may take seconds.
const POLL: Duration = Duration::from_millis(50);

/// Shows what `generation` says, with a progress bar before it, until it ends or Ctrl-C is pressed. `at_first_token` is
/// called once. The answer is not finished, and the generation not cancelled: the step in progress is not waited for.
///
/// # Errors
/// The generation failed (what it said before is shown), or standard output did.
pub fn follow(
    generation: &mut Generation,
    answer: &mut Answer,
    summary: &mut Summary,
    interrupt: &Interrupt,
    mut at_first_token: impl FnMut(),
) -> anyhow::Result<Ending> {
    let mut progress: Option<Progress> = None;
    loop {
        if interrupt.is_pressed() {
            return Ok(Ending::Interrupted);
        }
        match generation.next_timeout(POLL) {
            None => progress.iter().for_each(Progress::refresh),
            Some(Event::Started(event)) => {
                progress = Some(Progress::new("prompt", event.prompt_tokens as u64, Unit::Tokens));
                summary.started(&event, generation.sent());
            }
            Some(Event::Prefill(event)) => {
                progress.iter().for_each(|bar| bar.set(event.done as u64));
                if event.done == event.total {
                    progress = None;
                    summary.prefilled(generation.sent());
                }
            }
            Some(Event::Token(token)) => {
                progress = None;
                if summary.token(generation.sent()) {
                    at_first_token();
                }
                answer.push(token.id)?;
                if answer.is_complete() {
                    return Ok(Ending::Complete);
                }
            }
            Some(Event::Finished(finished)) => match finished.reason {
                FinishReason::Length => return Ok(Ending::Length),
                FinishReason::Error(error) => {
                    drop(progress);
                    answer.finish(false)?;
                    bail!(error);
                }
                _ => return Ok(Ending::Complete),
            },
        }
    }
}
