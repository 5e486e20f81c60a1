//! Searching: which nodes fit. Pure, but for the walk.

use std::str::FromStr;

use super::glob::Glob;
use crate::guest::tree::{Metadata, NodeKind, Time};

/// What a node must be to be found: all of it; of several names, paths or kinds any.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Patterns for the name.
    pub names: Vec<Glob>,
    /// Patterns for the whole path in the guest or on the volume.
    pub paths: Vec<Glob>,
    /// Kinds.
    pub kinds: Vec<NodeKind>,
    /// Sizes of content.
    pub sizes: Vec<SizeTest>,
    /// Changed at this time or after it.
    pub newer: Option<Time>,
    /// Changed before this time.
    pub older: Option<Time>,
    /// Owner.
    pub uid: Option<u32>,
}

/// A size to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeTest {
    /// How.
    pub comparison: Comparison,
    /// Bytes.
    pub bytes: u64,
}

/// How a size compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// More than that.
    More,
    /// Less than that.
    Less,
    /// Just that.
    Same,
}

/// What is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a size as +10M, -4k or 512: + for more, - for less, and k, M, G or T of 1024 each")]
pub struct NoSize;

impl FromStr for SizeTest {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<SizeTest, NoSize> {
        let (comparison, rest) = match text.as_bytes().first() {
            Some(b'+') => (Comparison::More, &text[1..]),
            Some(b'-') => (Comparison::Less, &text[1..]),
            _ => (Comparison::Same, text),
        };
        let digits = rest.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &rest[digits.len()..] {
            "" | "B" => 0,
            "k" | "K" | "KiB" => 10,
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            "T" | "TiB" => 40,
            _ => return Err(NoSize),
        };
        // Parsing would take a second sign.
        let number: u64 =
            if digits.starts_with(['+', '-']) { Err(NoSize) } else { digits.parse().map_err(|_| NoSize) }?;
        let bytes = number.checked_mul(1 << shift).ok_or(NoSize)?;
        Ok(SizeTest { comparison, bytes })
    }
}

impl SizeTest {
    fn fits(self, size: u64) -> bool {
        match self.comparison {
            Comparison::More => size > self.bytes,
            Comparison::Less => size < self.bytes,
            Comparison::Same => size == self.bytes,
        }
    }
}

impl Query {
    /// Whether a node fits that has this name and path.
    pub fn fits(&self, name: &[u8], path: &[u8], metadata: &Metadata) -> bool {
        let any = |globs: &[Glob], text: &[u8]| globs.is_empty() || globs.iter().any(|glob| glob.fits(text));
        // A directory's size says nothing about what is in it.
        let sized = metadata.kind != NodeKind::Directory || self.sizes.is_empty();
        (self.kinds.is_empty() || self.kinds.contains(&metadata.kind))
            && self.uid.is_none_or(|uid| metadata.uid == uid)
            && self.newer.is_none_or(|time| metadata.modified >= time)
            && self.older.is_none_or(|time| metadata.modified < time)
            && sized
            && self.sizes.iter().all(|size| size.fits(metadata.size))
            && any(&self.names, name)
            && any(&self.paths, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        use Comparison::{Less, More, Same};
        for (text, comparison, bytes) in [
            ("0", Same, 0),
            ("512", Same, 512),
            ("+10M", More, 10 << 20),
            ("-4k", Less, 4096),
            ("+1TiB", More, 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(SizeTest { comparison, bytes }), "{text}");
        }
        for text in ["", "+", "M", "10X", "++1", "+-1", "1.5M", "99999999T", "10 M", "ü"] {
            assert_eq!(text.parse::<SizeTest>(), Err(NoSize), "{text}");
        }
        let test = |text: &str, size| text.parse::<SizeTest>().unwrap().fits(size);
        assert!(test("+10", 11) && !test("+10", 10) && test("-10", 9) && !test("-10", 10) && test("10", 10));
    }
}
