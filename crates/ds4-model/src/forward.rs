//! The forward pass of the model, written once over [`Backend`].

use crate::state::SequenceState;
use crate::{Backend, ModelError, Rows, Sublayer};

/// Runs a batch through the whole model and advances its sequences.
///
/// Logits of the wanted rows are then in [`Buffer::Logits`](crate::Buffer::Logits).
///
/// # Errors
/// A token outside the vocabulary, or a failing device. After a device error the sequences are unusable.
///
/// # Panics
/// When a span does not continue its sequence where that ends: a caller's mistake, not bad input.
pub fn forward<B: Backend + ?Sized>(
    backend: &mut B,
    rows: &Rows,
    sequences: &mut [&mut B::Sequence],
) -> Result<(), ModelError> {
    let config = backend.model().config();
    let (n_layer, vocab) = (config.n_layer, config.n_vocab);
    if let Some(&token) = rows.tokens().iter().find(|&&token| token as usize >= vocab) {
        return Err(ModelError::Token { token, vocab });
    }
    for span in rows.spans() {
        let len = sequences[span.sequence].len();
        assert_eq!(len, span.first_position, "a span starts where its sequence ends");
    }
    if rows.is_empty() {
        return Ok(());
    }

    backend.begin(rows)?;
    backend.embed(rows)?;
    for layer in 0..n_layer {
        forward_layer(backend, layer, rows, sequences)?;
    }
    if !rows.wanted().is_empty() {
        backend.head(rows)?;
    }
    for span in rows.spans() {
        sequences[span.sequence].advance(span.len);
    }
    Ok(())
}

/// Runs one layer on the streams that the backend holds. The sequences are written but not advanced.
///
/// # Errors
/// A failing device.
pub fn forward_layer<B: Backend + ?Sized>(
    backend: &mut B,
    layer: usize,
    rows: &Rows,
    sequences: &mut [&mut B::Sequence],
) -> Result<(), ModelError> {
    backend.hc_mix(layer, Sublayer::Attention)?;
    backend.attn_in(layer)?;
    backend.attn_q(layer, rows)?;
    backend.kv_append(layer, rows, sequences)?;
    backend.index_select(layer, rows, sequences)?;
    backend.attend(layer, rows, sequences)?;
    backend.attn_out(layer)?;
    backend.hc_merge(layer, Sublayer::Attention)?;

    backend.hc_mix(layer, Sublayer::Experts)?;
    backend.route(layer, rows)?;
    backend.moe(layer)?;
    backend.hc_merge(layer, Sublayer::Experts)
}
