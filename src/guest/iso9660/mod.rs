//! ISO 9660 as on CDs and in `.iso` files, read-only, with Rock Ridge or Joliet. Most numbers are stored twice, in both byte
//! orders; both must agree.
//!
//! - `descriptors` volume descriptors raw → checked: the block size, and where the trees of directories begin
//! - `volume` bytes of the volume, through a small cache of pages
//! - `record` directory records raw → checked; `directory` walking them
//! - `susp` the fields that extensions add to records; `rock_ridge` what POSIX needs, made of them; `zisofs` compressed files
//! - `names` how names look without Rock Ridge; `date` points in time
//! - `tree` the filesystem as the house wants it
//!
//! Of the trees that a volume may have, Linux's choice is ours: the first with Rock Ridge, else Joliet's, else the first.
//! Multisession is not looked at: the first session is the volume.
//!
//! Source: ECMA-119 (ISO 9660); IEEE P1281 (SUSP) and P1282 (Rock Ridge); Microsoft, Joliet Specification 1.0; zisofs by the
//! format's author. Where they leave something open, Linux's isofs.

mod date;
mod descriptors;
mod directory;
mod names;
mod record;
mod rock_ridge;
mod susp;
mod tree;
mod volume;
mod zisofs;

use std::fmt::Display;

use nom::number::complete::{be_u32, le_u32};
use nom::{IResult, Parser};

use super::GuestError;
use crate::units::GuestOffset;

pub use tree::{Iso9660, open};

/// Bytes of a logical sector: where descriptors lie, and what no directory record crosses.
const SECTOR_BYTES: u64 = 2048;

/// Damage at byte `at` of the volume.
fn corrupt(field: &'static str, at: u64, expected: impl Display, found: impl Display) -> GuestError {
    GuestError::Corrupt { field, at: GuestOffset(at), expected: expected.to_string(), found: found.to_string() }
}

fn unsupported(feature: impl Into<String>) -> GuestError {
    GuestError::Unsupported { feature: feature.into() }
}

/// A number that is stored in both byte orders, little-endian first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Both {
    little: u32,
    big: u32,
}

fn both(input: &[u8]) -> IResult<&[u8], Both> {
    (le_u32, be_u32).map(|(little, big)| Both { little, big }).parse(input)
}

impl Both {
    /// The number, if both say the same.
    fn agreed(self, field: &'static str, at: u64) -> Result<u32, GuestError> {
        if self.little == self.big {
            return Ok(self.little);
        }
        Err(corrupt(field, at, format!("{} in both byte orders", self.little), format!("{} in the second", self.big)))
    }
}
