//! A sentence instead of a bare SIGBUS when a mapped file is cut short under the program.
//!
//! Touching a mapped page beyond the end of its file raises SIGBUS, and no check beforehand can
//! exclude it: the file may shrink between the check and the read. [`install`] sets a handler that
//! recognizes faults inside this crate's mappings, says which file became shorter, and ends the
//! process; every other fault goes to the handler that was there before.

#[cfg(not(unix))]
pub(crate) use absent::Registration;
#[cfg(not(unix))]
pub use absent::install;
#[cfg(unix)]
pub(crate) use registry::Registration;
#[cfg(unix)]
pub use signal::install;

#[cfg(unix)]
mod registry;
#[cfg(unix)]
mod signal;

#[cfg(not(unix))]
mod absent {
    use std::fs::File;
    use std::io;

    /// Does nothing: this platform forbids to shorten a mapped file.
    ///
    /// # Errors
    /// None.
    pub fn install() -> io::Result<()> {
        Ok(())
    }

    pub(crate) struct Registration;

    impl Registration {
        pub fn new(_map: &[u8], _file: &File, _name: &str) -> Registration {
            Registration
        }
    }
}
