//! DeepSeek V4 as a computation: its shape, its tensors, the forward pass and the state of a sequence.
//!
//! The forward pass is written once, in [`forward()`], as calls of about a dozen fused operations of a
//! [`Backend`]. [`reference::ReferenceBackend`] implements them as plainly as the model is specified;
//! the other backends are tested against it, operation by operation, with [`conformance`].
//!
//! - [`Config`]: every dimension and constant, read from GGUF metadata and validated.
//! - [`Model`]: the bound tensors, one per role, right shape and type, data still in the file mapping.
//! - [`Rows`]: what one forward step computes, a ragged batch of tokens of one or more sequences.
//! - [`state`]: the memory of a sequence: window ring, compressor frontiers and pages of compressed rows.

pub mod backend;
pub mod config;
pub mod conformance;
pub mod cost;
mod error;
pub mod forward;
pub mod logits;
pub mod model;
pub mod numerics;
pub mod profile;
pub mod reference;
pub mod rope;
pub mod rounding;
pub mod rows;
pub mod state;

pub use backend::{Backend, Buffer, Sublayer};
pub use config::Config;
pub use cost::ReadCost;
pub use error::ModelError;
pub use forward::{forward, forward_layer};
pub use model::{LayerTensors, Model, Routing, Tensor};
pub use numerics::{Compute, KvPrecision, Numerics};
pub use rows::{Rows, Span};
pub use state::{Sequence, StateLayout};
