//! What is refused before anything is loaded, and how the weights come to the card.

use std::sync::Arc;

use ds4_model::Model;

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::shader::PRODUCT_ROWS;
use crate::weights::Source;

/// Refuses shapes that the kernels are not written for. No published model has one.
pub(super) fn check_shape(model: &Model) -> Result<(), WgpuError> {
    let config = model.config();
    let multiples = [
        ("embedding_length", config.n_embd, 32),
        ("attention.q_lora_rank", config.q_rank, 8),
        ("attention.output_lora_rank", config.o_rank, PRODUCT_ROWS as usize),
        ("attention.key_length", config.head_dim, 8),
        ("rope.dimension_count", config.rope_dim, 4),
        ("expert_feed_forward_length", config.n_ff, 32),
    ];
    if let Some((key, value, of)) = multiples.into_iter().find(|(_, value, of)| !value.is_multiple_of(*of)) {
        return Err(WgpuError::Shape(format!("deepseek4.{key} is {value}, no multiple of {of}")));
    }
    // Workgroup memory is 16 KiB at least.
    let most = [
        ("attention.key_length", config.head_dim, 512),
        ("attention.indexer.key_length", config.idx_dim, 512),
        ("expert_count", config.n_expert, 1024),
        ("expert_used_count", config.n_expert_used, 64),
        ("hyper_connection.count", config.hc, 8),
    ];
    match most.into_iter().find(|(_, value, most)| value > most) {
        Some((key, value, most)) => Err(WgpuError::Shape(format!("deepseek4.{key} is {value}, above {most}"))),
        None => Ok(()),
    }
}

/// How the weights come to the card.
#[cfg(target_vendor = "apple")]
pub(super) fn source(gpu: &Arc<Gpu>, model: &Arc<Model>) -> Result<Source, WgpuError> {
    crate::metal::source(gpu, model)
}

#[cfg(not(target_vendor = "apple"))]
pub(super) fn source(_gpu: &Arc<Gpu>, _model: &Arc<Model>) -> Result<Source, WgpuError> {
    Ok(Source::Copied)
}
