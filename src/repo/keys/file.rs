//! Key files: 32 random bytes as a short text that can be printed, typed in again, and is checked when it is.
//!
//!     abbild key file 1
//!     64 hex digits
//!     check: the first 8 hex digits of the BLAKE3 of the line above

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::repo::error::RepoError;
use crate::repo::ids::{from_hex, random, to_hex};

const TITLE: &str = "abbild key file 1";
/// Key files are some 100 bytes long.
const FILE_BYTES_MAX: u64 = 4096;

/// The secret of a key file.
pub struct KeyFile {
    secret: Zeroizing<[u8; 32]>,
    origin: String,
}

impl KeyFile {
    /// A fresh secret; `origin` says in messages where it is from.
    pub fn generate(origin: &str) -> KeyFile {
        KeyFile { secret: Zeroizing::new(random()), origin: origin.to_owned() }
    }

    /// Where it is from, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn secret(&self) -> &Zeroizing<[u8; 32]> {
        &self.secret
    }

    /// The file's text.
    pub fn to_text(&self) -> Zeroizing<String> {
        let hex = Zeroizing::new(to_hex(self.secret.as_ref()));
        Zeroizing::new(format!("{TITLE}\n{}\ncheck: {}\n", *hex, check_digits(&hex)))
    }

    /// Reads a key file's text.
    ///
    /// # Errors
    /// [`RepoError::KeyFile`] naming the line that is wrong.
    pub fn parse(text: &str, origin: &str) -> Result<KeyFile, RepoError> {
        let wrong = |expected: &str, found: &str| RepoError::KeyFile {
            file: origin.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        match lines.next() {
            Some(TITLE) => {}
            other => return Err(wrong(TITLE, &other.unwrap_or("nothing").chars().take(40).collect::<String>())),
        }
        let hex = lines.next().unwrap_or_default();
        let secret = from_hex(hex).ok_or_else(|| wrong("64 hex digits in its second line", "something else"))?;
        let check = lines.next().and_then(|line| line.strip_prefix("check:")).map(str::trim).unwrap_or_default();
        if check != check_digits(hex) {
            return Err(wrong("check digits that fit its second line (is a digit mistyped?)", "others"));
        }
        Ok(KeyFile { secret: Zeroizing::new(secret), origin: origin.to_owned() })
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`RepoError::KeyFile`].
    pub fn load(path: &Path) -> Result<KeyFile, RepoError> {
        let origin = path.display().to_string();
        let unreadable = |error: std::io::Error| RepoError::KeyFile {
            file: origin.clone(),
            expected: "a readable file".to_owned(),
            found: error.to_string(),
        };
        let mut text = Zeroizing::new(String::new());
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        KeyFile::parse(&text, &origin)
    }

    /// Writes a new key file, readable by its owner alone, durably; an existing file is never replaced.
    ///
    /// # Errors
    /// [`RepoError::KeyFile`].
    pub fn save(&self, path: &Path) -> Result<(), RepoError> {
        let unwritable = |error: std::io::Error| RepoError::KeyFile {
            file: path.display().to_string(),
            expected: "a new file that can be written".to_owned(),
            found: error.to_string(),
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(unwritable)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(unwritable)?;
        file.write_all(self.to_text().as_bytes()).map_err(unwritable)?;
        file.sync_all().map_err(unwritable)?;
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable)
    }
}

fn check_digits(hex: &str) -> String {
    blake3::hash(hex.as_bytes()).to_hex()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_key_can_be_typed_in_again_and_typos_are_noticed() {
        let key = KeyFile::generate("x");
        let text = key.to_text();
        assert_eq!(KeyFile::parse(&text, "y").unwrap().secret.as_ref(), key.secret.as_ref());
        assert!(KeyFile::parse(&format!("  {}\n", text.replace('\n', " \r\n\n")), "y").is_ok());
        let line = text.lines().nth(1).unwrap();
        for at in 0..64 {
            let digit = if &line[at..=at] == "0" { "1" } else { "0" };
            let typo = text.replace(line, &format!("{}{digit}{}", &line[..at], &line[at + 1..]));
            assert!(KeyFile::parse(&typo, "y").is_err(), "digit {at}");
        }
        for bad in ["", "abbild key file 2\n", TITLE, "abbild key file 1\n00\n"] {
            assert!(KeyFile::parse(bad, "y").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_file_is_private_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/key");
        let key = KeyFile::generate("x");
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(KeyFile::load(&path).unwrap().secret.as_ref(), key.secret.as_ref());
        assert!(KeyFile::generate("y").save(&path).is_err());
    }
}
