//! What a tensor is for, by its name.

use serde::Serialize;

/// The classes of tensors, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A vector for each token.
    TokenEmbedding,
    /// Output matrix.
    OutputHead,
    /// Query, KV and output projections.
    AttentionProjections,
    /// Compressors of KV rows, position biases included.
    Compressors,
    /// Lightning indexers, their compressors included.
    Indexer,
    /// Hyper-connection projections.
    HyperConnections,
    /// Expert scores.
    Router,
    /// Shared experts.
    SharedExpert,
    /// Gate and up matrices of the routed experts.
    RoutedGateUp,
    /// Down matrices of the routed experts.
    RoutedDown,
    /// Norms, biases, sinks, scales, hash-routing tables.
    TablesAndNorms,
    /// The multi-token prediction block.
    Mtp,
    /// Not part of a DeepSeek V4 model.
    Other,
}

impl Class {
    /// The class of the tensor called `name`.
    pub fn of(name: &str) -> Class {
        if name.starts_with("mtp.") {
            return Class::Mtp;
        }
        match name {
            "token_embd.weight" => return Class::TokenEmbedding,
            "output.weight" => return Class::OutputHead,
            "output_hc_fn.weight" => return Class::HyperConnections,
            "output_norm.weight" | "output_hc_base.weight" | "output_hc_scale.weight" => return Class::TablesAndNorms,
            _ => {}
        }
        match layer_role(name) {
            None => Class::Other,
            Some(role) => match role {
                "attn_q_a.weight"
                | "attn_q_b.weight"
                | "attn_kv.weight"
                | "attn_output_a.weight"
                | "attn_output_b.weight" => Class::AttentionProjections,
                "attn_compressor_kv.weight" | "attn_compressor_gate.weight" | "attn_compressor_ape.weight" => {
                    Class::Compressors
                }
                "indexer.attn_q_b.weight"
                | "indexer.proj.weight"
                | "indexer_compressor_kv.weight"
                | "indexer_compressor_gate.weight"
                | "indexer_compressor_ape.weight" => Class::Indexer,
                "hc_attn_fn.weight" | "hc_ffn_fn.weight" => Class::HyperConnections,
                "ffn_gate_inp.weight" => Class::Router,
                "ffn_gate_shexp.weight" | "ffn_up_shexp.weight" | "ffn_down_shexp.weight" => Class::SharedExpert,
                "ffn_gate_exps.weight" | "ffn_up_exps.weight" => Class::RoutedGateUp,
                "ffn_down_exps.weight" => Class::RoutedDown,
                "attn_norm.weight"
                | "ffn_norm.weight"
                | "attn_q_a_norm.weight"
                | "attn_kv_a_norm.weight"
                | "attn_sinks.weight"
                | "attn_compressor_norm.weight"
                | "indexer_compressor_norm.weight"
                | "hc_attn_base.weight"
                | "hc_attn_scale.weight"
                | "hc_ffn_base.weight"
                | "hc_ffn_scale.weight"
                | "exp_probs_b.bias"
                | "ffn_gate_tid2eid.weight" => Class::TablesAndNorms,
                _ => Class::Other,
            },
        }
    }

    /// What the table calls it.
    pub fn label(self) -> &'static str {
        match self {
            Class::TokenEmbedding => "token embedding",
            Class::OutputHead => "output head",
            Class::AttentionProjections => "attention projections",
            Class::Compressors => "compressors",
            Class::Indexer => "indexer",
            Class::HyperConnections => "hyper-connections",
            Class::Router => "router",
            Class::SharedExpert => "shared expert",
            Class::RoutedGateUp => "routed gate + up",
            Class::RoutedDown => "routed down",
            Class::TablesAndNorms => "tables, norms, small",
            Class::Mtp => "MTP block",
            Class::Other => "other",
        }
    }
}

/// The part of a layer tensor's name behind `blk.N.`.
fn layer_role(name: &str) -> Option<&str> {
    let (layer, role) = name.strip_prefix("blk.")?.split_once('.')?;
    let is_number = !layer.is_empty() && layer.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_of_a_model_has_a_class_of_its_own() {
        let gguf = crate::model_source::ModelSource::Demo.open().unwrap();
        for info in gguf.tensors() {
            assert_ne!(Class::of(&info.name), Class::Other, "{}", info.name);
        }
        assert_eq!(Class::of("mtp.0.attn_kv.weight"), Class::Mtp);
    }

    #[test]
    fn unknown_names_are_other() {
        for name in ["", "blk.", "blk.x.attn_kv.weight", "blk..attn_kv.weight", "blk.0.attn_k.weight", "v.weight"] {
            assert_eq!(Class::of(name), Class::Other, "{name}");
        }
    }
}
