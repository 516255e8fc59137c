//! Every operation of a backend against the reference.
