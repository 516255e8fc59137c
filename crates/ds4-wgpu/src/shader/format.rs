//! Formats of weights, and the kernels' text that loads them.

use std::fmt::Write as _;

use ds4_gguf::TensorType;

/// Storage type of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    Bf16,
    /// Q8_0.
    Q8_0,
    /// Q2_K.
    Q2K,
    /// Q4_K.
    Q4K,
    /// IQ2_XXS.
    Iq2Xxs,
    /// MXFP4.
    Mxfp4,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 8] =
        [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q2K, Self::Q4K, Self::Iq2Xxs, Self::Mxfp4];

    /// The format of a tensor type; `None` for types that no matrix has.
    pub fn of(ty: TensorType) -> Option<Self> {
        Some(match ty {
            TensorType::F32 => Self::F32,
            TensorType::F16 => Self::F16,
            TensorType::BF16 => Self::Bf16,
            TensorType::Q8_0 => Self::Q8_0,
            TensorType::Q2_K => Self::Q2K,
            TensorType::Q4_K => Self::Q4K,
            TensorType::IQ2_XXS => Self::Iq2Xxs,
            TensorType::MXFP4 => Self::Mxfp4,
            TensorType::I32 => return None,
        })
    }

    /// Whether it has blocks with scales, and so products with int8 activations.
    pub fn is_block(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Weights of a unit: what a lane takes at a time.
    pub fn unit(self) -> usize {
        if self.is_block() { 32 } else { 8 }
    }

    /// The name in the kernels.
    fn word(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q2K => "q2_k",
            Self::Q4K => "q4_k",
            Self::Iq2Xxs => "iq2_xxs",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// Weights with this format's name for vectors that its codes are loaded in.
    fn access(self, planes: bool) -> Access {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => Access::Quads,
            _ if !planes => Access::Words,
            Self::Q2K | Self::Iq2Xxs => Access::Pairs,
            Self::Q8_0 | Self::Q4K | Self::Mxfp4 => Access::Quads,
        }
    }

    fn decoder(self, planes: bool) -> &'static [&'static str] {
        macro_rules! text {
            ($($name:literal),+) => { &[$(include_str!(concat!("../kernels/weights/", $name, ".wgsl"))),+] };
        }
        match (self, planes) {
            (Self::F32, _) => text!("f32"),
            (Self::F16, _) => text!("f16"),
            (Self::Bf16, _) => text!("bf16"),
            (Self::Q8_0, false) => text!("q8_0_file"),
            (Self::Q8_0, true) => text!("q8_0_planes"),
            (Self::Q2K, false) => text!("q2_k_file"),
            (Self::Q2K, true) => text!("q2_k_planes"),
            (Self::Q4K, false) => text!("q4_k_file"),
            (Self::Q4K, true) => text!("q4_k_planes"),
            (Self::Iq2Xxs, false) => text!("iq2_xxs", "iq2_xxs_file"),
            (Self::Iq2Xxs, true) => text!("iq2_xxs", "iq2_xxs_planes"),
            (Self::Mxfp4, false) => text!("mxfp4", "mxfp4_file"),
            (Self::Mxfp4, true) => text!("mxfp4", "mxfp4_planes"),
        }
    }
}

/// In what pieces weights are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Words,
    Pairs,
    Quads,
}

impl Access {
    fn binding(self, number: u32) -> String {
        let (name, ty) = match self {
            Self::Words => ("words", "u32"),
            Self::Pairs => ("pairs", "vec2<u32>"),
            Self::Quads => ("quads", "vec4<u32>"),
        };
        format!("@group(0) @binding({number}) var<storage, read> {name}: array<{ty}>;\n")
    }

    fn text(self) -> &'static str {
        match self {
            Self::Words => include_str!("../kernels/weights/words.wgsl"),
            Self::Pairs => include_str!("../kernels/weights/pairs.wgsl"),
            Self::Quads => include_str!("../kernels/weights/quads.wgsl"),
        }
    }
}

/// Number of the binding of the weights, of the other format's where the two are bound in different pieces, and of the magnitudes
/// of IQ2_XXS.
const WEIGHTS: u32 = 1;
const OTHER_WEIGHTS: u32 = 8;
const GRID: u32 = 5;

/// Whether two formats' weights are bound in different pieces of memory at once.
pub(crate) fn differ(one: Format, other: Format, planes: bool) -> bool {
    one.access(planes) != other.access(planes)
}

/// What loads weights of one or two formats: functions `load_unit`, `add_unit`, `prepare_weights`, and with a second format
/// `load_other` and `add_other`.
pub(super) fn weights_text(format: Format, other: Option<Format>, planes: bool) -> String {
    let mut text = format.access(planes).binding(WEIGHTS);
    let both: Vec<Format> = [Some(format), other.filter(|&other| other != format)].into_iter().flatten().collect();
    if let Some(other) = other.filter(|&other| differ(format, other, planes)) {
        text.push_str(&other.access(planes).binding(OTHER_WEIGHTS));
    }
    if both.contains(&Format::Iq2Xxs) {
        let _ = writeln!(text, "@group(0) @binding({GRID}) var<storage, read> grid: array<vec2<u32>>;");
    }
    text.push_str(match format.is_block() {
        true => concat!(include_str!("../kernels/bytes.wgsl"), include_str!("../kernels/weights/blocks.wgsl")),
        false => {
            concat!(include_str!("../kernels/weights/floats.wgsl"), include_str!("../kernels/weights/floats_only.wgsl"))
        }
    });
    let mut accesses: Vec<Access> = Vec::new();
    for format in &both {
        if format.is_block() && !accesses.contains(&format.access(planes)) {
            accesses.push(format.access(planes));
            text.push_str(format.access(planes).text());
        }
        for part in format.decoder(planes) {
            text.push_str(part);
        }
    }
    for (name, format) in [("unit", Some(format)), ("other", other)] {
        let Some(format) = format else { continue };
        let word = format.word();
        let add = if matches!(format, Format::Q2K | Format::Q4K) { "add_with_minimum" } else { "add_plain" };
        let _ = writeln!(
            text,
            "fn load_{name}(row: u32, u: u32, units: u32) -> Unit {{ return load_{word}(row, u, units); }}\n\
             fn add_{name}(unit: Unit, low: vec4<u32>, high: vec4<u32>, d: f32, sum: f32) -> f32 {{\n    \
                 return {add}(unit, low, high, d, sum);\n}}"
        );
    }
    let prepare = if both.contains(&Format::Iq2Xxs) { "prepare_iq2_xxs(t);" } else { "" };
    let _ = writeln!(text, "fn prepare_weights(t: u32) {{ {prepare} }}");
    text
}

/// What loads weights of an unquantized format beside those of a block format in the same binding: a function `load_floats`.
pub(super) fn floats_text(format: Format, planes: bool) -> String {
    let mut text = include_str!("../kernels/weights/floats.wgsl").to_owned();
    for part in format.decoder(planes) {
        text.push_str(part);
    }
    let word = format.word();
    let _ = writeln!(
        text,
        "fn load_floats(row: u32, u: u32, units: u32) -> FloatUnit {{ return load_{word}(row, u, units); }}"
    );
    text
}
