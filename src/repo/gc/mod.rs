//! Forgetting backups, and giving back the space that nothing needs any more: safe beside writers and other prunes, without
//! locks that somebody would have to remove, and without a clock that decides what is deleted.
//!
//! - [`retention`] which backups a set of rules keeps · [`forgotten`] moving manifests out of the way and back
//! - [`walk`], [`mark`] what backups need · [`plan`] which packs go · [`repack`] what is needed of others, written anew
//! - [`prune`] the order of it all · [`trash`], [`records`] what prunes leave for each other · [`segments`], [`reserve`]
//!
//! Pure: `retention`, `plan`. Invariant: a pack is deleted only out of the trash, and only by a prune that saw everything
//! it holds that any backup needs in another pack in use, after every session had ended that was there when the pack lay
//! in the trash already. docs/FORMAT.md, "Deleting", has the rules and why they suffice; `tests/it/prune_model.rs` tries
//! them in every order.

pub mod forgotten;
pub mod mark;
pub mod plan;
pub mod prune;
pub mod records;
pub mod repack;
pub mod report;
pub mod reserve;
pub mod retention;
pub mod segments;
pub mod trash;
pub mod walk;
