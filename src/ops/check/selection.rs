//! Which packs to read: those that were verified longest ago first, never verified ones before all. Pure.

use std::collections::HashMap;

use crate::repo::ids::PackId;

/// How much data to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReadData {
    /// None: metadata only.
    Nothing,
    /// So many percent of the packs.
    Percent(f64),
    /// A part, chosen by size or age.
    Part(Part),
}

impl ReadData {
    /// Whether all there is is to be read, what lies in the trash included.
    pub fn is_all(self) -> bool {
        let is_all = |percent: f64| percent >= 100.0;
        match self {
            ReadData::Nothing | ReadData::Part(Part { share: Share::Bytes(_), .. }) => false,
            ReadData::Percent(percent) => is_all(percent),
            ReadData::Part(Part { share: Share::Percent(percent), not_since }) => {
                is_all(percent) && not_since.is_none()
            }
        }
    }
}

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// How much of it at most.
    pub share: Share,
    /// Only packs that were not verified since this second (since 1970).
    pub not_since: Option<i64>,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// So many percent of all packs.
    Percent(f64),
    /// So many bytes; at least one pack.
    Bytes(u64),
}

/// Chooses among `packs` (id, length); `verified` says when each was verified last. Equals are drawn at random by `dice`,
/// a random key for each pack.
pub fn select(
    packs: &[(PackId, u64)],
    verified: &HashMap<PackId, i64>,
    read_data: ReadData,
    dice: &mut dyn FnMut() -> u64,
) -> Vec<PackId> {
    let (share, not_since) = match read_data {
        ReadData::Nothing => return Vec::new(),
        ReadData::Percent(percent) => (Share::Percent(percent), None),
        ReadData::Part(Part { share, not_since }) => (share, not_since),
    };
    let mut waiting: Vec<(Option<i64>, u64, PackId, u64)> = packs
        .iter()
        .map(|(id, len)| (verified.get(id).copied(), dice(), *id, *len))
        .filter(|(second, ..)| not_since.is_none_or(|limit| second.is_none_or(|second| second < limit)))
        .collect();
    // `None` sorts before every time: never verified goes first.
    waiting.sort_unstable();
    match share {
        Share::Percent(percent) => {
            let wanted = (packs.len() as f64 * (percent / 100.0).clamp(0.0, 1.0)).ceil() as usize;
            waiting.truncate(wanted);
        }
        Share::Bytes(bytes) => {
            let mut sum = 0u64;
            let fits = waiting.iter().take_while(|(.., len)| {
                sum = sum.saturating_add(*len);
                sum <= bytes
            });
            let fits = fits.count().max(1);
            waiting.truncate(fits);
        }
    }
    waiting.into_iter().map(|(_, _, id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> PackId {
        PackId([number; 16])
    }

    #[track_caller]
    fn check(verified: &[(u8, i64)], read_data: ReadData, expected: &[u8]) {
        let packs: Vec<(PackId, u64)> = (1..=4).map(|number| (id(number), 100)).collect();
        let verified = verified.iter().map(|(number, second)| (id(*number), *second)).collect();
        let mut drawn = 0;
        let chosen = select(&packs, &verified, read_data, &mut || {
            drawn += 1;
            drawn
        });
        assert_eq!(chosen, expected.iter().map(|number| id(*number)).collect::<Vec<_>>());
    }

    #[test]
    fn longest_ago_first_and_never_before_all() {
        let some = [(1, 50), (2, 10), (4, 30)];
        let part = |share, not_since| ReadData::Part(Part { share, not_since });
        check(&some, ReadData::Nothing, &[]);
        check(&some, ReadData::Percent(100.0), &[3, 2, 4, 1]);
        check(&some, ReadData::Percent(50.0), &[3, 2]);
        check(&some, ReadData::Percent(26.0), &[3, 2]);
        check(&some, ReadData::Percent(25.0), &[3]);
        check(&[], ReadData::Percent(25.0), &[1]);
        check(&some, part(Share::Bytes(299), None), &[3, 2]);
        check(&some, part(Share::Bytes(300), None), &[3, 2, 4]);
        check(&some, part(Share::Bytes(1), None), &[3]);
        check(&some, part(Share::Percent(100.0), Some(30)), &[3, 2]);
        check(&some, part(Share::Percent(100.0), Some(31)), &[3, 2, 4]);
        check(&some, part(Share::Bytes(150), Some(31)), &[3]);
        check(&[(1, 9), (2, 9), (3, 9), (4, 9)], part(Share::Percent(100.0), Some(9)), &[]);
    }
}
