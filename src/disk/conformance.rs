//! The suite every [`Disk`] passes, whatever stores it. Called from tests and from fuzz targets, so it panics on a
//! breach and says which law was broken where.

use std::ops::Range;

use super::{Disk, DiskError, Extent, ExtentKind};
use crate::units::GuestOffset;

/// How far around stored ranges [`check_sampled`] looks.
const AROUND: u64 = 70_000;
/// Most extents a disk may be told in for each range that it stores, on top of one for each GiB: a walk must end.
const EXTENTS_MAX: u64 = 10_000;

/// Checks every law of [`Disk`] against `expected`, the whole content of the disk.
///
/// # Panics
/// On the first breach.
pub fn check(disk: &dyn Disk, expected: &[u8]) {
    let size = disk.size().0;
    assert_eq!(size, expected.len() as u64, "size");
    whole_read(disk, expected);
    split_reads(disk, expected);
    refusals(disk, size);
    map_agrees(disk, expected);
}

/// The same for a disk that is too large to hold, or for many small ones: `stored` are the ranges that may be other than
/// zero, ascending and apart from each other. Read are these, what lies around them, the beginning and the end; the map
/// is walked whole.
///
/// # Panics
/// On the first breach.
pub fn check_sampled(disk: &dyn Disk, size: u64, stored: &[(u64, Vec<u8>)]) {
    assert_eq!(disk.size().0, size, "size");
    refusals(disk, size);
    let edges = [0..AROUND, size.saturating_sub(AROUND)..size].into_iter();
    let around = stored.iter().map(|(at, bytes)| at.saturating_sub(AROUND)..at + bytes.len() as u64 + AROUND);
    for window in joined(edges.chain(around).map(|range| range.start..range.end.min(size)).collect()) {
        let mut expected = vec![0; usize::try_from(window.end - window.start).expect("a window that can be held")];
        for (at, bytes) in stored.iter().filter(|(at, _)| window.contains(at)) {
            let start = usize::try_from(at - window.start).expect("inside the window");
            expected[start..start + bytes.len()].copy_from_slice(bytes);
        }
        sampled_reads(disk, window.start, &expected);
    }
    sampled_map(disk, size, stored);
}

/// Ranges that touch or overlap become one; the result ascends.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// One read and reads of odd lengths give the same.
fn sampled_reads(disk: &dyn Disk, from: u64, expected: &[u8]) {
    for step in [expected.len(), 511, 4096, 65_537] {
        let mut found = vec![0x5a; expected.len()];
        for (number, part) in found.chunks_mut(step).enumerate() {
            disk.read_at(GuestOffset(from + (number * step) as u64), part).expect("sampled read");
        }
        let place = first_difference(&found, expected);
        assert!(found == expected, "reads of {step} bytes from {from} on differ {place:?} bytes behind that");
    }
}

/// Extents tile the disk, and hold what is stored only where they say that there is data.
fn sampled_map(disk: &dyn Disk, size: u64, stored: &[(u64, Vec<u8>)]) {
    let (mut at, mut told, mut next) = (0, 0, 0);
    while at < size {
        let extent = sound_extent(disk, at, size);
        let end = at + extent.len.0;
        while stored.get(next).is_some_and(|(start, bytes)| start + bytes.len() as u64 <= at) {
            next += 1;
        }
        if extent.kind != ExtentKind::Data {
            for (start, bytes) in stored[next..].iter().take_while(|(start, _)| *start < end) {
                let (from, to) = (at.max(*start), end.min(start + bytes.len() as u64));
                let part = usize::try_from(from - start).expect("held")..usize::try_from(to - start).expect("held");
                assert!(bytes[part].iter().all(|b| *b == 0), "{:?} extent at {at} hides data", extent.kind);
            }
        }
        (at, told) = (end, told + 1);
    }
    let limit = EXTENTS_MAX * (1 + stored.len() as u64) + (size >> 20);
    assert!(told <= limit, "{told} extents, more than {limit}");
}

/// The extent at `at`, if it keeps the laws: inside the disk, and of one kind wherever in it one asks.
fn sound_extent(disk: &dyn Disk, at: u64, size: u64) -> Extent {
    let extent = disk.extent_at(GuestOffset(at)).expect("extent");
    assert!(extent.len.0 > 0, "empty extent at {at}");
    let end = at.checked_add(extent.len.0).expect("extent end");
    assert!(end <= size, "extent at {at} ends at {end}, past the disk");
    for inside in [extent.len.0 / 2, extent.len.0 - 1] {
        let again = disk.extent_at(GuestOffset(at + inside)).expect("extent");
        assert_eq!(again.kind, extent.kind, "extent at {at}, asked again {inside} bytes into it");
    }
    extent
}

fn whole_read(disk: &dyn Disk, expected: &[u8]) {
    let mut all = vec![0xa5; expected.len()];
    disk.read_at(GuestOffset(0), &mut all).expect("whole read");
    assert!(all == expected, "whole read differs at {:?}", first_difference(&all, expected));
}

/// Reads of odd lengths from odd places equal the same bytes of one whole read.
fn split_reads(disk: &dyn Disk, expected: &[u8]) {
    for step in [1usize, 511, 512, 513, 4096, 65_537] {
        let mut at = 0;
        // Small steps over a large disk would take minutes: look at the first and last 64 KiB only.
        let skip_from = if step < 4096 { 65_536 } else { expected.len() };
        while at < expected.len() {
            if at >= skip_from && at + 65_536 < expected.len() {
                at = expected.len() - 65_536;
            }
            let len = step.min(expected.len() - at);
            let mut part = vec![0x5a; len];
            disk.read_at(GuestOffset(at as u64), &mut part).expect("split read");
            assert!(part == expected[at..at + len], "split read of {len} bytes at {at} differs");
            at += len;
        }
    }
}

fn refusals(disk: &dyn Disk, size: u64) {
    disk.read_at(GuestOffset(size), &mut []).expect("an empty read at the end is fine");
    for (at, len) in [(size, 1), (size.saturating_sub(1), 2), (u64::MAX, 1), (u64::MAX - 3, 8)] {
        let outcome = disk.read_at(GuestOffset(at), &mut vec![0; len]);
        assert!(
            matches!(outcome, Err(DiskError::PastEnd { .. })),
            "read of {len} at {at} must be refused: {outcome:?}"
        );
    }
    for at in [size, u64::MAX] {
        let outcome = disk.extent_at(GuestOffset(at));
        assert!(matches!(outcome, Err(DiskError::PastEnd { .. })), "extent at {at} must be refused: {outcome:?}");
    }
}

/// Extents tile the disk, end at its end, and whatever is no data is zero.
fn map_agrees(disk: &dyn Disk, expected: &[u8]) {
    let mut at = 0u64;
    while at < expected.len() as u64 {
        let extent = sound_extent(disk, at, expected.len() as u64);
        let end = at + extent.len.0;
        if extent.kind != ExtentKind::Data {
            let run = &expected[at as usize..end as usize];
            assert!(run.iter().all(|b| *b == 0), "{:?} extent at {at} is not all zeros", extent.kind);
        }
        at = end;
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(x, y)| x != y)
}
