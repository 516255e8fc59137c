//! Instruction sets the kernels are written for, found at run time.

use std::fmt;
use std::str::FromStr;

/// A set of vector instructions that **this** processor offers. Every kernel gives the same bits on
/// each of them.
///
/// A value exists only for a set that was found at run time, so a kernel given one may execute its
/// instructions without asking again.
///
/// ```
/// use ds4_cpu::kernels::Isa;
/// assert!(Isa::available().contains(&Isa::detect()));
/// assert_eq!("scalar".parse(), Ok(Isa::SCALAR));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Kind);

/// Names of the sets; [`Isa`] adds that this processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Portable code, the definition of every result.
    Scalar,
    /// x86-64 with AVX2, FMA, F16C and BMI2 (Haswell, Zen and later).
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI (Cascade Lake, Zen 4 and later).
    Avx512,
    /// That and AMX's products of bytes (Sapphire Rapids and later), for many activation rows.
    Amx,
    /// aarch64 with the dot-product extension (Armv8.2: Apple M1, Neoverse N1 and later).
    Neon,
    /// That and products of matrices of bytes (Apple M2, Neoverse V1 and N2 and later), for several activation rows.
    I8mm,
}

/// An instruction-set name that is unknown or not offered by this processor.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    /// Not one of the names.
    #[error("unknown instruction set {0:?}; choose one of scalar, avx2, avx512, amx, neon, i8mm")]
    Unknown(String),
    /// A valid name, but this processor (or operating system) lacks it.
    #[error("this processor does not offer {name}; it offers {available}")]
    Missing {
        /// What was asked for.
        name: String,
        /// The names that would work.
        available: String,
    },
}

const ALL: [Kind; 6] = [Kind::Scalar, Kind::Avx2, Kind::Avx512, Kind::Amx, Kind::Neon, Kind::I8mm];

impl Isa {
    /// Portable code; works everywhere.
    pub const SCALAR: Isa = Isa(Kind::Scalar);

    /// The fastest set of this processor.
    pub fn detect() -> Isa {
        Isa::available().pop().unwrap_or(Isa::SCALAR)
    }

    /// The sets of this processor, slowest first; [`Isa::SCALAR`] is always among them.
    pub fn available() -> Vec<Isa> {
        ALL.into_iter().filter(|kind| kind.is_offered()).map(Isa).collect()
    }

    /// The set of vector instructions.
    pub(crate) fn kind(self) -> Kind {
        match self.0 {
            Kind::Amx => Kind::Avx512,
            Kind::I8mm => Kind::Neon,
            kind => kind,
        }
    }

    /// Whether there are tile registers beside the vectors.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_tiles(self) -> bool {
        self.0 == Kind::Amx
    }

    /// Whether there are products of matrices beside the vectors.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn has_matrices(self) -> bool {
        self.0 == Kind::I8mm
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Scalar => "scalar",
            Kind::Avx2 => "avx2",
            Kind::Avx512 => "avx512",
            Kind::Amx => "amx",
            Kind::Neon => "neon",
            Kind::I8mm => "i8mm",
        }
    }

    /// Whether this processor and operating system offer the set.
    fn is_offered(self) -> bool {
        match self {
            Kind::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("bmi2")
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => {
                Kind::Avx2.is_offered()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => Kind::Avx512.is_offered() && super::int_micro::amx::is_offered(),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => {
                std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(target_arch = "aarch64")]
            Kind::I8mm => Kind::Neon.is_offered() && std::arch::is_aarch64_feature_detected!("i8mm"),
            #[allow(unreachable_patterns)] // On each architecture, the sets of the others.
            _ => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    /// Accepts the names that `Display` writes, when this processor offers the set.
    fn from_str(name: &str) -> Result<Isa, IsaError> {
        let kind =
            ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| IsaError::Unknown(name.to_string()))?;
        if kind.is_offered() {
            return Ok(Isa(kind));
        }
        let available: Vec<&str> = Isa::available().iter().map(|isa| isa.0.name()).collect();
        Err(IsaError::Missing { name: name.to_string(), available: available.join(", ") })
    }
}

/// Defines a function that runs a portable body compiled once per instruction set.
///
/// The body is ordinary Rust marked `#[inline(always)]`, written so that the compiler can vectorize
/// it: loops over chunks of 16 and `f32::mul_add`. Since fused multiply-add, the order of operations and
/// all conversions are spelled out, each compilation gives the same bits.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::kernels::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi2")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c,bmi2")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            match isa.kind() {
                // SAFETY: an `Isa` exists only where the processor offers its instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::isa::Kind::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::isa::Kind::Avx512 => unsafe { avx512($($arg),*) },
                // NEON is part of the aarch64 baseline, so the plain compilation already uses it.
                _ => $body($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;
