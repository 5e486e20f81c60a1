//! Hosted sparse extents (`KDMV`): monolithicSparse, twoGbMaxExtentSparse, streamOptimized and their redo logs.
//!
//! `header` raw bytes → `layout` checked → `image` the disk; `stream` what compression adds.

pub(crate) mod header;
pub(crate) mod image;
pub(crate) mod layout;
pub(crate) mod stream;
