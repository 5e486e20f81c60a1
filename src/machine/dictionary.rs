//! VMware's `key = "value"` files (`.vmx`, `.vmsd`): text → a dictionary.
//!
//! In here: the syntax, its escapes and encodings. Not in here: what any key means (`vmx`, `vmsd`).
//!
//! Rules, as VMware's own tools behave (virt-v2v's `parse_vmx.ml` describes the same):
//! - one entry a line, `#` begins a comment, CRLF or LF, blanks around everything, a byte order mark may come first;
//! - keys are case-insensitive, and the last of two equal keys wins;
//! - in values `|XX` is the byte with that hex number (`|22` a quote, `|0A` a line feed); a `|` before anything else
//!   stands for itself;
//! - `.encoding` names the encoding of all values. UTF-8, US-ASCII and the Latin-1 family are decoded; a value of another
//!   encoding is exact as long as it is ASCII.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nom::bytes::complete::{tag, take_till, take_while, take_while1};
use nom::character::complete::{char, space0};
use nom::combinator::{all_consuming, opt, rest};
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

use super::error::{MachineError, shown};
use super::folder::read_bounded;

/// Most entries; a large real `.vmx` has 400, a `.vmsd` about 12 a snapshot. Bounds the memory of the dictionary.
const ENTRIES_MAX: u64 = 1 << 16;

/// A parsed file. Keys are lower-case.
pub(super) struct Dictionary {
    file: PathBuf,
    values: HashMap<String, Value>,
}

/// One value, decoded.
struct Value {
    text: String,
    /// Whether every byte was understood; a file name must be exact, a name to show need not be.
    exact: bool,
}

/// One line as it stands in the file: key, and value with its escapes.
type RawEntry<'a> = (&'a [u8], &'a [u8]);

impl Dictionary {
    /// Reads a file of at most [`super::folder::FILE_BYTES_MAX`].
    pub(super) fn read(file: &Path) -> Result<Dictionary, MachineError> {
        Dictionary::parse(file, &read_bounded(file)?)
    }

    /// Parses what a file holds; `file` is for the errors.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Dictionary, MachineError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let syntax = |line: usize, expected, found: &[u8]| MachineError::Syntax {
            file: file.to_path_buf(),
            line,
            expected,
            found: shown(&String::from_utf8_lossy(found)),
        };

        // Two passes: the encoding is one of the entries and governs all the others.
        let mut raw: HashMap<String, Vec<u8>> = HashMap::new();
        for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if text.contains(&0) {
                return Err(syntax(line, "text without NUL bytes", text));
            }
            let (_, entry) =
                all_consuming(line_entry).parse(text).map_err(|_| syntax(line, "key = \"value\"", text))?;
            let Some((key, value)) = entry else { continue };
            let key = String::from_utf8_lossy(key).to_ascii_lowercase();
            let value = unescape(value).ok_or_else(|| syntax(line, "text without NUL bytes", value))?;
            raw.insert(key, value);
            if raw.len() as u64 > ENTRIES_MAX {
                return Err(MachineError::TooMuch {
                    path: file.to_path_buf(),
                    what: "entries",
                    max: ENTRIES_MAX,
                    found: raw.len() as u64,
                });
            }
        }

        let encoding = Encoding::named(raw.get(".encoding").map(Vec::as_slice));
        let values = raw.into_iter().map(|(key, bytes)| (key, encoding.decode(&bytes))).collect();
        Ok(Dictionary { file: file.to_path_buf(), values })
    }

    /// The file it was read from.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// A value to show or to compare with a word; `None` if the key is not there. `key` in lower case.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.text.as_str())
    }

    /// A value that must be exact, such as a file name.
    pub(super) fn exact(&self, key: &str) -> Result<Option<&str>, MachineError> {
        match self.values.get(key) {
            Some(value) if !value.exact => {
                Err(self.wrong(key, "a name in UTF-8, US-ASCII or windows-1252", shown(&value.text)))
            }
            value => Ok(value.map(|value| value.text.as_str())),
        }
    }

    /// Whether a key says TRUE.
    pub(super) fn is_true(&self, key: &str) -> bool {
        self.text(key).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    /// A whole number; `None` if the key is not there.
    pub(super) fn number<N: std::str::FromStr>(&self, key: &str, expected: &str) -> Result<Option<N>, MachineError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| self.wrong(key, expected, shown(text)))
    }

    /// All keys, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The error for a value that cannot be.
    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>, found: impl Into<String>) -> MachineError {
        MachineError::Value {
            file: self.file.clone(),
            key: key.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// One line: an entry, or nothing but blanks and a comment.
fn line_entry(input: &[u8]) -> IResult<&[u8], Option<RawEntry<'_>>> {
    preceded(space0, (opt(entry), space0, opt(comment))).map(|(entry, _, _)| entry).parse(input)
}

fn entry(input: &[u8]) -> IResult<&[u8], RawEntry<'_>> {
    let (input, key) = take_while1(is_key_byte).parse(input)?;
    let (input, _) = (space0, char('='), space0).parse(input)?;
    let (input, value) = delimited(char('"'), take_till(|byte| byte == b'"'), char('"')).parse(input)?;
    // A second quote on the line is an unescaped quote inside the value: where it ends is anybody's guess.
    let (input, _) = take_while(|byte: u8| byte.is_ascii_whitespace()).parse(input)?;
    Ok((input, (key, value)))
}

fn comment(input: &[u8]) -> IResult<&[u8], &[u8]> {
    preceded(tag("#"), rest).parse(input)
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'=' | b'"' | b'#')
}

/// Resolves `|XX`; `None` if that makes a NUL, which no name can hold.
fn unescape(value: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(value.len());
    let mut left = value;
    while let Some((&byte, after)) = left.split_first() {
        left = after;
        if byte == b'|'
            && let Some((digits, after)) = after.split_at_checked(2)
            && let Some(escaped) = hex_byte(digits)
        {
            if escaped == 0 {
                return None;
            }
            plain.push(escaped);
            left = after;
        } else {
            plain.push(byte);
        }
    }
    Some(plain)
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

/// How the values of a file are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Windows1252,
    /// One that we know only in its ASCII part (GBK, Big5, Shift_JIS…).
    Other,
}

impl Encoding {
    fn named(name: Option<&[u8]>) -> Encoding {
        let Some(name) = name else { return Encoding::Utf8 };
        match String::from_utf8_lossy(name).trim().to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" | "us-ascii" | "ascii" => Encoding::Utf8,
            // Latin-1 differs only in control characters that no name has; what calls itself so is windows-1252.
            "windows-1252" | "iso-8859-1" | "latin1" | "cp1252" => Encoding::Windows1252,
            _ => Encoding::Other,
        }
    }

    fn decode(self, bytes: &[u8]) -> Value {
        match self {
            Encoding::Windows1252 => {
                Value { text: bytes.iter().map(|byte| windows_1252(*byte)).collect(), exact: true }
            }
            Encoding::Utf8 => match std::str::from_utf8(bytes) {
                Ok(text) => Value { text: text.to_owned(), exact: true },
                Err(_) => Value { text: String::from_utf8_lossy(bytes).into_owned(), exact: false },
            },
            Encoding::Other => Value { text: String::from_utf8_lossy(bytes).into_owned(), exact: bytes.is_ascii() },
        }
    }
}

/// The character of a windows-1252 byte. Source: Microsoft's table of code page 1252; the five unused bytes map to the
/// control characters of Latin-1, as everywhere.
fn windows_1252(byte: u8) -> char {
    const FROM_0X80: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match byte.checked_sub(0x80).and_then(|index| FROM_0X80.get(usize::from(index))) {
        Some(character) => *character,
        None => char::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &[u8], key: &str, expected: Option<&str>) {
        let dictionary = Dictionary::parse(Path::new("t.vmx"), input).unwrap();
        assert_eq!(dictionary.text(key), expected, "{}", String::from_utf8_lossy(input));
    }

    #[test]
    fn entries() {
        check(b"", "a", None);
        check(b"a = \"1\"", "a", Some("1"));
        check(b"a=\"1\"\n", "a", Some("1"));
        check(b"  a\t= \"1\"  \r\n", "a", Some("1"));
        check(b"a = \"\"", "a", Some(""));
        check(b"a = \"1\" # why", "a", Some("1"));
        check(b"#!/usr/bin/vmware\n\n  # a = \"0\"\r\na = \"1\"\n", "a", Some("1"));
        check(b"\xef\xbb\xbfa = \"1\"", "a", Some("1"));
        check(b"displayName = \"Shop\"", "displayname", Some("Shop"));
        check(b"a = \"1\"\nA = \"2\"\n", "a", Some("2"));
        check(b"scsi0:0.fileName = \"web 1#2=3.vmdk\"", "scsi0:0.filename", Some("web 1#2=3.vmdk"));
    }

    #[test]
    fn escapes() {
        check(b"a = \"|22x|22\"", "a", Some("\"x\""));
        check(b"a = \"one|0Atwo\"", "a", Some("one\ntwo"));
        check(b"a = \"|7C22\"", "a", Some("|22"));
        check(b"a = \"1|\"", "a", Some("1|"));
        check(b"a = \"1|2\"", "a", Some("1|2"));
        check(b"a = \"|+2|zz\"", "a", Some("|+2|zz"));
        check(b"a = \"|C3|BC\"", "a", Some("ü"));
    }

    #[test]
    fn encodings() {
        check("a = \"Prüfung\"".as_bytes(), "a", Some("Prüfung"));
        check(b".encoding = \"windows-1252\"\na = \"Pr\xfcfung \x80\"", "a", Some("Prüfung €"));
        check(b"a = \"Pr\xfcfung\"\n.encoding = \"Windows-1252\"", "a", Some("Prüfung"));

        for (input, exact) in [
            (&b".encoding = \"GBK\"\na = \"plain\""[..], true),
            (b".encoding = \"GBK\"\na = \"\xd6\xd0\"", false),
            (b"a = \"Pr\xfcfung\"", false),
        ] {
            let dictionary = Dictionary::parse(Path::new("t.vmx"), input).unwrap();
            assert!(dictionary.text("a").is_some());
            assert_eq!(dictionary.exact("a").is_ok(), exact, "{}", String::from_utf8_lossy(input));
        }
    }

    #[track_caller]
    fn refused(input: &[u8], message: &str) {
        let Err(error) = Dictionary::parse(Path::new("t.vmx"), input) else { panic!("was accepted") };
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn hostile_text_is_refused_by_line() {
        refused(b"a = 1", r#"t.vmx: line 1: expected key = "value", found "a = 1""#);
        refused(b"b = \"1\"\na = \"1", r#"t.vmx: line 2: expected key = "value", found "a = \"1""#);
        refused(b"a = \"say \"no\"\"", r#"t.vmx: line 1: expected key = "value", found "a = \"say \"no\"\"""#);
        refused(b"a", r#"t.vmx: line 1: expected key = "value", found "a""#);
        refused(b"= \"1\"", r#"t.vmx: line 1: expected key = "value", found "= \"1\"""#);
        refused(b"\n\na = \"\0\"", r#"t.vmx: line 3: expected text without NUL bytes, found "a = \"\0\"""#);
        refused(b"a = \"x|00y\"", r#"t.vmx: line 1: expected text without NUL bytes, found "x|00y""#);
        refused(b"KDMV\x1b[2J", r#"t.vmx: line 1: expected key = "value", found "KDMV\u{1b}[2J""#);
        let long = [b'x'; 200];
        refused(&long, &format!(r#"t.vmx: line 1: expected key = "value", found "{}…""#, "x".repeat(80)));
    }

    #[test]
    fn entries_are_counted() {
        let line = |index: u64| format!("k{index} = \"\"\n");
        let at_limit: String = (0..ENTRIES_MAX).map(line).collect();
        assert!(Dictionary::parse(Path::new("t.vmx"), at_limit.as_bytes()).is_ok());
        refused((at_limit + &line(ENTRIES_MAX)).as_bytes(), "t.vmx: entries: expected at most 65536, found 65537");
    }

    proptest::proptest! {
        /// Whatever text goes in escaped comes out as it was; nothing panics on any bytes.
        #[test]
        fn escaped_text_comes_back(text in "[^\0]{0,40}", noise in proptest::collection::vec(0u8.., 0..200)) {
            let escaped: String = text.chars().map(|c| match c {
                '"' | '|' | '\n' | '\r' => format!("|{:02X}", u32::from(c)),
                c => c.to_string(),
            }).collect();
            check(format!("a = \"{escaped}\"").as_bytes(), "a", Some(text.as_str()));
            let _ = Dictionary::parse(Path::new("t.vmx"), &noise);
        }
    }
}
