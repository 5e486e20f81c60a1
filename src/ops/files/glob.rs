//! Patterns for names as shells have them: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before what stands for itself. Pure.
//!
//! Names are bytes; what is UTF-8 in them is matched by characters, what is not by bytes. A match takes at most the product
//! of both lengths.

use std::str::FromStr;

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Part>,
    ignore_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// This character.
    One(u32),
    /// Any character.
    Any,
    /// Any of these ranges, or none of them.
    Set { ranges: Vec<(u32, u32)>, none_of: bool },
    /// Any number of any characters.
    Many,
}

/// Bytes that are no UTF-8 lie behind all characters.
const BYTES: u32 = 0x11_0000;

impl Glob {
    /// The pattern that `text` is. What looks like a set and has no end stands for itself.
    pub fn new(text: &[u8]) -> Glob {
        let units = units(text);
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(unit) = units.get(at).copied() {
            at += 1;
            let part = match char::from_u32(unit) {
                Some('*') => Part::Many,
                Some('?') => Part::Any,
                Some('[') => match set(&units[at..]) {
                    Some((set, len)) => {
                        at += len;
                        set
                    }
                    None => Part::One(unit),
                },
                Some('\\') if at < units.len() => {
                    at += 1;
                    Part::One(units[at - 1])
                }
                _ => Part::One(unit),
            };
            // Two stars are one.
            if part != Part::Many || parts.last() != Some(&Part::Many) {
                parts.push(part);
            }
        }
        Glob { parts, ignore_case: false }
    }

    /// The same pattern for which `A` and `a` are the same.
    pub fn ignoring_case(self) -> Glob {
        Glob { ignore_case: true, ..self }
    }

    /// Whether all of `name` fits.
    pub fn fits(&self, name: &[u8]) -> bool {
        let units = units(name);
        let (mut part, mut unit) = (0, 0);
        // Where to go on if what follows the last star does not fit: that star takes one more.
        let mut again: Option<(usize, usize)> = None;
        while unit < units.len() {
            match self.parts.get(part) {
                Some(Part::Many) => {
                    again = Some((part + 1, unit));
                    part += 1;
                }
                Some(other) if self.fits_one(other, units[unit]) => {
                    part += 1;
                    unit += 1;
                }
                _ => {
                    let Some((after, taken)) = again else { return false };
                    again = Some((after, taken + 1));
                    (part, unit) = (after, taken + 1);
                }
            }
        }
        self.parts[part..].iter().all(|part| *part == Part::Many)
    }

    fn fits_one(&self, part: &Part, unit: u32) -> bool {
        let same = |wanted: &dyn Fn(u32) -> bool| {
            wanted(unit) || (self.ignore_case && (wanted(lower(unit)) || wanted(upper(unit))))
        };
        match part {
            Part::One(one) => same(&|unit| unit == *one),
            Part::Any => true,
            Part::Set { ranges, none_of } => {
                same(&|unit| ranges.iter().any(|(first, last)| (*first..=*last).contains(&unit))) != *none_of
            }
            Part::Many => false,
        }
    }
}

impl FromStr for Glob {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Glob, Self::Err> {
        Ok(Glob::new(text.as_bytes()))
    }
}

/// The set that begins behind `[`, and how long it is with its `]`.
fn set(rest: &[u32]) -> Option<(Part, usize)> {
    let is = |at: usize, wanted: char| rest.get(at) == Some(&u32::from(wanted));
    let none_of = is(0, '!') || is(0, '^');
    let begin = usize::from(none_of);
    let mut ranges = Vec::new();
    let mut at = begin;
    // A bracket right at the beginning is one of the set.
    while at == begin || !is(at, ']') {
        let first = *rest.get(at)?;
        if is(at + 1, '-') && !is(at + 2, ']') {
            ranges.push((first, *rest.get(at + 2)?));
            at += 3;
        } else {
            ranges.push((first, first));
            at += 1;
        }
    }
    Some((Part::Set { ranges, none_of }, at + 1))
}

fn units(bytes: &[u8]) -> Vec<u32> {
    let mut units = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        units.extend(chunk.valid().chars().map(u32::from));
        units.extend(chunk.invalid().iter().map(|byte| BYTES + u32::from(*byte)));
    }
    units
}

fn lower(unit: u32) -> u32 {
    char::from_u32(unit).and_then(|c| c.to_lowercase().next()).map_or(unit, u32::from)
}

fn upper(unit: u32) -> u32 {
    char::from_u32(unit).and_then(|c| c.to_uppercase().next()).map_or(unit, u32::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, fitting, other) in [
            ("*.log", &["a.log", ".log", "a.b.log"][..], &["a.log.1", "log", ""][..]),
            ("a?c", &["abc", "aüc", "a?c"], &["ac", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x", "-x"]),
            ("[!a-c]x", &["dx", "üx"], &["ax"]),
            ("[]-]", &["]", "-"], &["a"]),
            ("[", &["["], &["a"]),
            ("[a", &["[a"], &["a"]),
            ("\\*", &["*"], &["a", "\\*"]),
            ("a\\", &["a\\"], &["a"]),
            ("*a*b*", &["ab", "xaxbx"], &["ba"]),
            ("", &[""], &["a"]),
            ("**", &["", "/", "a/b"], &[]),
        ] {
            let glob = Glob::new(pattern.as_bytes());
            fitting.iter().for_each(|name| assert!(glob.fits(name.as_bytes()), "{pattern} {name}"));
            other.iter().for_each(|name| assert!(!glob.fits(name.as_bytes()), "{pattern} {name}"));
        }
        assert!(Glob::new(b"?\xff").fits(b"\xfe\xff"));
        assert!(Glob::new(b"WIN*[a-z]").ignoring_case().fits(b"windowS"));
        assert!(!Glob::new(b"WIN*").fits(b"windows"));
    }

    /// The same by trying everything.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => naive(rest, name) || (!name.is_empty() && naive(pattern, &name[1..])),
            (Some((b'?', rest)), Some((_, name))) => naive(rest, name),
            (Some((one, rest)), Some((first, name))) => one == first && naive(rest, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn no_way_to_fit_is_missed(pattern in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(Glob::new(pattern.as_bytes()).fits(name.as_bytes()), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
