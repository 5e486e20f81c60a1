//! The stories: one file a wish, all in one binary. Fixtures are in `fixtures/`, the judge of images is `qemu-img`.

// A story that cannot go on panics: that is its failure.
#![allow(clippy::unwrap_used)]

mod formats_built;
mod formats_hostile;
mod formats_inspect;
mod formats_vmdk;
mod machine_vmware;
mod qemu;
