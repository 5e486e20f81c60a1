//! How much parity a repository wants: one plain object, so that it can be turned on later, and by who has no key.
//!
//! It is not part of the configuration, which never changes and which the key slots bind. Whoever can write to the store
//! can take it away, as he can take everything; then packs are written without records, and a scrub says so.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::repo::error::RepoError;
use crate::repo::store::{ObjectName, ObjectStore, StoreError};
use crate::repo::text::{self, PlainFault};

/// Largest share: the memory of a backup grows with it.
const PERMILLE_MAX: u16 = 250;
/// Even the smallest pack is given so many recovery shards: a rotten sector is seldom alone.
const SHARDS_MIN: usize = 2;

/// How many bytes of parity there are for a thousand bytes of a pack: 1 to 250.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Share(u16);

/// No share of parity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a percentage from 0.1 to 25, such as 5%")]
pub struct NotAShare;

impl Share {
    /// So many thousandths.
    ///
    /// # Errors
    /// [`NotAShare`] beyond the limits.
    pub fn permille(permille: u16) -> Result<Share, NotAShare> {
        if (1..=PERMILLE_MAX).contains(&permille) { Ok(Share(permille)) } else { Err(NotAShare) }
    }

    /// Recovery shards for `data` shards of a pack.
    pub(super) fn recovery_shards(self, data: usize) -> usize {
        (data * usize::from(self.0)).div_ceil(1000).max(SHARDS_MIN)
    }
}

impl TryFrom<u16> for Share {
    type Error = NotAShare;

    fn try_from(permille: u16) -> Result<Share, NotAShare> {
        Share::permille(permille)
    }
}

impl From<Share> for u16 {
    fn from(share: Share) -> u16 {
        share.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 10, self.0 % 10) {
            (percent, 0) => write!(f, "{percent}%"),
            (percent, tenths) => write!(f, "{percent}.{tenths}%"),
        }
    }
}

impl FromStr for Share {
    type Err = NotAShare;

    fn from_str(text: &str) -> Result<Share, NotAShare> {
        let number = text.strip_suffix('%').unwrap_or(text);
        let (percent, tenths) = number.split_once('.').unwrap_or((number, "0"));
        let is_number =
            |text: &str, digits| (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(percent, 3) || !is_number(tenths, 1) {
            return Err(NotAShare);
        }
        let parsed = |text: &str| text.parse::<u16>().map_err(|_| NotAShare);
        Share::permille(parsed(percent)? * 10 + parsed(tenths)?)
    }
}

/// The line of the object.
#[derive(Serialize, Deserialize)]
struct Line {
    permille: Share,
}

/// The name of the object that says it.
pub fn share_name() -> ObjectName {
    ObjectName::new("parity/share").expect("a good name")
}

/// How much parity new packs are to have; `None` if none is wanted.
///
/// # Errors
/// [`RepoError::Damaged`] if neither the object nor its copy can be read; [`RepoError::Store`].
pub fn share(store: &dyn ObjectStore) -> Result<Option<Share>, RepoError> {
    match text::get(store, &share_name(), decode) {
        Ok(share) => Ok(Some(share)),
        Err(RepoError::Store(StoreError::NotFound { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Decides how much parity new packs are to have.
///
/// # Errors
/// [`RepoError::Store`].
pub fn set_share(store: &dyn ObjectStore, share: Share) -> Result<(), RepoError> {
    let name = share_name();
    for old in [text::copy_of(&name), name.clone()] {
        match store.remove(&old) {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let line = serde_json::to_string(&Line { permille: share }).expect("plain data serialises");
    text::put(store, &name, &text::encode(&[&line]))
}

/// What is wrong with the object that says it, and with its copy. Nothing is, if it is not there at all.
pub fn share_faults(store: &dyn ObjectStore) -> Vec<PlainFault> {
    let mut faults = text::faults(store, &share_name(), decode);
    let is_missing = |error: &RepoError| matches!(error, RepoError::Store(StoreError::NotFound { .. }));
    if faults.len() == 2 && faults.iter().all(|fault| is_missing(&fault.error)) {
        faults.clear();
    }
    faults
}

/// Makes the object that says it anew from its copy, or the copy from it, as [`text::mend`].
///
/// # Errors
/// [`RepoError::Store`].
pub fn mend_share(store: &dyn ObjectStore) -> Result<Option<ObjectName>, RepoError> {
    text::mend(store, &share_name(), decode)
}

fn decode(bytes: &[u8]) -> Result<Share, RepoError> {
    let name = share_name();
    let line = text::decode(name.as_str(), bytes, 1)?[0];
    let parsed: Result<Line, _> = serde_json::from_str(line);
    parsed.map(|line| line.permille).map_err(|error| RepoError::Damaged {
        object: name.to_string(),
        field: "share",
        at: 0,
        expected: "thousandths from 1 to 250".to_owned(),
        found: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::store::DirectoryStore;

    #[test]
    fn shares_are_read_and_shown() {
        for (text, permille) in [("5%", 50), ("5", 50), ("0.1%", 1), ("2.5%", 25), ("25%", 250), ("025.0", 250)] {
            assert_eq!(text.parse::<Share>(), Ok(Share(permille)), "{text}");
        }
        for bad in ["", "%", "0", "0.0%", "25.1%", "-1", "5.25%", "5.", ".5", "1e1", "NaN", "5%%", "99999%", "５%"] {
            assert_eq!(bad.parse::<Share>(), Err(NotAShare), "{bad}");
        }
        assert_eq!((Share(50).to_string(), Share(1).to_string()), ("5%".to_owned(), "0.1%".to_owned()));
    }

    #[test]
    fn recovery_shards_are_rounded_up_and_never_alone() {
        for (data, expected) in [(1, 2), (40, 2), (41, 3), (60, 3), (61, 4), (4096, 205)] {
            assert_eq!(Share(50).recovery_shards(data), expected, "{data}");
        }
    }

    #[test]
    fn it_is_stored_twice_and_can_be_changed() {
        let store = DirectoryStore::in_memory();
        assert_eq!(share(&store).unwrap(), None);
        assert!(share_faults(&store).is_empty());
        for permille in [50, 100] {
            set_share(&store, Share(permille)).unwrap();
            assert_eq!(share(&store).unwrap(), Some(Share(permille)));
        }
        store.remove(&share_name()).unwrap();
        assert_eq!(share(&store).unwrap(), Some(Share(100)), "from its copy");
        assert_eq!(share_faults(&store).len(), 1);
        store.remove(&text::copy_of(&share_name())).unwrap();
        store.put(&share_name(), b"rot").unwrap();
        assert!(matches!(share(&store), Err(RepoError::Damaged { .. })), "never silently without parity");
    }
}
