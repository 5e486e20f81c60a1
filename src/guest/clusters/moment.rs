//! Dates and times of day in 16 bits each, as DOS had them.
//!
//! Date: years since 1980 in bits 9–15, month 5–8, day 0–4. Time: hours 11–15, minutes 5–10, seconds ÷ 2 0–4. They say
//! what the clock on the wall said; which zone it hung in, FAT does not know.
//!
//! Source: Microsoft, FAT: General Overview of On-Disk Format 1.03, "Date and Time Formats".

use crate::guest::tree::Time;

/// Seconds since 1970 of a date and time of day in UTC, and so many hundredths of a second after it. Fields that no
/// calendar has are taken for the nearest that one has.
pub(in crate::guest) fn time(date: u16, time_of_day: u16, hundredths: u8) -> Time {
    let year = 1980 + i64::from(date >> 9);
    let month = i64::from(date >> 5 & 0xf).clamp(1, 12);
    let day = i64::from(date & 0x1f).max(1);
    let [hours, minutes, pairs] = [time_of_day >> 11, time_of_day >> 5 & 0x3f, time_of_day & 0x1f].map(i64::from);
    let seconds = ((days(year, month, day) * 24 + hours) * 60 + minutes) * 60 + pairs * 2;
    let hundredths = u32::from(hundredths);
    Time { seconds: seconds + i64::from(hundredths / 100), nanoseconds: hundredths % 100 * 10_000_000 }
}

/// Days from 1970 to a day of the Gregorian calendar, after 1969. Counted in years that begin in March, so that the leap
/// day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(date: (u16, u16, u16), time_of_day: (u16, u16, u16), hundredths: u8, expected: &str) {
        let packed = (date.0 - 1980) << 9 | date.1 << 5 | date.2;
        let found = time(packed, (time_of_day.0 << 11) | (time_of_day.1 << 5) | (time_of_day.2 / 2), hundredths);
        let expected: jiff::Timestamp = expected.parse().unwrap();
        assert_eq!((found.seconds, found.nanoseconds as i32), (expected.as_second(), expected.subsec_nanosecond()));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        check((1980, 1, 1), (0, 0, 0), 0, "1980-01-01T00:00:00Z");
        check((2000, 2, 29), (23, 59, 58), 199, "2000-02-29T23:59:59.99Z");
        check((2026, 11, 22), (6, 30, 12), 100, "2026-11-22T06:30:13Z");
        check((2099, 12, 31), (23, 59, 58), 0, "2099-12-31T23:59:58Z");
        check((2100, 3, 1), (0, 0, 0), 1, "2100-03-01T00:00:00.01Z");
        check((2107, 12, 31), (12, 0, 2), 0, "2107-12-31T12:00:02Z");
        for year in 1980..2108 {
            check((year, 3, 1), (1, 2, 4), 50, &format!("{year}-03-01T01:02:04.5Z"));
        }
    }

    #[test]
    fn what_no_calendar_has_is_a_date_all_the_same() {
        assert_eq!(time(0, 0, 0), time(1 << 5 | 1, 0, 0));
        assert_eq!(time(15 << 5 | 1, 0, 0), time(12 << 5 | 1, 0, 0));
        time(u16::MAX, u16::MAX, u8::MAX);
    }
}
