//! Plain objects: short texts that must be readable before any key is known (the configuration, key slots).
//!
//! Layout (docs/FORMAT.md, "Plain objects"): lines of UTF-8, the last of which is `blake3 ` and the hex BLAKE3 of all
//! bytes before it. The checksum tells damage apart from a wrong passphrase; it proves nothing against a forger.

use super::error::RepoError;
use super::ids::to_hex;

/// Largest plain object we read.
pub const TEXT_BYTES_MAX: u64 = 64 << 10;
const CHECKSUM_PREFIX: &str = "blake3 ";

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
