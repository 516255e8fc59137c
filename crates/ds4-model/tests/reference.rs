//! The reference backend against golden vectors of an independent implementation.

mod harness;

use ds4_model::KvPrecision;
use ds4_model::reference::ReferenceBackend;
use harness::*;

fn plain(file: &str) -> ReferenceBackend {
    ReferenceBackend::new(model(file), KvPrecision::Exact)
}

fn rounded(file: &str) -> ReferenceBackend {
    ReferenceBackend::new(model(file), KvPrecision::Model)
}

#[test]
fn plain_logits_of_s_f16() {
    matches_plain_logits(&mut plain("s-f16"), "s-f16", "s-f16", &[1, 5, 40, 300, 700]);
}

#[test]
fn plain_logits_of_s_mxfp4() {
    matches_plain_logits(&mut plain("s-mxfp4"), "s-mxfp4", "s-f16", &[1, 5, 40, 300]);
}

#[test]
fn plain_logits_of_m_q2() {
    matches_plain_logits(&mut plain("m-q2"), "m-q2", "m-q2", &[1, 5, 40, 300, 700]);
}

#[test]
fn plain_logits_of_m_q4() {
    matches_plain_logits(&mut plain("m-q4"), "m-q4", "m-q4", &[1, 5, 40, 300]);
}

#[test]
fn choices() {
    matches_choices(&mut plain("s-f16"), "s-f16");
}

#[test]
fn rounded_layers() {
    matches_rounded_layers(&mut rounded("s-f16"), "s-f16");
    matches_rounded_layers(&mut rounded("m-q2"), "m-q2");
}

#[test]
fn rounded_selection() {
    matches_rounded_selection(&mut rounded("s-f16"), "s-f16");
}

#[test]
fn any_chunking_gives_the_same_bits() {
    is_bit_equal(&mut rounded("s-f16"), "s-f16", 300);
}
