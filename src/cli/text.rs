//! Numbers and times as people read them. Pure, but for the time zone of this host.

use std::time::Duration;

use crate::repo::name::Named;

/// Digits of an id that are shown; enough to name a backup among many.
pub const ID_DIGITS: usize = 8;

/// `1.2 GiB`; whole bytes below a KiB.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Decided on the rounded value, so that 1023.96 KiB is 1.0 MiB and not 1024.0 KiB.
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `0.3 s`, `12 s`, `3 min 20 s`, `2 h 05 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A time in this host's zone, as it can be typed after `@`.
pub fn time(instant: jiff::Timestamp) -> String {
    instant.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// A time in this host's zone, for reading.
pub fn time_with_zone(instant: jiff::Timestamp) -> String {
    instant.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// The same to the minute, for columns.
pub fn time_to_the_minute(instant: jiff::Timestamp) -> String {
    instant.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// A name of a guest's file in one line of printable text, told apart from every other name: `\\`, `\n`, `\x1b` for bytes
/// that are no text, `\u{202e}` for characters that are not seen or turn the text around.
pub fn name(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c.is_control() || is_unseen(c) => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The same for what is text already.
pub fn printable_name(text: &str) -> String {
    name(text.as_bytes())
}

/// Characters without a place of their own on the screen: joiners, marks of direction, line separators, tags.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `web1@2026-11-20T02:15:33`.
pub fn backup_name(backup: &impl Named) -> String {
    format!("{}@{}", backup.machine(), time(backup.instant()))
}

/// The beginning of an id.
pub fn short_id(id: impl std::fmt::Display) -> String {
    id.to_string().chars().take(ID_DIGITS).collect()
}

/// `1 disk`, `3 disks`.
pub fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_digit_after_the_point_and_change_unit_in_time() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (100 << 20, "100.0 MiB"),
            (6 << 30, "6.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn durations_keep_two_units() {
        for (ms, expected) in
            [(0, "0.0 s"), (9_940, "9.9 s"), (59_999, "59 s"), (200_000, "3 min 20 s"), (7_500_000, "2 h 05 min")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn hostile_names_are_harmless_and_told_apart() {
        for (bytes, expected) in [
            (&b"plain name"[..], "plain name"),
            ("b\u{fc}cher \u{65e5}\u{672c} \u{1f980}".as_bytes(), "b\u{fc}cher \u{65e5}\u{672c} \u{1f980}"),
            (b"new\nline\ttab", "new\\nline\\ttab"),
            (b"back\\slash \\n", "back\\\\slash \\\\n"),
            (b"\x1b[31mred\x7f\x00", "\\x1b[31mred\\x7f\\x00"),
            (b"\xff\xfe \x80", "\\xff\\xfe \\x80"),
            ("\u{202e}cod.exe\u{9b}\u{200b}".as_bytes(), "\\u{202e}cod.exe\\u{9b}\\u{200b}"),
        ] {
            assert_eq!(name(bytes), expected);
        }
    }
}
