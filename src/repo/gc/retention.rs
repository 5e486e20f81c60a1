//! Which backups a set of rules keeps. Pure: equal arguments, equal plan; it is what `--dry-run` prints, what tests compare,
//! and what is then carried out.
//!
//! Not in here: how a backup is forgotten (`forgotten`), what that frees (`prune`).
//!
//! Rules look at the backups of one machine, newest first. A rule such as "daily 7" keeps the newest backup of each of the
//! newest seven days that have one. What one rule keeps, all keep. Whatever the rules say, these stay:
//!
//! - the newest backup of each machine, and its newest without warnings;
//! - a backup dated in the future: its host's clock was wrong. It neither fills a place of a rule nor moves another out;
//! - pinned backups, those younger than the minimum age, those with a tag that is kept, and those that were not asked about.
//!
//! A machine is its identity *and* its name here: clones that share an identity must not push each other's backups out. If
//! tags are told apart, rules look at the backups of one machine with the same tags.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::repo::brief::Brief;
use crate::repo::ids::BackupId;
use crate::repo::tag::Tag;

/// What is to be kept. Rules that are not set keep nothing.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// So many of the newest.
    pub last: Option<u32>,
    /// The newest of so many hours.
    pub hourly: Option<u32>,
    /// The newest of so many days.
    pub daily: Option<u32>,
    /// The newest of so many weeks, which begin on Mondays.
    pub weekly: Option<u32>,
    /// The newest of so many months.
    pub monthly: Option<u32>,
    /// The newest of so many years.
    pub yearly: Option<u32>,
    /// All not older than this, counted from the machine's newest backup: a machine that is off loses nothing.
    pub within: Option<Span>,
    /// Nothing younger than this is forgotten, counted from now. Alone it is no rule.
    pub min_age: Option<Span>,
    /// All with one of these tags. Alone it is no rule: a tag that is misspelt would forget all.
    pub tags: Vec<Tag>,
    /// What the rules look at as one.
    pub group: GroupBy,
}

/// Which backups the rules look at as one: within a group they keep the newest of a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupBy {
    /// Those of one machine.
    #[default]
    Machine,
    /// Those of one machine with the same tags.
    MachineAndTags,
}

/// A backup that a plan is asked about.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The backup.
    pub backup: BackupId,
    /// Identity and name of its machine.
    pub machine: (String, String),
    /// The instant it shows.
    pub instant: Timestamp,
    /// Whether it was made without warnings.
    pub clean: bool,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// Why somebody pinned it, if somebody did.
    pub pinned: Option<String>,
    /// Whether the rules are for it; by machine or tag it may be out of the question.
    pub asked: bool,
}

/// Why a backup is kept, or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
#[allow(missing_docs)] // fields that say what their variant does
pub enum Reason {
    /// The newest of its machine.
    Newest,
    /// The newest of its machine without warnings.
    NewestClean,
    /// The n-th newest.
    Last { number: u32 },
    /// The newest of the n-th hour.
    Hourly { number: u32 },
    /// The newest of the n-th day.
    Daily { number: u32 },
    /// The newest of the n-th week.
    Weekly { number: u32 },
    /// The newest of the n-th month.
    Monthly { number: u32 },
    /// The newest of the n-th year.
    Yearly { number: u32 },
    /// Within the span before the machine's newest.
    Within,
    /// It has a tag that is kept.
    Tag { tag: String },
    /// Younger than the minimum age.
    Young,
    /// Pinned, and why; empty if nobody said why.
    Pinned { reason: String },
    /// Dated in the future.
    Future,
    /// Not asked about.
    NotAsked,
    /// No rule keeps it.
    NoRule,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Newest => f.write_str("newest"),
            Reason::NewestClean => f.write_str("newest without warnings"),
            Reason::Last { number } => write!(f, "last {number}"),
            Reason::Hourly { number } => write!(f, "hourly {number}"),
            Reason::Daily { number } => write!(f, "daily {number}"),
            Reason::Weekly { number } => write!(f, "weekly {number}"),
            Reason::Monthly { number } => write!(f, "monthly {number}"),
            Reason::Yearly { number } => write!(f, "yearly {number}"),
            Reason::Within => f.write_str("within the span"),
            Reason::Tag { tag } => write!(f, "tag {tag}"),
            Reason::Young => f.write_str("too young"),
            Reason::Pinned { reason } if reason.is_empty() => f.write_str("pinned"),
            Reason::Pinned { reason } => write!(f, "pinned: {reason}"),
            Reason::Future => f.write_str("dated in the future"),
            Reason::NotAsked => f.write_str("not asked about"),
            Reason::NoRule => f.write_str("no rule keeps it"),
        }
    }
}

/// What is to become of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The backup.
    pub backup: BackupId,
    /// Whether it is kept.
    pub keep: bool,
    /// Why, sorted; never empty.
    pub reasons: Vec<Reason>,
}

/// No rule says what to keep: taken by the letter, that would forget nearly all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no rule says what to keep")]
pub struct NoRule;

impl Policy {
    /// Whether any rule says what to keep.
    pub fn has_rule(&self) -> bool {
        let counted = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counted.iter().flatten().any(|number| *number > 0) || self.within.is_some()
    }
}

impl Candidate {
    /// The candidate that a backup is; neither pinned nor out of the question.
    pub fn of(brief: &Brief) -> Candidate {
        Candidate {
            backup: brief.backup,
            machine: (brief.identity.clone(), brief.machine.clone()),
            instant: brief.instant,
            clean: brief.warnings.is_empty(),
            tags: sorted(&brief.tags),
            pinned: None,
            asked: true,
        }
    }
}

fn sorted(tags: &[String]) -> Vec<String> {
    let set: BTreeSet<&String> = tags.iter().collect();
    set.into_iter().cloned().collect()
}

/// Decides for every backup. Verdicts come in the order of `backups`; days and the like are those of `zone`.
///
/// # Errors
/// [`NoRule`].
pub fn plan(policy: &Policy, backups: &[Candidate], now: Timestamp, zone: &TimeZone) -> Result<Vec<Verdict>, NoRule> {
    if !policy.has_rule() {
        return Err(NoRule);
    }
    let mut reasons: Vec<BTreeSet<Reason>> = vec![BTreeSet::new(); backups.len()];
    let youngest_to_go = policy.min_age.map(|age| before(now, age, zone));
    let mut machines: BTreeMap<&(String, String), Vec<usize>> = BTreeMap::new();
    for (number, backup) in backups.iter().enumerate() {
        if backup.instant > now {
            reasons[number].insert(Reason::Future);
            continue;
        }
        if let Some(reason) = &backup.pinned {
            reasons[number].insert(Reason::Pinned { reason: reason.clone() });
        }
        let kept = policy.tags.iter().map(Tag::as_str).filter(|tag| backup.tags.iter().any(|own| own == tag));
        reasons[number].extend(kept.map(|tag| Reason::Tag { tag: tag.to_owned() }));
        if !backup.asked {
            reasons[number].insert(Reason::NotAsked);
        }
        if youngest_to_go.is_some_and(|limit| backup.instant > limit) {
            reasons[number].insert(Reason::Young);
        }
        machines.entry(&backup.machine).or_default().push(number);
    }
    for mut numbers in machines.into_values() {
        // The id decides among equal instants, so that the order of the input does not.
        numbers.sort_by_key(|number| (backups[*number].instant, backups[*number].backup));
        numbers.reverse();
        reasons[numbers[0]].insert(Reason::Newest);
        if let Some(clean) = numbers.iter().find(|number| backups[**number].clean).filter(|clean| **clean != numbers[0])
        {
            reasons[*clean].insert(Reason::NewestClean);
        }
        numbers.retain(|number| backups[*number].asked);
        let mut groups: BTreeMap<&[String], Vec<(usize, Timestamp)>> = BTreeMap::new();
        for number in numbers {
            let Candidate { tags, instant, .. } = &backups[number];
            let group = match policy.group {
                GroupBy::Machine => [].as_slice(),
                GroupBy::MachineAndTags => tags,
            };
            groups.entry(group).or_default().push((number, *instant));
        }
        groups.values().for_each(|newest_first| apply(policy, newest_first, zone, &mut reasons));
    }
    let verdicts = backups.iter().zip(reasons).map(|(backup, reasons)| {
        let keep = !reasons.is_empty();
        let reasons = if keep { reasons.into_iter().collect() } else { vec![Reason::NoRule] };
        Verdict { backup: backup.backup, keep, reasons }
    });
    Ok(verdicts.collect())
}

/// A rule that counts periods.
struct Periodic {
    wanted: Option<u32>,
    reason: fn(u32) -> Reason,
    /// The period that an instant lies in: equal for equal periods, and different for different ones.
    period: fn(jiff::Zoned) -> (Date, i64),
}

fn apply(policy: &Policy, newest_first: &[(usize, Timestamp)], zone: &TimeZone, reasons: &mut [BTreeSet<Reason>]) {
    for ((number, _), place) in newest_first.iter().zip(1..=policy.last.unwrap_or(0)) {
        reasons[*number].insert(Reason::Last { number: place });
    }
    let rules = [
        // An hour that the clocks repeat in autumn is two: the offset tells them apart.
        Periodic {
            wanted: policy.hourly,
            reason: |number| Reason::Hourly { number },
            period: |at| (at.date(), i64::from(at.hour()) * 100_000 + i64::from(at.offset().seconds())),
        },
        Periodic { wanted: policy.daily, reason: |number| Reason::Daily { number }, period: |at| (at.date(), 0) },
        Periodic {
            wanted: policy.weekly,
            reason: |number| Reason::Weekly { number },
            period: |at| {
                let week = at.date().iso_week_date();
                (Date::MIN, i64::from(week.year()) * 100 + i64::from(week.week()))
            },
        },
        Periodic {
            wanted: policy.monthly,
            reason: |number| Reason::Monthly { number },
            period: |at| (at.date().first_of_month(), 0),
        },
        Periodic {
            wanted: policy.yearly,
            reason: |number| Reason::Yearly { number },
            period: |at| (at.date().first_of_year(), 0),
        },
    ];
    for Periodic { wanted, reason, period } in rules {
        let mut left = 1..=wanted.unwrap_or(0);
        let mut last = None;
        for (number, instant) in newest_first {
            let period = period(instant.to_zoned(zone.clone()));
            if last == Some(period) {
                continue;
            }
            let Some(place) = left.next() else { break };
            last = Some(period);
            reasons[*number].insert(reason(place));
        }
    }
    if let (Some(span), Some((_, newest))) = (policy.within, newest_first.first()) {
        let oldest = before(*newest, span, zone);
        for (number, _) in newest_first.iter().filter(|(_, instant)| *instant >= oldest) {
            reasons[*number].insert(Reason::Within);
        }
    }
}

/// The instant `span` earlier, by the calendar of `zone`; a span beyond all time means the beginning of time.
fn before(instant: Timestamp, span: Span, zone: &TimeZone) -> Timestamp {
    instant.to_zoned(zone.clone()).checked_sub(span).map_or(Timestamp::MIN, |zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: &str = "2026-11-22T12:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn at(number: u8, instant: &str) -> Candidate {
        Candidate {
            backup: BackupId([number; 16]),
            machine: ("uuid:1".to_owned(), "web".to_owned()),
            instant: instant.parse().unwrap(),
            clean: true,
            tags: Vec::new(),
            pinned: None,
            asked: true,
        }
    }

    fn kept(policy: &Policy, backups: &[Candidate]) -> Vec<(u8, String)> {
        let verdicts = plan(policy, backups, now(), &TimeZone::UTC).unwrap();
        let kept = verdicts.iter().filter(|verdict| verdict.keep);
        kept.map(|v| (v.backup.0[0], v.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))
            .collect()
    }

    #[track_caller]
    fn check(policy: Policy, backups: &[Candidate], expected: &[(u8, &str)]) {
        let expected: Vec<(u8, String)> = expected.iter().map(|(n, why)| (*n, (*why).to_owned())).collect();
        assert_eq!(kept(&policy, backups), expected);
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let backups = [
            at(1, "2024-12-31T23:00:00Z"),
            at(2, "2025-12-28T10:00:00Z"), // a Sunday, ISO week 52
            at(3, "2025-12-29T10:00:00Z"), // a Monday, ISO week 1 of 2026
            at(4, "2026-01-01T10:00:00Z"), // the same week
            at(5, "2026-11-20T02:00:00Z"),
            at(6, "2026-11-21T02:15:00Z"),
            at(7, "2026-11-21T02:45:00Z"),
        ];
        check(Policy { last: Some(2), ..Policy::default() }, &backups, &[(6, "last 2"), (7, "newest, last 1")]);
        check(Policy { hourly: Some(2), ..Policy::default() }, &backups, &[(5, "hourly 2"), (7, "newest, hourly 1")]);
        check(
            Policy { daily: Some(3), ..Policy::default() },
            &backups,
            &[(4, "daily 3"), (5, "daily 2"), (7, "newest, daily 1")],
        );
        check(
            Policy { weekly: Some(3), ..Policy::default() },
            &backups,
            &[(2, "weekly 3"), (4, "weekly 2"), (7, "newest, weekly 1")],
        );
        check(
            Policy { monthly: Some(3), ..Policy::default() },
            &backups,
            &[(3, "monthly 3"), (4, "monthly 2"), (7, "newest, monthly 1")],
        );
        check(
            Policy { yearly: Some(9), ..Policy::default() },
            &backups,
            &[(1, "yearly 3"), (3, "yearly 2"), (7, "newest, yearly 1")],
        );
        let within = Policy { within: Some("2d".parse().unwrap()), ..Policy::default() };
        check(within, &backups, &[(5, "within the span"), (6, "within the span"), (7, "newest, within the span")]);
    }

    #[test]
    fn what_stays_whatever_the_rules_say() {
        let mut backups = [
            at(1, "2026-11-01T00:00:00Z"),
            at(2, "2026-11-02T00:00:00Z"),
            at(3, "2026-11-03T00:00:00Z"),
            at(4, "2026-11-20T00:00:00Z"),
            at(5, "2036-11-20T00:00:00Z"),
            at(6, "2026-11-19T00:00:00Z"),
        ];
        backups[0].pinned = Some(String::new());
        backups[3].clean = false;
        backups[1].asked = false;
        // Another machine with the same identity: a clone under its own name.
        backups[5].machine.1 = "clone".to_owned();
        let policy = Policy { last: Some(1), ..Policy::default() };
        check(
            policy.clone(),
            &backups,
            &[
                (1, "pinned"),
                (2, "not asked about"),
                (3, "newest without warnings"),
                (4, "newest, last 1"),
                (5, "dated in the future"),
                (6, "newest, last 1"),
            ],
        );
        let young = Policy { min_age: Some("20d".parse().unwrap()), ..policy };
        assert!(kept(&young, &backups).contains(&(3, "newest without warnings, too young".to_owned())));
    }

    fn tagged(number: u8, instant: &str, tags: &[&str]) -> Candidate {
        Candidate { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..at(number, instant) }
    }

    #[test]
    fn tags_that_are_kept_and_tags_that_are_told_apart() {
        let mut backups = [
            tagged(1, "2026-11-01T00:00:00Z", &["gold", "week"]),
            tagged(2, "2026-11-02T00:00:00Z", &["week"]),
            tagged(3, "2026-11-03T00:00:00Z", &["week"]),
            at(4, "2026-11-04T00:00:00Z"),
            at(5, "2026-11-05T00:00:00Z"),
        ];
        backups[1].pinned = Some("the audit".to_owned());
        let last = Policy { last: Some(1), ..Policy::default() };
        let gold = Policy { tags: vec!["gold".parse().unwrap(), "none".parse().unwrap()], ..last.clone() };
        check(gold, &backups, &[(1, "tag gold"), (2, "pinned: the audit"), (5, "newest, last 1")]);
        let apart = Policy { group: GroupBy::MachineAndTags, ..last };
        let expected = [(1, "last 1"), (2, "pinned: the audit"), (3, "last 1"), (5, "newest, last 1")];
        check(apart, &backups, &expected);
    }

    #[test]
    fn no_rule_is_an_error_and_not_an_order_to_forget_all() {
        let none = [
            Policy::default(),
            Policy { last: Some(0), ..Policy::default() },
            Policy { min_age: Some("1d".parse().unwrap()), ..Policy::default() },
            Policy { tags: vec!["gold".parse().unwrap()], ..Policy::default() },
        ];
        for policy in none {
            assert_eq!(plan(&policy, &[at(1, NOW)], now(), &TimeZone::UTC), Err(NoRule));
        }
    }

    #[test]
    fn a_span_beyond_all_time_keeps_all() {
        let policy = Policy { within: Some("19000y".parse().unwrap()), ..Policy::default() };
        assert_eq!(kept(&policy, &[at(1, "0001-01-01T00:00:00Z"), at(2, NOW)]).len(), 2);
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        // Minutes around now, so that all periods, equal instants and the future occur.
        let one = (0i64..2_000_000, 0u8..3, any::<bool>(), 0u8..8, 0u8..8);
        proptest::collection::vec(one, 1..40).prop_map(|drawn| {
            let made = drawn.into_iter().zip(0u8..).map(|((minutes, machine, clean, pinned, asked), number)| {
                let mut backup = at(number, NOW);
                let minutes = if minutes % 3 == 0 { minutes / 1000 } else { minutes };
                backup.instant = now() + jiff::SignedDuration::from_mins(10_000 - minutes);
                backup.machine.0 = format!("uuid:{machine}");
                (backup.clean, backup.asked) = (clean, asked != 0);
                backup.pinned = (pinned == 0).then(String::new);
                backup.tags = ["a", "b"].iter().take(usize::from(pinned % 3)).map(|tag| (*tag).to_owned()).collect();
                backup
            });
            made.collect()
        })
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let number = || proptest::option::of(0u32..5);
        let tags = (any::<bool>(), 0usize..4);
        (number(), number(), number(), number(), number(), number(), proptest::option::of(0i64..900), tags).prop_map(
            |(last, hourly, daily, weekly, monthly, yearly, days, (by_tags, kept))| Policy {
                last,
                hourly,
                daily,
                weekly,
                monthly,
                yearly,
                within: Some(Span::new().days(days.unwrap_or(0))),
                min_age: days.map(|days| Span::new().days(days / 9)),
                tags: ["b", "c"].iter().skip(kept).map(|tag| tag.parse().unwrap()).collect(),
                group: if by_tags { GroupBy::MachineAndTags } else { GroupBy::Machine },
            },
        )
    }

    fn keep_set(policy: &Policy, backups: &[Candidate]) -> BTreeSet<BackupId> {
        let verdicts = plan(policy, backups, now(), &TimeZone::UTC).unwrap();
        verdicts.into_iter().filter(|verdict| verdict.keep).map(|verdict| verdict.backup).collect()
    }

    fn at_least(a: Option<u32>, more: u32) -> Option<u32> {
        Some(a.unwrap_or(0) + more)
    }

    proptest! {
        #[test]
        fn the_newest_of_every_machine_and_the_future_are_kept(policy in policies(), backups in candidates()) {
            let keep = keep_set(&policy, &backups);
            for machine in backups.iter().map(|backup| &backup.machine) {
                let past = backups.iter().filter(|b| b.machine == *machine && b.instant <= now());
                if let Some(newest) = past.max_by_key(|b| (b.instant, b.backup)) {
                    prop_assert!(keep.contains(&newest.backup));
                }
            }
            for future in backups.iter().filter(|backup| backup.instant > now()) {
                prop_assert!(keep.contains(&future.backup));
            }
        }

        #[test]
        fn larger_numbers_keep_no_less(policy in policies(), more in 0u32..4, backups in candidates()) {
            let larger = Policy {
                last: at_least(policy.last, more),
                hourly: at_least(policy.hourly, more),
                daily: at_least(policy.daily, more),
                weekly: at_least(policy.weekly, more),
                monthly: at_least(policy.monthly, more),
                yearly: at_least(policy.yearly, more),
                ..policy.clone()
            };
            prop_assert!(keep_set(&policy, &backups).is_subset(&keep_set(&larger, &backups)));
        }

        #[test]
        fn what_is_pinned_or_has_a_kept_tag_is_kept(policy in policies(), backups in candidates()) {
            let keep = keep_set(&policy, &backups);
            for backup in &backups {
                let tag_kept = policy.tags.iter().any(|tag| backup.tags.iter().any(|own| own == tag.as_str()));
                if backup.pinned.is_some() || tag_kept {
                    prop_assert!(keep.contains(&backup.backup));
                }
            }
        }

        #[test]
        fn what_was_kept_once_is_kept_again(policy in policies(), backups in candidates()) {
            let keep = keep_set(&policy, &backups);
            let rest: Vec<Candidate> = backups.into_iter().filter(|backup| keep.contains(&backup.backup)).collect();
            prop_assert_eq!(keep_set(&policy, &rest), keep);
        }

        #[test]
        fn the_order_of_the_input_does_not_matter(
            policy in policies(),
            (backups, shuffled) in candidates().prop_flat_map(|b| (Just(b.clone()), Just(b).prop_shuffle())),
        ) {
            prop_assert_eq!(keep_set(&policy, &backups), keep_set(&policy, &shuffled));
        }

        #[test]
        fn backups_of_the_future_move_nothing(policy in policies(), backups in candidates()) {
            let past: Vec<Candidate> = backups.iter().filter(|backup| backup.instant <= now()).cloned().collect();
            let all = keep_set(&policy, &backups);
            prop_assert!(past.iter().all(|b| keep_set(&policy, &past).contains(&b.backup) == all.contains(&b.backup)));
        }
    }
}
