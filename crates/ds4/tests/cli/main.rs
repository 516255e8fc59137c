//! The program as a user meets it: arguments in, streams and exit codes out.

mod debug;
mod inspect;
mod program;
mod run;
mod usage;
