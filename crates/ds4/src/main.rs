//! The ds4 command line.

fn main() {}
