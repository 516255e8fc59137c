//! A backend without arithmetic.

use std::sync::Arc;

use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Model, ModelError, Numerics, Rows, Sequence};

/// Decides what a [`ScriptedBackend`] computes.
pub trait Script: Send {
    /// A step begins. An error fails it; time spent here is the time that the step takes.
    ///
    /// # Errors
    /// Whatever the test wants to fail with. The same goes for [`logits`](Self::logits).
    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError> {
        let _ = rows;
        Ok(())
    }

    /// Logits of the token after `tokens`, the whole sequence up to here. `logits` comes as zeros, `n_vocab` of them.
    #[allow(clippy::missing_errors_doc)] // see `begin`
    fn logits(&mut self, tokens: &[u32], logits: &mut [f32]) -> Result<(), ModelError>;
}

/// The operations of a [`Backend`] without arithmetic: all but those that a backend for tests does something in.
#[macro_export]
macro_rules! no_arithmetic {
    () => {
        $crate::no_arithmetic!(rows: embed, head);
        $crate::no_arithmetic!(layer: attn_in, attn_out, moe);
        $crate::no_arithmetic!(layer_rows: attn_q, route);
        $crate::no_arithmetic!(sublayer: hc_mix, hc_merge);
        $crate::no_arithmetic!(sequences: index_select, attend);

        fn write(&mut self, _: ::ds4_model::Buffer, _: &[f32]) -> Result<(), ::ds4_model::ModelError> {
            Ok(())
        }

        fn selection(&self, _: usize) -> Result<Option<Vec<u32>>, ::ds4_model::ModelError> {
            Ok(None)
        }
    };
    (rows: $($name:ident),*) => {
        $(fn $name(&mut self, _: &::ds4_model::Rows) -> Result<(), ::ds4_model::ModelError> {
            Ok(())
        })*
    };
    (layer: $($name:ident),*) => {
        $(fn $name(&mut self, _: usize) -> Result<(), ::ds4_model::ModelError> {
            Ok(())
        })*
    };
    (layer_rows: $($name:ident),*) => {
        $(fn $name(&mut self, _: usize, _: &::ds4_model::Rows) -> Result<(), ::ds4_model::ModelError> {
            Ok(())
        })*
    };
    (sublayer: $($name:ident),*) => {
        $(fn $name(&mut self, _: usize, _: ::ds4_model::Sublayer) -> Result<(), ::ds4_model::ModelError> {
            Ok(())
        })*
    };
    (sequences: $($name:ident),*) => {
        $(fn $name(
            &mut self,
            _: usize,
            _: &::ds4_model::Rows,
            _: &mut [&mut Self::Sequence],
        ) -> Result<(), ::ds4_model::ModelError> {
            Ok(())
        })*
    };
}

/// The tokens of a sequence: all the state there is.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    ids: Vec<u32>,
    len: usize,
}

impl SequenceState for Tokens {
    fn len(&self) -> usize {
        self.len
    }

    fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    fn fork(&self) -> Self {
        self.clone()
    }
}

/// A backend that asks a [`Script`] for logits. It takes shape and vocabulary from a model and leaves the weights alone.
pub struct ScriptedBackend<S> {
    model: Arc<Model>,
    script: S,
    /// [wanted rows, n_vocab]
    logits: Vec<f32>,
}

impl<S: Script> ScriptedBackend<S> {
    /// A backend for `script`.
    pub fn new(model: Arc<Model>, script: S) -> Self {
        Self { model, script, logits: Vec::new() }
    }
}

impl<S: Script> Backend for ScriptedBackend<S> {
    type Sequence = Tokens;

    fn model(&self) -> &Model {
        &self.model
    }

    fn numerics(&self) -> Numerics {
        Numerics::default()
    }

    fn new_sequence(&self) -> Tokens {
        Tokens::default()
    }

    fn export(&self, _: &Tokens) -> Result<Sequence, ModelError> {
        Err(ModelError::State("a scripted sequence has no state to keep".to_owned()))
    }

    fn import(&self, _: &Sequence) -> Result<Tokens, ModelError> {
        Err(ModelError::State("a scripted sequence has no state to keep".to_owned()))
    }

    fn begin(&mut self, rows: &Rows) -> Result<(), ModelError> {
        self.script.begin(rows)
    }

    no_arithmetic!();

    /// Appends the batch's tokens and has the wanted rows answered, once per step: in the first layer.
    fn kv_append(&mut self, layer: usize, rows: &Rows, sequences: &mut [&mut Tokens]) -> Result<(), ModelError> {
        if layer > 0 {
            return Ok(());
        }
        let n_vocab = self.model.config().n_vocab;
        self.logits.clear();
        self.logits.resize(rows.wanted().len() * n_vocab, 0.0);
        // Wanted rows ascend, as the rows of the spans do.
        let mut wanted = rows.wanted().iter().zip(self.logits.chunks_exact_mut(n_vocab)).peekable();
        for span in rows.spans() {
            let sequence = &mut *sequences[span.sequence];
            assert_eq!(sequence.ids.len(), span.first_position, "a sequence goes on elsewhere than it ended");
            for (row, _) in span.rows() {
                sequence.ids.push(rows.tokens()[row]);
                if let Some((_, logits)) = wanted.next_if(|(wanted, _)| **wanted == row) {
                    self.script.logits(&sequence.ids, logits)?;
                }
            }
        }
        Ok(())
    }

    fn read(&self, buffer: Buffer) -> Result<Vec<f32>, ModelError> {
        match buffer {
            Buffer::Logits => Ok(self.logits.clone()),
            other => Err(ModelError::State(format!("a scripted backend has no {other:?}"))),
        }
    }
}
