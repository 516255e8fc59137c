//! Element and block types that a tensor can be stored in.

use std::fmt;

/// Storage type of a tensor: a plain number type or a block format.
///
/// A row of `ne[0]` elements is `ne[0] / block_len()` consecutive blocks of `block_bytes()` bytes
/// each. The numbers are those of ggml's `ggml_type`, which the file stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)] // the field spells these names so
pub enum TensorType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 32 signed bytes and a half-precision scale.
    Q8_0,
    /// 256 two-bit codes with 4-bit scales and minima per 16.
    Q2_K,
    /// 256 four-bit codes with 6-bit scales and minima per 32.
    Q4_K,
    /// 256 elements as rows of a 256-entry grid of magnitudes, signs and a 4-bit scale per 32.
    IQ2_XXS,
    /// 32-bit signed integer.
    I32,
    /// Upper half of a 32-bit float.
    BF16,
    /// 32 E2M1 floats and a power-of-two scale.
    MXFP4,
}

impl TensorType {
    /// Every supported type, by ascending id.
    pub const ALL: [TensorType; 9] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::Q8_0,
        TensorType::Q2_K,
        TensorType::Q4_K,
        TensorType::IQ2_XXS,
        TensorType::I32,
        TensorType::BF16,
        TensorType::MXFP4,
    ];

    /// The number that stands for this type in a file.
    pub const fn id(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q8_0 => 8,
            TensorType::Q2_K => 10,
            TensorType::Q4_K => 12,
            TensorType::IQ2_XXS => 16,
            TensorType::I32 => 26,
            TensorType::BF16 => 30,
            TensorType::MXFP4 => 39,
        }
    }

    /// The type with this number, or `None` if it is not supported.
    pub fn from_id(id: u32) -> Option<TensorType> {
        Self::ALL.into_iter().find(|ty| ty.id() == id)
    }

    /// Elements per block; 1 for the plain number types.
    pub const fn block_len(self) -> usize {
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::I32 | TensorType::BF16 => 1,
            TensorType::Q8_0 | TensorType::MXFP4 => 32,
            TensorType::Q2_K | TensorType::Q4_K | TensorType::IQ2_XXS => 256,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            TensorType::F32 | TensorType::I32 => 4,
            TensorType::F16 | TensorType::BF16 => 2,
            TensorType::Q8_0 => 34,
            TensorType::Q2_K => 84,
            TensorType::Q4_K => 144,
            TensorType::IQ2_XXS => 66,
            TensorType::MXFP4 => 17,
        }
    }

    /// Whether this is one of the block formats, which have an integer dot product.
    pub const fn is_block_format(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of a row of `len` elements, or `None` if `len` is not a whole number of blocks or the
    /// product does not fit.
    pub fn row_bytes(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Storage cost of one element, in bits.
    pub fn bits_per_element(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// The name as the field writes it, for example `Q8_0`.
    pub const fn name(self) -> &'static str {
        match self {
            TensorType::F32 => "F32",
            TensorType::F16 => "F16",
            TensorType::Q8_0 => "Q8_0",
            TensorType::Q2_K => "Q2_K",
            TensorType::Q4_K => "Q4_K",
            TensorType::IQ2_XXS => "IQ2_XXS",
            TensorType::I32 => "I32",
            TensorType::BF16 => "BF16",
            TensorType::MXFP4 => "MXFP4",
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for TensorType {
    type Err = UnknownTypeName;

    /// Accepts the name in any letter case.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|ty| ty.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| UnknownTypeName(crate::error::Quoted::new(s)))
    }
}

/// A word that names none of the supported types.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a tensor type; the supported ones are {list}", list = supported())]
pub struct UnknownTypeName(crate::error::Quoted);

/// `F32 (0), F16 (1), ...`: for messages about an unsupported type.
pub(crate) fn supported_with_ids() -> String {
    let list: Vec<String> = TensorType::ALL.iter().map(|ty| format!("{ty} ({})", ty.id())).collect();
    list.join(", ")
}

fn supported() -> String {
    let list: Vec<&str> = TensorType::ALL.iter().map(|ty| ty.name()).collect();
    list.join(", ")
}
