//! Plain objects: short texts that must be readable before any key is known (the configuration, key slots).
//!
//! Layout (docs/FORMAT.md, "Plain objects"): lines of UTF-8, the last of which is `blake3 ` and the hex BLAKE3 of all
//! bytes before it. The checksum tells damage apart from a wrong passphrase; it proves nothing against a forger.

use super::error::RepoError;
use super::ids::to_hex;
use super::quarantine;
use super::salvage::twice;
use super::store::{ObjectName, ObjectStore, StoreError};

/// Largest plain object we read.
pub const TEXT_BYTES_MAX: u64 = 64 << 10;
const CHECKSUM_PREFIX: &str = "blake3 ";

/// Folder of the copies.
pub const COPIES: &str = "copies";

/// The name of an object's copy.
pub fn copy_of(name: &ObjectName) -> ObjectName {
    ObjectName::new(&format!("{COPIES}/{name}")).expect("a good name below a folder is one")
}

/// Stores a plain object twice: without these few bytes nobody can open the repository, so one rotten sector must not be
/// enough. The copy comes first: what has its own name is whole.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put(store: &dyn ObjectStore, name: &ObjectName, bytes: &[u8]) -> Result<(), RepoError> {
    store.put_exclusive(&copy_of(name), bytes)?;
    Ok(store.put_exclusive(name, bytes)?)
}

/// Reads a plain object with `decode`, or its copy where it is missing or damaged; then the first error is the one that
/// is reported.
///
/// # Errors
/// What `decode` or the store said of the object itself.
pub fn get<T>(
    store: &dyn ObjectStore,
    name: &ObjectName,
    decode: impl Fn(&[u8]) -> Result<T, RepoError>,
) -> Result<T, RepoError> {
    get_one(store, name, &decode).or_else(|error| match error {
        RepoError::Damaged { .. } | RepoError::Store(StoreError::NotFound { .. } | StoreError::TooLarge { .. }) => {
            get_one(store, &copy_of(name), &decode).map_err(|_| error)
        }
        other => Err(other),
    })
}

/// One of the two that cannot be used.
pub struct PlainFault {
    /// Which.
    pub object: ObjectName,
    /// What is wrong with it.
    pub error: RepoError,
    /// The other one, if it is sound: what to write this one anew from.
    pub twin: Option<ObjectName>,
}

/// What is wrong with a plain object, and with its copy.
pub fn faults<T>(
    store: &dyn ObjectStore,
    name: &ObjectName,
    decode: impl Fn(&[u8]) -> Result<T, RepoError>,
) -> Vec<PlainFault> {
    let copy = copy_of(name);
    let look = |name: &ObjectName| {
        twice(|| {
            let bytes = store.read(name, TEXT_BYTES_MAX)?;
            decode(&bytes).map(|_| bytes)
        })
    };
    let fault = |object: &ObjectName, error, twin: Option<&ObjectName>| PlainFault {
        object: object.clone(),
        error,
        twin: twin.cloned(),
    };
    match (look(name), look(&copy)) {
        (Ok(own), Ok(other)) if own == other => Vec::new(),
        // Both are whole, so neither came to be by accident.
        (Ok(_), Ok(_)) => {
            let error = RepoError::Damaged {
                object: copy.to_string(),
                field: "copy",
                at: 0,
                expected: format!("the bytes of {name}"),
                found: "others, with a right checksum".to_owned(),
            };
            vec![fault(&copy, error, None)]
        }
        (Err(error), Ok(_)) => vec![fault(name, error, Some(&copy))],
        (Ok(_), Err(error)) => vec![fault(&copy, error, Some(name))],
        (Err(own), Err(other)) => vec![fault(name, own, None), fault(&copy, other, None)],
    }
}

/// Writes one of the two anew from its sound twin; what lies there is put aside first, and the twin is sound all the while.
///
/// # Errors
/// [`RepoError::Store`].
pub fn restore(store: &dyn ObjectStore, object: &ObjectName, twin: &ObjectName) -> Result<(), RepoError> {
    let bytes = store.read(twin, TEXT_BYTES_MAX)?;
    quarantine::put(store, object, object)?;
    match store.put_exclusive(object, &bytes) {
        Ok(()) | Err(StoreError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    // A slot that is being removed goes copy first: what was written from it must not bring it back.
    match store.len(twin) {
        Err(StoreError::NotFound { .. }) => Ok(store.remove(object)?),
        outcome => Ok(outcome.map(drop)?),
    }
}

/// Makes an object that is missing or damaged anew from its twin, the object from the copy or the copy from the object,
/// if `decode` takes the twin. Gives the name of what was made anew; `None` if there was nothing to do, or nothing to do
/// it with.
///
/// # Errors
/// [`RepoError::Store`]. Dying in between leaves the sound twin.
pub fn mend<T>(
    store: &dyn ObjectStore,
    name: &ObjectName,
    decode: impl Fn(&[u8]) -> Result<T, RepoError>,
) -> Result<Option<ObjectName>, RepoError> {
    let both = [name.clone(), copy_of(name)];
    let is_sound = both.each_ref().map(|name| get_one(store, name, &decode).is_ok());
    let (bad, sound) = match is_sound {
        [false, true] => (&both[0], &both[1]),
        [true, false] => (&both[1], &both[0]),
        _ => return Ok(None),
    };
    let bytes = store.read(sound, TEXT_BYTES_MAX)?;
    quarantine::put(store, bad, bad)?;
    store.put_exclusive(bad, &bytes)?;
    // Somebody may be removing both: what he took away must not come back from here.
    match store.len(sound) {
        Err(StoreError::NotFound { .. }) => {
            store.remove(bad)?;
            Ok(None)
        }
        _ => Ok(Some(bad.clone())),
    }
}

fn get_one<T>(
    store: &dyn ObjectStore,
    name: &ObjectName,
    decode: &impl Fn(&[u8]) -> Result<T, RepoError>,
) -> Result<T, RepoError> {
    decode(&store.read(name, TEXT_BYTES_MAX)?)
}

/// Appends the checksum line to `lines`.
pub fn encode(lines: &[&str]) -> Vec<u8> {
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    let checksum = blake3::hash(text.as_bytes());
    text.push_str(&format!("{CHECKSUM_PREFIX}{}\n", to_hex(checksum.as_bytes())));
    text.into_bytes()
}

/// Verifies the checksum line and gives the lines before it.
///
/// # Errors
/// [`RepoError::Damaged`] if there are not exactly `count` lines before a right checksum.
pub fn decode<'a>(object: &str, bytes: &'a [u8], count: usize) -> Result<Vec<&'a str>, RepoError> {
    let damaged = |at: usize, expected: String, found: String| RepoError::Damaged {
        object: object.to_owned(),
        field: "checksum",
        at: at as u64,
        expected,
        found,
    };
    let text = std::str::from_utf8(bytes)
        .map_err(|error| damaged(error.valid_up_to(), "UTF-8 text".to_owned(), "other bytes".to_owned()))?;
    let at = text.trim_end_matches('\n').rfind('\n').map_or(0, |newline| newline + 1);
    let (body, last) = text.split_at(at);
    let expected = format!("{CHECKSUM_PREFIX}{}\n", to_hex(blake3::hash(body.as_bytes()).as_bytes()));
    if last != expected {
        return Err(damaged(at, expected.trim_end().to_owned(), last.trim_end().chars().take(80).collect()));
    }
    // Not `lines()`, which would also swallow a carriage return: lines are authenticated to the letter.
    let lines: Vec<&str> = body.split_terminator('\n').collect();
    if lines.len() != count {
        return Err(damaged(0, format!("{count} lines"), format!("{} lines", lines.len())));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let text = encode(&["{\"a\":1}", "00ff"]);
        assert_eq!(decode("config", &text, 2).unwrap(), ["{\"a\":1}", "00ff"]);
        assert!(decode("config", &text, 1).is_err());
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode("config", &flipped, 2).is_err(), "bit {bit}");
        }
        for len in 0..text.len() {
            assert!(decode("config", &text[..len], 2).is_err(), "cut to {len}");
        }
    }
}
