//! Compiling grammars over one vocabulary.

use std::collections::HashMap;
use std::num::NonZero;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ds4_chat::special::Special;
use ds4_chat::tokenizer::Tokenizer;
use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use lru::LruCache;

use crate::error::{reason, reason_in_lines};
use crate::mask_threads::MaskThreads;
use crate::shape::{Arguments, Entry, Shape};
use crate::watch::{Inputs, Watch};
use crate::{GrammarError, TokenMatcher, calls, vocabulary};

/// Compiled grammars that are kept: agents send the same tools with every turn.
const KEPT: NonZero<usize> = NonZero::new(32).expect("not zero");

/// Grammars whose text is longer are not kept, in bytes.
const LARGEST_KEPT: usize = 256 << 10;

/// Longest text of a grammar, in bytes. Reading one takes time in proportion.
const LARGEST: usize = 1 << 20;

/// Most free-form tools with grammars of their own. The compiler keeps the words of each apart, in fewer than 256 classes.
const MOST_INPUTS: usize = 64;

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
    kept: Mutex<LruCache<Texts, Grammar>>,
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
    /// A schema or grammar that cannot be enforced, or is too costly.
    pub fn compile(&self, shape: &Shape) -> Result<Grammar, GrammarError> {
        let text = Texts::of(shape, self.dsml()?)?;
        if let Some(grammar) = self.lock().get(&text) {
            return Ok(grammar.clone());
        }
        let _one_at_a_time = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(grammar) = self.lock().get(&text) {
            return Ok(grammar.clone());
        }
        let inputs = self.inputs(shape, &text)?;
        let pristine = self.pristine(&text).map_err(|reason| self.blame(shape, reason))?;
        let compiled = Grammar {
            pristine: Arc::new(Mutex::new(pristine)),
            inputs,
            threads: Arc::clone(self.threads.get_or_init(|| Arc::new(MaskThreads::start()))),
            n_vocab: self.tokenizer.vocab_size(),
        };
        if text.len() <= LARGEST_KEPT {
            self.lock().put(text, compiled.clone());
        }
        Ok(compiled)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<Texts, Grammar>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dsml(&self) -> Result<u32, GrammarError> {
        let reason = "it has no marker of tool markup";
        self.tokenizer.special(Special::Dsml).ok_or_else(|| GrammarError::Vocabulary { reason: reason.to_owned() })
    }

    /// The grammars of free-form tools, each by itself.
    fn inputs(&self, shape: &Shape, text: &Texts) -> Result<Option<InputGrammars>, GrammarError> {
        if text.inputs.is_empty() {
            return Ok(None);
        }
        let mut by_tool = HashMap::new();
        for (index, lark) in &text.inputs {
            let tool = &shape.tools[*index].name;
            let matcher = self.matcher(TopLevelGrammar::from_lark(lark.clone())).map_err(|error| match error {
                CompileError::Vocabulary(reason) => GrammarError::Vocabulary { reason },
                CompileError::Grammar(error) => {
                    GrammarError::Input { tool: tool.clone(), reason: reason_in_lines(&error) }
                }
            })?;
            by_tool.insert(tool.clone(), Mutex::new(matcher));
        }
        let start = match &shape.entry {
            Entry::Call(name) => Some(name.clone()),
            Entry::Answer | Entry::Opener | Entry::Block => None,
        };
        let inputs = Inputs { by_tool, dsml: self.dsml()?, tokenizer: Arc::clone(&self.tokenizer) };
        Ok(Some(InputGrammars { inputs: Arc::new(inputs), start }))
    }

    fn pristine(&self, text: &Texts) -> Result<Matcher, String> {
        if text.len() > LARGEST {
            return Err(format!("it is larger than {LARGEST} bytes"));
        }
        self.matcher(text.grammar()).map_err(|error| match error {
            CompileError::Vocabulary(reason) => reason,
            CompileError::Grammar(error) => reason(&error),
        })
    }

    /// Compiles a grammar, and looks at its first token: one that is too costly shows it there more often than not, and is
    /// then refused before any work.
    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, CompileError> {
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer)).as_ref();
        let factory = factory.map_err(|reason| CompileError::Vocabulary(reason.clone()))?;
        // The compiler asserts what it expects of a grammar, and clients write some.
        let parser = catch_unwind(AssertUnwindSafe(|| factory.create_parser(grammar)));
        let mut matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(CompileError::Grammar(error));
        }
        matcher.compute_mask_or_eos().map_err(|error| CompileError::Grammar(error.to_string()))?;
        Ok(matcher)
    }

    /// Finds the part of `shape` that cannot be compiled.
    fn blame(&self, shape: &Shape, reason: String) -> GrammarError {
        if let Some(Err(reason)) = self.factory.get() {
            return GrammarError::Vocabulary { reason: reason.clone() };
        }
        let alone = |shape: &Shape| -> Option<String> {
            let text = self.dsml().and_then(|dsml| Texts::of(shape, dsml)).ok()?;
            self.pristine(&text).err()
        };
        if let Some(format) = &shape.format
            && let Some(reason) = alone(&Shape::answer(format.clone()))
        {
            return GrammarError::Format { reason };
        }
        for tool in shape.tools.iter().filter(|tool| tool.arguments != Arguments::Any) {
            if let Some(reason) = alone(&Shape::calls(Entry::Block, vec![tool.clone()])) {
                return match tool.arguments {
                    Arguments::Input(_) => GrammarError::Input { tool: tool.name.clone(), reason },
                    _ => GrammarError::Tool { tool: tool.name.clone(), reason },
                };
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

/// Why a grammar could not be compiled.
enum CompileError {
    Vocabulary(String),
    /// What the compiler says.
    Grammar(String),
}

/// The texts that a shape is compiled from.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Texts {
    /// The grammar of the answer or the calls.
    main: String,
    /// Those of free-form tools, with the tool's place.
    inputs: Vec<(usize, String)>,
}

impl Texts {
    fn of(shape: &Shape, dsml: u32) -> Result<Self, GrammarError> {
        let mut inputs = Vec::new();
        for (index, tool) in shape.tools.iter().enumerate() {
            let Arguments::Input(grammar) = &tool.arguments else { continue };
            let lark = grammar.to_lark();
            let refused = |reason| GrammarError::Input { tool: tool.name.clone(), reason };
            inputs.push((index, lark.map_err(refused)?));
            if inputs.len() > MOST_INPUTS {
                return Err(refused(format!("at most {MOST_INPUTS} tools can have a grammar of their own")));
            }
        }
        Ok(Self { main: calls::grammar_text(shape, dsml)?, inputs })
    }

    fn len(&self) -> usize {
        self.main.len() + self.inputs.iter().map(|(_, lark)| lark.len()).sum::<usize>()
    }

    fn grammar(&self) -> TopLevelGrammar {
        let named = |(index, lark): &(usize, String)| GrammarWithLexer {
            name: Some(calls::input_name(*index)),
            ..GrammarWithLexer::from_lark(lark.clone())
        };
        let main = GrammarWithLexer::from_lark(self.main.clone());
        let grammars = std::iter::once(main).chain(self.inputs.iter().map(named)).collect();
        TopLevelGrammar { grammars, max_tokens: None }
    }
}

/// The grammars of free-form tools, and the tool within whose call the grammar begins.
#[derive(Clone)]
struct InputGrammars {
    inputs: Arc<Inputs>,
    start: Option<String>,
}

/// A compiled grammar. Clones are handles of the same one.
#[derive(Clone)]
pub struct Grammar {
    /// At the beginning. Its caches are its own, so what a copy costs does not depend on other copies.
    pristine: Arc<Mutex<Matcher>>,
    inputs: Option<InputGrammars>,
    threads: Arc<MaskThreads>,
    n_vocab: usize,
}

impl Grammar {
    /// Begins to follow a generation.
    pub fn matcher(&self) -> TokenMatcher {
        let matcher = self.pristine.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        let inputs = self.inputs.as_ref();
        let watch = inputs.map(|inputs| Watch::new(Arc::clone(&inputs.inputs), inputs.start.as_deref()));
        TokenMatcher::new(matcher, watch, Arc::clone(&self.threads), self.n_vocab)
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}
