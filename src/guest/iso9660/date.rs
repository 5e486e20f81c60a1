//! Points in time, in two forms: 7 bytes (years since 1900, month, day, hour, minute, second, quarters of an hour east of
//! Greenwich) and 17 (sixteen digits down to hundredths, then the same quarters).

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::guest::tree::Time;

pub(crate) const SHORT_BYTES: usize = 7;
pub(crate) const LONG_BYTES: usize = 17;
/// Largest distance from Greenwich that is believed: 13 hours.
const QUARTERS_MAX: i8 = 52;

/// A date of 7 bytes; 1970 if it is none, as those that were never set.
pub(crate) fn short(bytes: &[u8; SHORT_BYTES]) -> Time {
    let [year, month, day, hour, minute, second, quarters] = *bytes;
    time(1900 + i16::from(year), [month, day, hour, minute, second], 0, quarters)
}

/// A date of 17 bytes.
pub(crate) fn long(bytes: &[u8; LONG_BYTES]) -> Time {
    let (digits, quarters) = (&bytes[..16], bytes[16]);
    let number = |from: usize, len: usize| {
        let digits = digits[from..from + len].iter();
        digits.fold(0i16, |number, digit| number * 10 + i16::from(digit.wrapping_sub(b'0') % 10))
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Time::default();
    }
    let [month, day, hour, minute, second, hundredths] =
        [4, 6, 8, 10, 12, 14].map(|at| u8::try_from(number(at, 2)).expect("two digits"));
    time(number(0, 4), [month, day, hour, minute, second], hundredths, quarters)
}

fn time(year: i16, parts: [u8; 5], hundredths: u8, quarters: u8) -> Time {
    let [month, day, hour, minute, second] = parts.map(|part| i8::try_from(part).unwrap_or(-1));
    let civil = DateTime::new(year, month, day, hour, minute, second, 0);
    let Some(seconds) = civil.ok().and_then(|civil| civil.to_zoned(TimeZone::UTC).ok()) else {
        return Time::default();
    };
    let quarters = i8::from_le_bytes([quarters]);
    let east = if quarters.unsigned_abs() <= QUARTERS_MAX.unsigned_abs() { i64::from(quarters) * 15 * 60 } else { 0 };
    Time { seconds: seconds.timestamp().as_second() - east, nanoseconds: u32::from(hundredths) * 10_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: Time, seconds: i64, nanoseconds: u32) {
        assert_eq!(found, Time { seconds, nanoseconds });
    }

    #[test]
    fn both_forms_and_what_is_none() {
        check(short(&[70, 1, 1, 0, 0, 0, 0]), 0, 0);
        check(short(&[0, 1, 1, 0, 0, 0, 0]), -2_208_988_800, 0);
        check(short(&[255, 12, 31, 23, 59, 59, 0]), 5_869_583_999, 0);
        check(short(&[70, 1, 1, 2, 0, 0, 8]), 0, 0);
        check(short(&[69, 12, 31, 19, 0, 0, 0xec]), 0, 0);
        check(short(&[70, 1, 1, 0, 0, 0, 53]), 0, 0);
        check(short(&[100, 2, 29, 0, 0, 1, 0]), 951_782_401, 0);
        for none in [[0; 7], [70, 13, 1, 0, 0, 0, 0], [70, 2, 30, 0, 0, 0, 0], [255; 7]] {
            check(short(&none), 0, 0);
        }
        check(long(b"1970010100000099\0"), 0, 990_000_000);
        check(long(b"9998123123595900\0"), 253_370_764_799, 0);
        check(long(b"0000000000000000\0"), 0, 0);
        check(long(b"19700101 0000000\0"), 0, 0);
    }
}
