//! Follows one generation through its grammar.

use std::sync::{Arc, mpsc};

use ds4_engine::sampling::TokenMask;
use llguidance::Matcher;
use toktrie::SimpleVob;

use crate::mask_threads::MaskThreads;
use crate::watch::Watch;

/// The place of one generation in its grammar.
///
/// A mask is computed on another thread, from [`accept`](Self::accept) on: while the model computes the logits that it is for.
pub struct TokenMatcher {
    threads: Arc<MaskThreads>,
    state: State,
    mask: TokenMask,
    is_complete: bool,
    failure: Option<String>,
}

enum State {
    /// The mask of this place is computed elsewhere, and the matcher is there, too.
    Computing(mpsc::Receiver<(Box<Follower>, Computed)>),
    /// `mask` is that of this place.
    Ready(Box<Follower>),
    /// Nothing may follow.
    Over,
}

/// What follows the tokens: the grammar, and what decides where a free-form tool's text ends.
struct Follower {
    matcher: Matcher,
    watch: Option<Watch>,
}

impl Follower {
    fn mask(&mut self, n_vocab: usize) -> Computed {
        let mut allowed = self.matcher.compute_mask_or_eos().map_err(|error| crate::error::reason(&error))?;
        if let Some(watch) = &mut self.watch
            && allowed.is_allowed(watch.dsml())
            && !watch.may_close()
        {
            allowed.disallow_token(watch.dsml());
        }
        Ok(mask_of(&allowed, n_vocab))
    }
}

type Computed = Result<TokenMask, String>;

impl TokenMatcher {
    /// At the beginning of a grammar. n_vocab: size of the vocabulary.
    pub(crate) fn new(matcher: Matcher, watch: Option<Watch>, threads: Arc<MaskThreads>, n_vocab: usize) -> Self {
        let mut new =
            Self { threads, state: State::Over, mask: TokenMask::none(n_vocab), is_complete: false, failure: None };
        new.compute(Box::new(Follower { matcher, watch }));
        new
    }

    /// The tokens that may come next. The end-of-sentence token is one of them where the grammar may end.
    /// None at all after a [failure](Self::failure).
    pub fn allowed(&mut self) -> &TokenMask {
        self.wait();
        &self.mask
    }

    /// Takes the next token, which was an allowed one.
    pub fn accept(&mut self, token: u32) {
        self.wait();
        let State::Ready(mut follower) = std::mem::replace(&mut self.state, State::Over) else { return };
        if let Some(watch) = &mut follower.watch {
            watch.accept(token);
        }
        let matcher = &mut follower.matcher;
        match matcher.consume_token(token) {
            Err(error) => self.fail(crate::error::reason(&error)),
            Ok(()) if matcher.is_stopped() => {
                self.is_complete = matcher.stop_reason().is_ok();
                if !self.is_complete {
                    self.fail(matcher.stop_reason().to_string());
                }
                self.mask = TokenMask::none(self.mask.n_vocab());
            }
            Ok(()) => self.compute(follower),
        }
    }

    /// Whether the grammar is at its end, and nothing can follow.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Why no token is allowed any more, if that is not because the grammar [is complete](Self::is_complete): the
    /// schema turned out to be too costly to follow, or a token was accepted that was not allowed.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn compute(&mut self, mut follower: Box<Follower>) {
        let (sender, receiver) = mpsc::sync_channel(1);
        let n_vocab = self.mask.n_vocab();
        self.threads.submit(move || {
            let computed = follower.mask(n_vocab);
            // Nobody waits for it if the generation was cancelled.
            let _ = sender.send((follower, computed));
        });
        self.state = State::Computing(receiver);
    }

    /// Waits for a mask that is being computed.
    fn wait(&mut self) {
        let State::Computing(receiver) = &self.state else { return };
        match receiver.recv() {
            Ok((follower, Ok(mask))) => {
                self.mask = mask;
                self.state = State::Ready(follower);
            }
            Ok((_, Err(reason))) => self.fail(reason),
            Err(mpsc::RecvError) => self.fail("the computation of the allowed tokens broke off".to_owned()),
        }
    }

    fn fail(&mut self, reason: String) {
        self.state = State::Over;
        self.mask = TokenMask::none(self.mask.n_vocab());
        self.failure = Some(reason);
    }
}

fn mask_of(allowed: &SimpleVob, n_vocab: usize) -> TokenMask {
    TokenMask::from_words_32(allowed.as_slice(), n_vocab)
}
