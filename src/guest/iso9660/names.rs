//! How names look where Rock Ridge does not say: as Linux shows them.

/// A plain name: small letters, no version 1 and no dot before it; what cannot stand in a name is a dot.
pub(crate) fn plain(stored: &[u8]) -> Vec<u8> {
    let stored = stored.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = stored.strip_suffix(b".;1").or_else(|| stored.strip_suffix(b";1")).unwrap_or(stored);
    let shown = name.iter().map(|byte| match byte {
        b';' | b'/' => b'.',
        other => other.to_ascii_lowercase(),
    });
    shown.collect()
}

/// A name of Joliet: UTF-16, big-endian, without version 1, and without dots at its end.
pub(crate) fn joliet(stored: &[u8]) -> Vec<u8> {
    let units = stored.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let name: String = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    let name = name.strip_suffix(";1").filter(|name| !name.is_empty()).unwrap_or(&name);
    let short = name.trim_end_matches('.');
    if short.is_empty() { name.into() } else { short.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_shown_as_linux_does() {
        let table: [(&[u8], &[u8]); 9] = [
            (b"README.TXT;1", b"readme.txt"),
            (b"README.;1", b"readme"),
            (b"README;1", b"readme"),
            (b"README.TXT;2", b"readme.txt.2"),
            (b"A;1;1", b"a.1"),
            (b"DIR", b"dir"),
            (b"BIN/LS", b"bin.ls"),
            (b"CUT\0OFF", b"cut"),
            (b"dots...", b"dots..."),
        ];
        for (stored, expected) in table {
            assert_eq!(plain(stored), expected, "{stored:?}");
        }
    }

    #[test]
    fn joliet_names_are_shown_as_linux_does() {
        let table = [
            ("Read me.txt;1", "Read me.txt"),
            ("Read me", "Read me"),
            ("ü...", "ü"),
            ("a.;1", "a"),
            ("日本🦀", "日本🦀"),
            ("...", "..."),
            ("a;1", "a"),
            (";1", ";1"),
        ];
        for (stored, expected) in table {
            let units: Vec<u8> = stored.encode_utf16().flat_map(u16::to_be_bytes).collect();
            assert_eq!(joliet(&units), expected.as_bytes(), "{stored:?}");
        }
        assert_eq!(joliet(&[0xd8, 0, 0, b'a']), "\u{fffd}a".as_bytes());
    }
}
