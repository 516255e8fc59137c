//! Compiling grammars over one vocabulary.

use std::num::NonZero;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use lru::LruCache;

use crate::error::reason;
use crate::mask_threads::MaskThreads;
use crate::shape::Shape;
use crate::{GrammarError, TokenMatcher, calls, vocabulary};

/// Compiled grammars that are kept: agents send the same tools with every turn.
const KEPT: NonZero<usize> = NonZero::new(32).expect("not zero");

/// Grammars whose text is longer are not kept, in bytes.
const LARGEST_KEPT: usize = 256 << 10;

/// Longest text of a grammar, in bytes. Reading one takes time in proportion.
const LARGEST: usize = 1 << 20;

/// What a grammar may cost. All counts are of steps and places, so the same grammar passes or fails on every machine.
fn limits() -> ParserLimits {
    ParserLimits {
        // About 20 ms.
        initial_lexer_fuel: 1_000_000,
        max_grammar_size: 200_000,
        // About 15 ms for a mask at worst.
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_items_in_row: 2_000,
        // Each takes 1 to 2 kB.
        max_lexer_states: 50_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// Compiles grammars over one vocabulary, which it prepares when the first grammar is asked for.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: OnceLock<Result<ParserFactory, String>>,
    threads: OnceLock<Arc<MaskThreads>>,
    /// Held while a grammar is compiled: one at a time, so that costly ones take one processor and the memory of one.
    compiling: Mutex<()>,
    kept: Mutex<LruCache<String, Grammar>>,
}

impl Grammars {
    /// For the vocabulary of `tokenizer`. Nothing is prepared yet.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            factory: OnceLock::new(),
            threads: OnceLock::new(),
            compiling: Mutex::new(()),
            kept: Mutex::new(LruCache::new(KEPT)),
        }
    }

    /// Compiles what `shape` says. The first call prepares the vocabulary, which takes a fraction of a second; another takes
    /// milliseconds, so it does not belong on a thread that serves connections.
    ///
    /// # Errors
    /// A schema that cannot be enforced, or is too costly.
    pub fn compile(&self, shape: &Shape) -> Result<Grammar, GrammarError> {
        let text = calls::grammar_text(shape, self.dsml()?)?;
        if let Some(grammar) = self.lock().get(&text) {
            return Ok(grammar.clone());
        }
        let _one_at_a_time = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(grammar) = self.lock().get(&text) {
            return Ok(grammar.clone());
        }
        let compiled = self.compile_text(&text).map_err(|reason| self.blame(shape, reason))?;
        if text.len() <= LARGEST_KEPT {
            self.lock().put(text, compiled.clone());
        }
        Ok(compiled)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<String, Grammar>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dsml(&self) -> Result<u32, GrammarError> {
        let reason = "it has no marker of tool markup";
        self.tokenizer.special(Special::Dsml).ok_or_else(|| GrammarError::Vocabulary { reason: reason.to_owned() })
    }

    fn compile_text(&self, text: &str) -> Result<Grammar, String> {
        if text.len() > LARGEST {
            return Err(format!("it is larger than {LARGEST} bytes"));
        }
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer)).as_ref().map_err(String::clone)?;
        let parser = factory.create_parser(TopLevelGrammar::from_lark(text.to_owned()));
        let mut pristine = Matcher::new(parser);
        if let Some(error) = pristine.get_error() {
            return Err(reason(&error));
        }
        // A grammar that is too costly shows it at its first token more often than not; then it is refused before any work.
        pristine.compute_mask_or_eos().map_err(|error| reason(&error))?;
        Ok(Grammar {
            pristine: Arc::new(Mutex::new(pristine)),
            threads: Arc::clone(self.threads.get_or_init(|| Arc::new(MaskThreads::start()))),
            n_vocab: self.tokenizer.vocab_size(),
        })
    }

    /// Finds the part of `shape` that cannot be compiled.
    fn blame(&self, shape: &Shape, reason: String) -> GrammarError {
        if let Some(Err(reason)) = self.factory.get() {
            return GrammarError::Vocabulary { reason: reason.clone() };
        }
        let alone = |shape: &Shape| -> Option<String> {
            let text = self.dsml().and_then(|dsml| calls::grammar_text(shape, dsml)).ok()?;
            self.compile_text(&text).err()
        };
        if let Some(format) = &shape.format
            && let Some(reason) = alone(&Shape::answer(format.clone()))
        {
            return GrammarError::Format { reason };
        }
        for tool in shape.tools.iter().filter(|tool| tool.parameters.is_some()) {
            if let Some(reason) = alone(&Shape::calls(crate::Entry::Block, vec![tool.clone()])) {
                return GrammarError::Tool { tool: tool.name.clone(), reason };
            }
        }
        GrammarError::Together { reason }
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("is_prepared", &self.factory.get().is_some()).finish_non_exhaustive()
    }
}

fn factory(tokenizer: &Arc<Tokenizer>) -> Result<ParserFactory, String> {
    let vocabulary = vocabulary::vocabulary(Arc::clone(tokenizer))?;
    let capabilities = InferenceCapabilities { ff_tokens: false, ..InferenceCapabilities::default() };
    let mut factory = ParserFactory::new(&vocabulary, capabilities, &SlicedBiasComputer::general_slices())
        .map_err(|error| reason(&error))?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(factory)
}

/// A compiled grammar. Clones are handles of the same one.
#[derive(Clone)]
pub struct Grammar {
    /// At the beginning. Its caches are its own, so what a copy costs does not depend on other copies.
    pristine: Arc<Mutex<Matcher>>,
    threads: Arc<MaskThreads>,
    n_vocab: usize,
}

impl Grammar {
    /// Begins to follow a generation.
    pub fn matcher(&self) -> TokenMatcher {
        let matcher = self.pristine.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        TokenMatcher::new(matcher, Arc::clone(&self.threads), self.n_vocab)
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}
