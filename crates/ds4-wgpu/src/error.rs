//! What can go wrong with a graphics card, in sentences.

use ds4_model::ModelError;

/// Why the backend cannot start or go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WgpuError {
    /// No card, no driver, no loader.
    #[error(
        "no graphics card was found through {api}. Install its driver (for Vulkan: the vendor's driver and the Vulkan loader, \
         libvulkan1 on Debian), or use `--backend cpu`; `ds4 doctor` lists what is there"
    )]
    NoAdapter {
        /// What was asked for.
        api: String,
    },

    /// The card's driver refused to start.
    #[error("{adapter} cannot be used: {why}. Update its driver, or use `--backend cpu`")]
    Device {
        /// The card.
        adapter: String,
        /// The driver's words.
        why: String,
    },

    /// The card cannot do what the kernels need.
    #[error("{adapter} cannot run the kernels: {what} is {found}, {needed} is needed. Use `--backend cpu`")]
    Limit {
        /// The card.
        adapter: String,
        /// The limit.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The smallest that does.
        needed: u64,
    },

    /// A shape that the kernels are not written for.
    #[error("this backend cannot run the model: {0}. Use `--backend cpu`")]
    Shape(String),

    /// More weights than memory.
    #[error(
        "{adapter} has {available:.1} GiB of memory for a model, this one needs {needed:.1} GiB ({weights:.1} GiB of weights, the rest for \
         values and the cache). {remedy}"
    )]
    TooLarge {
        /// The card.
        adapter: String,
        /// GiB.
        available: f64,
        /// GiB.
        needed: f64,
        /// GiB.
        weights: f64,
        /// What to do, a sentence without its end.
        remedy: String,
    },

    /// Something in one piece that is larger than the card allows.
    #[error("{what} takes {bytes} bytes, but {adapter} allows {most} in one piece{remedy}")]
    Piece {
        /// The card.
        adapter: String,
        /// What.
        what: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        most: u64,
        /// What to do, after a semicolon; or nothing.
        remedy: &'static str,
    },

    /// The card or its driver failed while running.
    #[error("{adapter} failed: {why}")]
    Failed {
        /// The card.
        adapter: String,
        /// The driver's words.
        why: String,
    },
}

impl From<WgpuError> for ModelError {
    fn from(error: WgpuError) -> Self {
        ModelError::Device(error.to_string())
    }
}
