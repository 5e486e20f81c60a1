//! Stories: what a user would notice, told through the library's public doors. One binary, a file for each story.

// A failed step of a test's own stage is a failed test; clippy's exception for tests does not reach its functions.
#![allow(clippy::unwrap_used)]

mod formats_built;
mod formats_hostile;
mod formats_inspect;
mod formats_vmdk;
mod qemu;
