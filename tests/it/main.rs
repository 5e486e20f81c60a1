//! Stories: what a user would notice, told through the library's public doors. One binary, a file for each story.

mod formats_built;
mod formats_hostile;
mod formats_inspect;
mod formats_vmdk;
mod qemu;
