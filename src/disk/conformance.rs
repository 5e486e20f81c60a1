//! The suite every [`Disk`] passes, whatever stores it. Called from tests and from fuzz targets, so it panics on a
//! breach and says which law was broken where.

use super::{Disk, DiskError, ExtentKind};
use crate::units::GuestOffset;

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
        let extent = disk.extent_at(GuestOffset(at)).expect("extent");
        assert!(extent.len.0 > 0, "empty extent at {at}");
        let end = at.checked_add(extent.len.0).expect("extent end");
        assert!(end <= expected.len() as u64, "extent at {at} ends at {end}, past the disk");
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
