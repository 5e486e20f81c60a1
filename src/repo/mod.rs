//! Placeholder of the skeleton.

pub mod store;
