//! A script made of whole answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;
use ds4_model::{ModelError, Rows};

use crate::backend::Script;
use crate::rule::{Answer, Rule};

/// The logit of the token that comes next. All others are possible too, where a constraint leaves nothing else.
const CERTAIN: f32 = 1000.0;

/// Answers each prompt by the first rule that applies, token by token, and then ends the sentence. Clones are handles of
/// the same script, so that a test can change it while it runs.
#[derive(Clone)]
pub struct Answers {
    tokenizer: Arc<Tokenizer>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    /// The answer to each prompt so far.
    chosen: HashMap<Vec<u32>, Arc<[u32]>>,
    step: Duration,
    prompt_step: Duration,
    fail_at: Option<usize>,
    has_failed: bool,
}

impl Answers {
    /// A script without rules: every answer is empty.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, state: Arc::default() }
    }

    /// From now on these rules count. The first that applies is taken.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        let mut state = self.state();
        state.rules = rules;
        state.chosen.clear();
    }

    /// From now on every answer is this one, in the notation of [`Answer::spelled`].
    pub fn say(&self, text: &str) {
        let answer = Answer::spelled(&self.tokenizer, text);
        self.set_rules(vec![Rule { answer, ..Rule::default() }]);
    }

    /// From now on every step takes this time.
    pub fn set_step(&self, step: Duration) {
        self.state().step = step;
    }

    /// From now on every step that computes a part of a prompt takes this time more.
    pub fn set_prompt_step(&self, step: Duration) {
        self.state().prompt_step = step;
    }

    /// The device fails for good when token `token` (from 0) of an answer is due.
    pub fn fail_at(&self, token: usize) {
        self.state().fail_at = Some(token);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is answered to `prompt`, which ends with an opened turn.
    fn choose(&self, state: &mut State, prompt: &[u32]) -> Arc<[u32]> {
        if let Some(answer) = state.chosen.get(prompt) {
            return Arc::clone(answer);
        }
        let text = self.tokenizer.decode_lossy(prompt);
        let last = text.rsplit(Special::User.spelling()).next().unwrap_or_default();
        let rule = state.rules.iter().find(|rule| rule.applies(&text, last));
        let thinking = prompt.last().copied() == self.tokenizer.special(Special::Think);
        let answer = rule.map(|rule| rule.answer.tokens(&self.tokenizer, thinking)).unwrap_or_default();
        let answer: Arc<[u32]> = answer.into();
        state.chosen.insert(prompt.to_vec(), Arc::clone(&answer));
        answer
    }
}

impl Script for Answers {
    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError> {
        // More rows than sequences that decode at the same time.
        const OF_A_PROMPT: usize = 32;
        let state = self.state();
        let time = if rows.len() < OF_A_PROMPT { state.step } else { state.step + state.prompt_step };
        drop(state);
        thread::sleep(time);
        Ok(())
    }

    fn logits(&mut self, tokens: &[u32], logits: &mut [f32]) -> Result<(), ModelError> {
        let mut state = self.state();
        let header = self.tokenizer.special(Special::Assistant);
        // The turn begins after its header and the think marker; raw text has neither.
        let start = tokens.iter().rposition(|&token| Some(token) == header).map_or(0, |header| header + 2);
        let start = start.min(tokens.len());
        let answer = self.choose(&mut state, &tokens[..start]);
        let at = tokens.len() - start;
        state.has_failed |= state.fail_at == Some(at);
        if state.has_failed {
            return Err(ModelError::Device("the scripted device is unplugged".to_owned()));
        }
        let end = self.tokenizer.special(Special::Eos).expect("an end of sentence");
        logits[answer.get(at).copied().unwrap_or(end) as usize] = CERTAIN;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Arc<Tokenizer> {
        crate::tokenizer_of(&crate::open_model(ds4_testdata::nano()))
    }

    /// Asks the script token by token.
    fn answer(script: &mut Answers, prompt: &str, thinking: bool) -> String {
        let tokenizer = Arc::clone(&script.tokenizer);
        let mut prompted = ds4_chat::special::Prompt::new();
        prompted.control(Special::Bos).control(Special::User).text(prompt).control(Special::Assistant);
        prompted.control(if thinking { Special::Think } else { Special::EndThink });
        let mut tokens = tokenizer.encode_prompt(&prompted).expect("all control tokens");
        let start = tokens.len();
        loop {
            let mut logits = vec![0.0; tokenizer.vocab_size()];
            script.logits(&tokens, &mut logits).expect("an answer");
            let next = logits.iter().position(|&logit| logit == CERTAIN).expect("a token") as u32;
            if Some(next) == tokenizer.special(Special::Eos) {
                return tokenizer.decode_lossy(&tokens[start..]);
            }
            tokens.push(next);
        }
    }

    #[test]
    fn the_first_rule_that_applies_is_played() {
        let mut script = Answers::new(tokenizer());
        let rules = serde_json::json!([
            { "last": "<tool_result>", "answer": { "text": "Done." } },
            { "prompt": "file", "answer": {
                "reasoning": "Hm.", "text": "Well.", "calls": [{ "name": "write", "arguments": { "path": "a", "lines": [1] } }],
            } },
            { "answer": { "text": "What?" } },
        ]);
        script.set_rules(serde_json::from_value(rules).expect("rules"));
        assert_eq!(answer(&mut script, "A file: <tool_result>", true), "</think>Done.");
        let call = "Well.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"write\">\n\
                    <｜DSML｜parameter name=\"path\" string=\"true\">a</｜DSML｜parameter>\n\
                    <｜DSML｜parameter name=\"lines\" string=\"false\">[1]</｜DSML｜parameter>\n\
                    </｜DSML｜invoke>\n</｜DSML｜tool_calls>";
        assert_eq!(answer(&mut script, "A file", true), format!("Hm.</think>{call}"));
        assert_eq!(answer(&mut script, "A file", false), call);
        assert_eq!(answer(&mut script, "x", false), "What?");
        script.say("No{{/think}}.");
        assert_eq!(answer(&mut script, "x", false), "No</think>.");
    }
}
