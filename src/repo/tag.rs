//! Tags: short words that a backup is given when it is taken, to choose backups by. Pure.
//!
//! Manifests hold them as plain texts, as a later version may allow others; only what is typed is checked here.

use std::fmt;
use std::str::FromStr;

/// Longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 64;

/// A tag as it may be typed: ASCII letters, digits and `. _ - : /`, at most [`TAG_BYTES_MAX`] of them, beginning with a
/// letter or digit. Neither spaces nor commas, so that lists of tags need no quotes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(String);

/// Why a text is no tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTag {
    /// Too short or too long.
    #[error("expected 1 to {TAG_BYTES_MAX} characters, found {0} bytes")]
    Length(usize),
    /// A first character that is none for the beginning.
    #[error("a tag begins with a letter or a digit, not with {0:?}")]
    First(char),
    /// A character that tags do not have.
    #[error("only a-z, A-Z, 0-9 and . _ - : / are allowed, not {0:?}")]
    Character(char),
}

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = BadTag;

    fn from_str(text: &str) -> Result<Tag, BadTag> {
        if text.is_empty() || text.len() > TAG_BYTES_MAX {
            return Err(BadTag::Length(text.len()));
        }
        if let Some(other) =
            text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/')))
        {
            return Err(BadTag::Character(other));
        }
        match text.chars().next().filter(|first| !first.is_ascii_alphanumeric()) {
            Some(first) => Err(BadTag::First(first)),
            None => Ok(Tag(text.to_owned())),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The tags as a manifest holds them: sorted, each once.
pub fn as_texts(tags: &[Tag]) -> Vec<String> {
    let sorted: std::collections::BTreeSet<&Tag> = tags.iter().collect();
    sorted.into_iter().map(Tag::to_string).collect()
}

/// Whether a backup's tags have any of `wanted`.
pub fn has_any(tags: &[String], wanted: &[Tag]) -> bool {
    wanted.iter().any(|wanted| tags.iter().any(|tag| tag == wanted.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_within_and_beyond_the_rules() {
        #[track_caller]
        fn check(text: &str, expected: Result<(), BadTag>) {
            assert_eq!(text.parse::<Tag>().map(|tag| assert_eq!(tag.as_str(), text)), expected, "{text:?}");
        }
        check("gold", Ok(()));
        check("4eyes.Q_3-2026:eu/west", Ok(()));
        check(&"a".repeat(64), Ok(()));
        check(&"a".repeat(65), Err(BadTag::Length(65)));
        check("", Err(BadTag::Length(0)));
        for first in ['-', '.', ':', '/', '_'] {
            check(&format!("{first}x"), Err(BadTag::First(first)));
        }
        for other in [' ', ',', '=', '\n', 'ä', '\u{202e}', '*'] {
            check(&format!("a{other}"), Err(BadTag::Character(other)));
        }
    }

    #[test]
    fn a_manifest_holds_each_once_and_sorted() {
        let tags: Vec<Tag> = ["b", "a", "b"].iter().map(|tag| tag.parse().unwrap()).collect();
        assert_eq!(as_texts(&tags), ["a", "b"]);
    }
}
