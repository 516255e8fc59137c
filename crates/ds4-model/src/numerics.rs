//! The two numeric switches that every backend honours.

use std::fmt;
use std::str::FromStr;

/// How matrices meet their activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compute {
    /// Weights decoded to float32, activations in float32.
    F32,
    /// Activations rounded to int8 in groups of 32 for block-quantized weights: integer dot products.
    #[default]
    Int8,
}

/// How rows of the KV cache are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvPrecision {
    /// float32, no rounding. Four times the memory; for comparisons with other implementations.
    Exact,
    /// The rounding that the model was trained with (FP8 rows, FP4 indexer rows), stored packed.
    #[default]
    Model,
}

/// Both switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Numerics {
    /// Matrix products.
    pub compute: Compute,
    /// Cached rows.
    pub kv: KvPrecision,
}

macro_rules! named {
    ($type:ident { $($variant:ident = $name:literal),+ }) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($type::$variant => $name),+ })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(name: &str) -> Result<Self, String> {
                match name {
                    $($name => Ok($type::$variant),)+
                    other => Err(format!("{other:?} is not one of {}", [$($name),+].join(", "))),
                }
            }
        }
    };
}

named!(Compute { F32 = "f32", Int8 = "int8" });
named!(KvPrecision { Exact = "exact", Model = "model" });
