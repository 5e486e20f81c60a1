//! The stories: one file a wish, all in one binary. Fixtures are in `fixtures/`, the judge of images is `qemu-img`.

// A failed step of a test's own stage is a failed test; clippy's exception for tests does not reach its functions.
#![allow(clippy::unwrap_used)]

mod independent_reader;
