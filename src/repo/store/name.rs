//! Names of objects: folder and name in a small alphabet that every store and every filesystem can hold as it is, so
//! that no name needs escaping and no name from outside can leave the store.

use std::fmt;

use super::StoreError;

/// Longest name in bytes; longer ones would not fit the path limits of some stores.
pub const NAME_BYTES_MAX: usize = 255;

/// How much of a refused name an error shows.
const SHOWN_CHARS_MAX: usize = 80;

/// The name of an object: folders and a last part, for example `packs/ab/ab12…`, `manifests/…`, `config`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// Accepts parts of `a-z 0-9 . _ -` joined by `/`; no part is empty or begins with a dot (so `..` cannot be, and
    /// unfinished objects cannot be addressed), and all of it is at most [`NAME_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`StoreError::BadName`] with the rule that is broken.
    pub fn new(name: &str) -> Result<ObjectName, StoreError> {
        match broken_rule(name) {
            None => Ok(ObjectName(name.to_owned())),
            Some(why) => Err(StoreError::BadName { name: name.chars().take(SHOWN_CHARS_MAX).collect(), why }),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder the object is in, without a slash at the end; `""` for an object at the top.
    pub fn folder(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The last part of the name.
    pub fn last_part(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, last)| last)
    }
}

fn broken_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return Some("is longer than 255 bytes");
    }
    if !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/')) {
        return Some("only a-z, 0-9, '.', '_', '-' and '/' are allowed");
    }
    if name.split('/').any(str::is_empty) {
        return Some("a part between slashes is empty");
    }
    if name.split('/').any(|part| part.starts_with('.')) {
        return Some("a part begins with a dot");
    }
    None
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ObjectName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, why: Option<&str>) {
        match (ObjectName::new(name), why) {
            (Ok(good), None) => assert_eq!(good.to_string(), name),
            (Err(StoreError::BadName { why: found, .. }), Some(why)) => {
                assert!(found.contains(why), "{name:?}: {found}")
            }
            (outcome, _) => panic!("{name:?}: {outcome:?}"),
        }
    }

    #[test]
    fn names_within_and_beyond_the_rules() {
        check("config", None);
        check("packs/ab/ab12", None);
        check("a.b_c-9", None);
        check(&"a".repeat(255), None);
        check(&"a".repeat(256), Some("longer"));
        check("", Some("empty"));
        for slashes in ["/", "/a", "a/", "a//b"] {
            check(slashes, Some("between slashes"));
        }
        for dots in [".", "..", "../a", "a/../b", ".tmp-1", "a/.hidden"] {
            check(dots, Some("dot"));
        }
        for letters in ["A", "a b", "ä", "a\0", "a\\b", "a\n", "c:"] {
            check(letters, Some("only a-z"));
        }
    }

    #[test]
    fn folder_and_last_part() {
        let deep = ObjectName::new("packs/ab/ab12").unwrap();
        assert_eq!((deep.folder(), deep.last_part()), ("packs/ab", "ab12"));
        let top = ObjectName::new("config").unwrap();
        assert_eq!((top.folder(), top.last_part()), ("", "config"));
    }

    #[test]
    fn a_long_bad_name_is_shortened_in_the_error() {
        let Err(StoreError::BadName { name, .. }) = ObjectName::new(&"Ä".repeat(10_000)) else { panic!("accepted") };
        assert_eq!(name.chars().count(), SHOWN_CHARS_MAX);
    }
}
