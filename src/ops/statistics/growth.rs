//! How the store grows, and when it will be full. Pure.
//!
//! What counts is what backups that are still there added to the store when they were made. A machine's oldest backup is left
//! out of the rate, as a first backup comes once; what prunes give back is left out, too: the rate says what happens if
//! nothing is pruned. So it errs on the side of "full sooner".

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// Weeks that are told.
const WEEKS: usize = 8;
/// The rate is that of the last so many days.
const RATE_DAYS: i64 = 28;
/// With less history than this no rate is told.
const RATE_DAYS_MIN: i64 = 14;

/// A backup, as far as growth goes.
#[derive(Clone, Copy, Debug)]
pub struct Added {
    /// When it was finished.
    pub finished: Timestamp,
    /// Bytes that it added to the store.
    pub bytes: u64,
    /// Whether it is its machine's oldest.
    pub is_first: bool,
}

/// A week's growth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Week {
    /// `2026-W47`, by ISO 8601, in this host's time zone.
    pub week: String,
    /// Backups made in it that are still there.
    pub backups: usize,
    /// Bytes that these added.
    pub stored: u64,
}

/// How a store grows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Growth {
    /// The last weeks, oldest first; such without a backup, too, but none before the first backup.
    pub weeks: Vec<Week>,
    /// Bytes a day over the last four weeks, or since the first backup; null with less than two weeks of history.
    pub bytes_per_day: Option<u64>,
}

impl Growth {
    /// The growth by `backups`, as seen at `now`. What is dated in the future is left out.
    pub fn of(backups: &[Added], now: Timestamp, zone: &TimeZone) -> Growth {
        let past = || backups.iter().filter(|backup| backup.finished <= now);
        let Some(first) = past().map(|backup| backup.finished).min() else { return Growth::default() };
        let mut weeks = Vec::new();
        for back in (0..WEEKS as i64).rev() {
            let at = now.saturating_sub(SignedDuration::from_hours(back * 7 * 24)).unwrap_or(Timestamp::MIN);
            let week = name(at, zone);
            if name(first, zone) > week {
                continue;
            }
            let of_week = || past().filter(|backup| name(backup.finished, zone) == week);
            let (count, stored) = (of_week().count(), of_week().map(|backup| backup.bytes).sum());
            weeks.push(Week { week, backups: count, stored });
        }
        Growth { weeks, bytes_per_day: rate(&past().copied().collect::<Vec<_>>(), first, now) }
    }

    /// Days until `free` bytes are used up; `None` if nothing grows, or nobody knows how fast.
    pub fn days_left(&self, free: u64) -> Option<u64> {
        self.bytes_per_day.and_then(|rate| free.checked_div(rate))
    }
}

fn rate(backups: &[Added], first: Timestamp, now: Timestamp) -> Option<u64> {
    let day = 24 * 3600;
    let history = now.duration_since(first).as_secs().min(RATE_DAYS * day);
    if history < RATE_DAYS_MIN * day {
        return None;
    }
    let counted =
        backups.iter().filter(|backup| !backup.is_first && now.duration_since(backup.finished).as_secs() <= history);
    let bytes: u128 = counted.map(|backup| u128::from(backup.bytes)).sum();
    let seconds = u128::try_from(history).unwrap_or(1).max(1);
    u64::try_from(bytes * u128::try_from(day).unwrap_or(1) / seconds).ok()
}

/// Names of weeks sort as the weeks do.
fn name(at: Timestamp, zone: &TimeZone) -> String {
    let week = at.to_zoned(zone.clone()).date().iso_week_date();
    format!("{:04}-W{:02}", week.year(), week.week())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap() // a Sunday, week 47
    }

    fn added(days_ago: i64, bytes: u64, is_first: bool) -> Added {
        Added { finished: now() - SignedDuration::from_hours(24 * days_ago), bytes, is_first }
    }

    #[track_caller]
    fn check(backups: &[Added], weeks: &[(&str, usize, u64)], bytes_per_day: Option<u64>) {
        let growth = Growth::of(backups, now(), &TimeZone::UTC);
        let found: Vec<(&str, usize, u64)> =
            growth.weeks.iter().map(|week| (week.week.as_str(), week.backups, week.stored)).collect();
        assert_eq!((found.as_slice(), growth.bytes_per_day), (weeks, bytes_per_day));
    }

    #[test]
    fn weeks_and_the_rate() {
        check(&[], &[], None);
        check(&[added(0, 100, true)], &[("2026-W47", 1, 100)], None);
        check(&[added(7, 1000, true), added(0, 70, false)], &[("2026-W46", 1, 1000), ("2026-W47", 1, 70)], None);
        let two_weeks = [added(14, 1000, true), added(7, 70, false), added(1, 70, false)];
        let weeks = [("2026-W45", 1, 1000), ("2026-W46", 1, 70), ("2026-W47", 1, 70)];
        check(&two_weeks, &weeks, Some(10));
        // Only the last four weeks count, and of many weeks the last eight are told.
        let long: Vec<Added> = (0..100).map(|days| added(days, if days <= 27 { 28 } else { 5 }, days == 99)).collect();
        let growth = Growth::of(&long, now(), &TimeZone::UTC);
        assert_eq!((growth.weeks.len(), growth.bytes_per_day), (WEEKS, Some(28)));
        assert_eq!(growth.weeks[0].week, "2026-W40");
        // A week without backups is told; what is dated in the future is not.
        check(
            &[added(14, 9, true), added(-1, 100, false)],
            &[("2026-W45", 1, 9), ("2026-W46", 0, 0), ("2026-W47", 0, 0)],
            Some(0),
        );
    }

    #[test]
    fn days_until_it_is_full() {
        for (rate, free, expected) in
            [(None, 100, None), (Some(0), 100, None), (Some(10), 105, Some(10)), (Some(10), 9, Some(0))]
        {
            assert_eq!(Growth { weeks: Vec::new(), bytes_per_day: rate }.days_left(free), expected);
        }
    }

    #[test]
    fn weeks_of_two_years_sort() {
        let zone = TimeZone::UTC;
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(name(at("2026-12-31T12:00:00Z"), &zone), "2026-W53");
        assert_eq!(name(at("2027-01-03T12:00:00Z"), &zone), "2026-W53");
        assert!(name(at("2027-01-04T12:00:00Z"), &zone) > name(at("2027-01-03T12:00:00Z"), &zone));
    }
}
