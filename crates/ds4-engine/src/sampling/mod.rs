//! From a row of logits to a token.
//!
//! [`Sampler::sample`] applies, always in this order:
//!
//! 1. **log-probabilities** are taken from the logits as the model gave them (only when asked for);
//! 2. **logit bias** is added;
//! 3. **penalties**: repetition, then frequency and presence ([`penalties`]);
//! 4. the step's [`Directive`]: a forced token, an allowed set, banned tokens;
//! 5. at temperature 0, or where the directive says so: the **largest** logit, of equal ones the lowest id;
//! 6. otherwise **temperature**, then the token must pass each of **top-k**, **top-p** and **min-p**
//!    ([`truncation`]), and one is drawn.
//!
//! Temperature comes before the truncations, so top-p and min-p see the distribution that is drawn from. Top-p is a share
//! of what top-k left; min-p is relative to the likeliest token. A token is drawn from those that pass all
//! three, so their order does not matter beyond that.
//!
//! Log-probabilities are those of the model's own distribution, before bias, penalties, temperature and truncation. A
//! client then compares like with like whatever it asked to be sampled, and a greedy answer has meaningful values, too.
//!
//! Given the same logits, a seed gives the same tokens on every machine: the random numbers are ChaCha's, the
//! exponential function is our own ([`ds4_model::logits::softmax`]), and sums have one order.

mod directive;
mod logprobs;
mod params;
mod penalties;
mod random;
mod sampler;
mod token_mask;
mod truncation;

pub use directive::{Directive, Flow, Guide};
pub use logprobs::{MAX_TOP_LOGPROBS, TokenLogprob, TokenLogprobs};
pub use params::{ParamsError, SamplingParams};
pub use random::random_seed;
pub use sampler::{SampleError, Sampled, Sampler};
pub use token_mask::TokenMask;
