//! The stories: one file a wish, all in one binary. Fixtures are in `fixtures/`, the judge of images is `qemu-img`.

// A story that cannot go on panics: that is its failure.
#![allow(clippy::unwrap_used)]

mod machine_vmware;
