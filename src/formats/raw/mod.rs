//! Raw.

pub mod writer;
