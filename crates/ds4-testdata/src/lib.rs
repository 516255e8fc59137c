//! ds4-testdata
