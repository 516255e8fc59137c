//! `ds4 completions` and `ds4 man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  ds4 completions bash > ~/.local/share/bash-completion/completions/ds4
  ds4 completions zsh > ~/.zfunc/_ds4          with ~/.zfunc in fpath
  ds4 completions fish > ~/.config/fish/completions/ds4.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  ds4 man | man -l -                           read it
  ds4 man --dir ~/.local/share/man/man1        install it, one page for each command";

/// Arguments of `ds4 completions`.
#[derive(Args, Clone, Debug)]
#[command(about = "Write completions for a shell", after_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Arguments of `ds4 man`.
#[derive(Args, Clone, Debug)]
#[command(about = "Write the manual page", after_help = MAN_EXAMPLES)]
pub struct ManArgs {
    /// A folder for the pages of ds4 and of each command [default: one page, to standard output]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
