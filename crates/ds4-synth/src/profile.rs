//! What programs that measure backends have in common: their options, and the tokens that they feed.

use std::path::PathBuf;

use crate::Shape;

/// What is measured, as the command line says:
/// `[--shape NAME] [--layers N] [--share] [--context N,N] [--batch N,N] [--chunk N] [--steps N] [--keep FOLDER] [--kernels]
/// [--checked]`.
#[derive(Clone, Debug)]
pub struct ProfileOptions {
    /// Dimensions and types of the model.
    pub shape: Shape,
    /// Fewer layers than the shape has.
    pub layers: Option<usize>,
    /// Whether layers whose bytes are the same take a card's memory once.
    pub share: bool,
    /// Tokens of context at which decoding is measured, ascending.
    pub contexts: Vec<usize>,
    /// Sequences that are decoded together.
    pub batches: Vec<usize>,
    /// Tokens of a prefill step.
    pub chunk: usize,
    /// Decoding steps at each point.
    pub steps: usize,
    /// Folder in which what drivers compile is kept, by backends that keep it.
    pub keep: Option<PathBuf>,
    /// Whether commands are recorded with the checks that are left out otherwise, by backends that have a choice.
    pub checked: bool,
    /// Whether kernels are timed one by one.
    pub kernels: bool,
}

impl ProfileOptions {
    /// What is measured if nothing is said, with a prefill in steps of `chunk` tokens.
    pub fn new(chunk: usize) -> Self {
        Self {
            shape: Shape::V4_FLASH,
            layers: None,
            share: false,
            contexts: vec![2048],
            batches: vec![1],
            chunk,
            steps: 20,
            keep: None,
            checked: false,
            kernels: false,
        }
    }

    /// Reads arguments on top of these.
    ///
    /// # Errors
    /// A sentence about the first that is not understood.
    pub fn read(mut self, args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--share" => self.share = true,
                "--checked" => self.checked = true,
                "--kernels" => self.kernels = true,
                _ => {
                    let value = args.next().ok_or_else(|| format!("{arg} is unknown or lacks a value"))?;
                    let number =
                        |text: &str| text.parse::<usize>().map_err(|_| format!("{arg}: {text:?} is no number"));
                    let list = || value.split(',').map(number).collect::<Result<Vec<_>, _>>();
                    match arg.as_str() {
                        "--shape" => {
                            let shape = Shape::by_name(&value);
                            self.shape = shape.ok_or_else(|| format!("{value:?} is no shape"))?;
                        }
                        "--keep" => self.keep = Some(PathBuf::from(&value)),
                        "--layers" => self.layers = Some(number(&value)?),
                        "--context" => self.contexts = list()?,
                        "--batch" => {
                            self.batches = list()?;
                            if self.batches.contains(&0) {
                                return Err("--batch: a step needs at least one sequence".to_owned());
                            }
                        }
                        "--chunk" => self.chunk = number(&value)?.max(1),
                        "--steps" => self.steps = number(&value)?.max(1),
                        _ => return Err(format!("{arg} is unknown")),
                    }
                }
            }
        }
        Ok(self)
    }

    /// Token number `i` of those that are fed to a model with `vocab` tokens: spread over all of them.
    pub fn token(i: usize, vocab: usize) -> u32 {
        (i.wrapping_mul(2_654_435_761) % vocab) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ProfileOptions, String> {
        ProfileOptions::new(512).read(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        let o = read("--shape nano --share --context 16,64 --batch 1,8 --steps 3 --layers 2").expect("valid options");
        assert_eq!((o.shape.name, o.share, o.kernels, o.chunk, o.steps), ("nano", true, false, 512, 3));
        assert_eq!((o.contexts, o.batches, o.layers), (vec![16, 64], vec![1, 8], Some(2)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("--chunk x", "no number"),
            ("--shape x", "no shape"),
            ("--steps", "lacks a value"),
            ("--batch 1,0", "at least one sequence"),
            ("--fast 1", "unknown"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
