//! Which files an image may make us open.
/// x
pub struct OpenPolicy;
