//! How full the store's medium is, and from when on that is said. Pure.

use std::str::FromStr;

use serde::Serialize;

use crate::repo::store::Space;

/// Most thresholds.
const LEVELS_MAX: usize = 8;

/// Percentages of free space from which on a warning is due, highest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds(Vec<f64>);

/// What is left on the store's medium.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Left {
    /// Bytes that can still be used.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
    /// The share that is free, in percent.
    pub free_percent: f64,
    /// The lowest threshold that it is below.
    pub below: Option<f64>,
    /// Whether it is below the lowest of all: then it is a warning, else a word.
    pub is_urgent: bool,
}

impl Thresholds {
    /// What is left, and what is to be said of it. Nothing of a medium without a size.
    pub fn judge(&self, space: Space) -> Option<Left> {
        if space.size == 0 {
            return None;
        }
        let free_percent = space.free as f64 * 100.0 / space.size as f64;
        let below = self.0.iter().rev().copied().find(|threshold| free_percent < *threshold);
        let is_urgent = below.is_some() && below == self.0.last().copied();
        Some(Left { free: space.free, size: space.size, free_percent, below, is_urgent })
    }
}

impl FromStr for Thresholds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Thresholds, &'static str> {
        const EXPECTED: &str = "expected percentages from 0 to 100, such as 30,20,10; or 0 for no warning";
        let mut levels = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let level: f64 = part.strip_suffix('%').unwrap_or(part).parse().map_err(|_| EXPECTED)?;
            if !(0.0..=100.0).contains(&level) || levels.len() == LEVELS_MAX {
                return Err(EXPECTED);
            }
            levels.push(level);
        }
        levels.sort_by(|a, b| b.total_cmp(a));
        levels.dedup();
        Ok(Thresholds(levels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_and_what_is_below_them() {
        #[track_caller]
        fn check(thresholds: &str, free: u64, below: Option<f64>, is_urgent: bool) {
            let left = thresholds.parse::<Thresholds>().unwrap().judge(Space { free, size: 1000 }).unwrap();
            assert_eq!((left.below, left.is_urgent), (below, is_urgent), "{thresholds}: {free}");
        }
        check("30,20,10", 301, None, false);
        check("30,20,10", 300, None, false);
        check("30,20,10", 299, Some(30.0), false);
        check("10%, 30, 20", 199, Some(20.0), false);
        check("30,20,10", 99, Some(10.0), true);
        check("30,20,10", 0, Some(10.0), true);
        check("5", 49, Some(5.0), true);
        check("0", 0, None, false);
        assert_eq!("30".parse::<Thresholds>().unwrap().judge(Space { free: 0, size: 0 }), None);
        for bad in ["", "x", "30,,10", "101", "-1", "NaN", "1,2,3,4,5,6,7,8,9"] {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad:?}");
        }
    }
}
