//! Stories: what abbild promises, told file by file through the library's public face, with other programs as judges.

// A story stops at its first surprise; clippy knows `#[test]` functions, but not what they call.
#![allow(clippy::unwrap_used)]

mod formats_writers;
