//! Runs of clusters, as an attribute's mapping pairs store them.
//!
//! A pair: one byte with the widths of two numbers (low half: length, high half: place), the length in clusters, and the
//! distance of its place from the last one, signed; without a place it is a hole. A zero byte ends them.

use crate::guest::GuestError;
use crate::units::GuestOffset;

/// Clusters of one attribute at most, holes included: in bytes they fit 64 bits whatever the cluster size is.
const CLUSTERS_MAX: u64 = 1 << 42;

/// Consecutive clusters of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Its first cluster within the attribute.
    pub start: u64,
    /// Clusters, at least 1.
    pub len: u64,
    /// The volume's cluster that it begins with, checked to be inside with all of the run; `None` for a hole.
    pub cluster: Option<u64>,
}

impl Run {
    /// The attribute's cluster behind it.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// The rest of the run from a cluster in it.
    pub fn from(&self, start: u64) -> Run {
        let skipped = start - self.start;
        Run { start, len: self.len - skipped, cluster: self.cluster.map(|cluster| cluster + skipped) }
    }
}

/// Reads mapping pairs that begin with the attribute's cluster `start` and lie in the record at `at`.
pub(super) fn read(pairs: &[u8], start: u64, clusters: u64, at: GuestOffset) -> Result<Vec<Run>, GuestError> {
    let corrupt =
        |expected: String, found: String| GuestError::Corrupt { field: "runs of a file", at, expected, found };
    let mut runs: Vec<Run> = Vec::new();
    let (mut rest, mut start, mut place) = (pairs, start, 0i64);
    while let Some((widths, behind)) = rest.split_first().filter(|(widths, _)| **widths != 0) {
        let (len_width, place_width) = (usize::from(widths & 0xf), usize::from(widths >> 4));
        if len_width == 0 || len_width > 8 || place_width > 8 || behind.len() < len_width + place_width {
            return Err(corrupt("numbers of 1 to 8 bytes within the attribute".to_owned(), format!("{widths:#04x}")));
        }
        let (len, behind) = behind.split_at(len_width);
        let (distance, behind) = behind.split_at(place_width);
        rest = behind;
        let stored = signed(len);
        let within = |len: &u64| *len > 0 && len.checked_add(start).is_some_and(|end| end <= CLUSTERS_MAX);
        let Some(len) = u64::try_from(stored).ok().filter(within) else {
            let expected = format!("a length of at least 1, and at most {CLUSTERS_MAX} clusters");
            return Err(corrupt(expected, format!("{stored} from {start}")));
        };
        let cluster = if place_width == 0 {
            None
        } else {
            let next = place.checked_add(signed(distance));
            let found = || next.map_or_else(|| "a number too large".to_owned(), |next| format!("{len} from {next}"));
            // Cluster 0 is the boot file's alone.
            let inside = next
                .and_then(|next| u64::try_from(next).ok())
                .filter(|first| first.checked_add(len).is_some_and(|end| end <= clusters));
            let Some(first) = inside else {
                return Err(corrupt(format!("clusters below {clusters}"), found()));
            };
            place = next.expect("inside");
            Some(first)
        };
        match runs.last_mut() {
            Some(last) if last.cluster.map(|first| first + last.len) == cluster && cluster.is_some() => last.len += len,
            Some(last) if last.cluster.is_none() && cluster.is_none() => last.len += len,
            _ => runs.push(Run { start, len, cluster }),
        }
        start += len;
    }
    Ok(runs)
}

/// A little-endian number of 1 to 8 bytes with a sign.
fn signed(bytes: &[u8]) -> i64 {
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut all = [fill; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start, length and cluster.
    type Shown = (u64, u64, Option<u64>);

    #[track_caller]
    fn check(pairs: &[u8], expected: Result<&[Shown], &str>) {
        let said = read(pairs, 10, 1000, GuestOffset(0));
        let said = said.map(|runs| runs.into_iter().map(|run| (run.start, run.len, run.cluster)).collect::<Vec<_>>());
        let expected = expected.map_err(|text| format!("runs of a file at 0x0 of the volume: expected {text}"));
        assert_eq!(said.map_err(|err| err.to_string()), expected.map(<[_]>::to_vec));
    }

    #[test]
    fn pairs_are_runs_and_never_leave_the_volume() {
        check(&[], Ok(&[]));
        check(&[0, 0x11, 1, 1], Ok(&[]));
        check(&[0x11, 4, 100, 0], Ok(&[(10, 4, Some(100))]));
        // Back by 50, a hole, on by 600 in two bytes, and one that goes on where the last one ends.
        check(
            &[0x11, 4, 100, 0x11, 1, 206, 0x01, 9, 0x21, 2, 0x58, 2, 0x11, 3, 2, 0],
            Ok(&[(10, 4, Some(100)), (14, 1, Some(50)), (15, 9, None), (24, 5, Some(650))]),
        );
        check(&[0x11, 1, 0], Ok(&[(10, 1, Some(0))]));
        check(&[0x21, 1, 0xe7, 3], Ok(&[(10, 1, Some(999))]));
        check(&[0x21, 2, 0xe7, 3], Err("clusters below 1000, found 2 from 999"));
        check(&[0x11, 1, 0xff], Err("clusters below 1000, found 1 from -1"));
        let widths = "numbers of 1 to 8 bytes within the attribute, found";
        check(&[0x10, 1], Err(&format!("{widths} 0x10")));
        check(&[0x19, 1], Err(&format!("{widths} 0x19")));
        check(&[0x91, 1], Err(&format!("{widths} 0x91")));
        check(&[0x22, 1, 2, 3], Err(&format!("{widths} 0x22")));
        let lengths = "a length of at least 1, and at most 4398046511104 clusters, found";
        check(&[0x11, 0, 1], Err(&format!("{lengths} 0 from 10")));
        check(&[0x01, 0x80], Err(&format!("{lengths} -128 from 10")));
        check(&[0x06, 0, 0, 0, 0, 0, 4], Err(&format!("{lengths} 4398046511104 from 10")));
        check(&[0x08, 255, 255, 255, 255, 255, 255, 255, 0x7f], Err(&format!("{lengths} 9223372036854775807 from 10")));
        let too_far = [0x81, 1, 255, 255, 255, 255, 255, 255, 255, 0x7f];
        check(&too_far, Err("clusters below 1000, found 1 from 9223372036854775807"));
    }
}
