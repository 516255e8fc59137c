//! SIGTERM and SIGHUP while the line editor has the terminal in raw mode.

/// Gives the terminal back as it is now before the process ends by a signal from outside: the line editor turns echo and line
/// mode off while it waits for a key, and a shell would inherit that.
///
/// # Errors
/// The operating system refuses a handler.
#[cfg(unix)]
pub fn restore_terminal_at_signals() -> std::io::Result<()> {
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    use signal_hook::consts::{SIGHUP, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    let Ok(sane) = tcgetattr(std::io::stdin()) else { return Ok(()) };
    let mut signals = Signals::new([SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // After a hangup there is no terminal left to restore.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &sane);
            // Ends the process, so that whoever waits for it sees the signal.
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

/// There are no such signals.
#[cfg(not(unix))]
pub fn restore_terminal_at_signals() -> std::io::Result<()> {
    Ok(())
}
