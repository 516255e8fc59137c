//! What is typed during an answer does not appear in the middle of it.

/// While it lives, the terminal shows no keys; what is typed waits for the prompt. Dropped, it is as before.
#[must_use]
pub struct NoEcho {
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

#[cfg(unix)]
impl NoEcho {
    /// Switches the echo of standard input off, if that is a terminal.
    pub fn new() -> NoEcho {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let input = std::io::stdin();
        let before = tcgetattr(&input).ok().filter(|modes| modes.local_modes.contains(LocalModes::ECHO));
        if let Some(before) = &before {
            let mut modes = before.clone();
            modes.local_modes.remove(LocalModes::ECHO);
            // With the echo on, an answer only looks less tidy.
            let _ = tcsetattr(&input, OptionalActions::Now, &modes);
        }
        NoEcho { before }
    }
}

#[cfg(unix)]
impl Drop for NoEcho {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, before);
        }
    }
}

#[cfg(not(unix))]
impl NoEcho {
    /// Does nothing: the console of this system shows no keys while nobody reads them.
    pub fn new() -> NoEcho {
        NoEcho {}
    }
}
