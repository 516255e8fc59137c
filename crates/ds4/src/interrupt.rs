//! Ctrl-C.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::exit;

/// Notes Ctrl-C, so that a command can stop between two steps with what it has. A second Ctrl-C ends the process at
/// once: a step of a large model may take long.
#[derive(Clone)]
pub struct Interrupt {
    pressed: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over Ctrl-C for the rest of the process. Once per process.
    ///
    /// # Errors
    /// The operating system refuses a handler.
    pub fn install() -> anyhow::Result<Interrupt> {
        Interrupt::install_with(true)
    }

    /// As [`install`](Self::install), for a program that goes on after Ctrl-C: pressing it again changes nothing.
    ///
    /// # Errors
    /// The operating system refuses a handler.
    pub fn install_for_session() -> anyhow::Result<Interrupt> {
        Interrupt::install_with(false)
    }

    fn install_with(exits: bool) -> anyhow::Result<Interrupt> {
        let pressed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&pressed);
        ctrlc::set_handler(move || {
            if seen.swap(true, Ordering::SeqCst) && exits {
                // Leaves a half-drawn line behind, not a prompt in the middle of it.
                let _ = writeln!(io::stderr());
                std::process::exit(i32::from(exit::INTERRUPTED));
            }
        })
        .context("cannot take over Ctrl-C")?;
        Ok(Interrupt { pressed })
    }

    /// Forgets that Ctrl-C was pressed. Whether it was.
    pub fn take(&self) -> bool {
        self.pressed.swap(false, Ordering::SeqCst)
    }

    /// Whether Ctrl-C was pressed.
    pub fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::SeqCst)
    }
}
