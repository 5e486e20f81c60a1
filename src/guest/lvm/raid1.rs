//! Which copy of a RAID 1 to read: not one that failed, missed something, or is still being filled.
//!
//! Beside each image lies a volume with its state, little-endian: 0 `DmRd` | 12 its number u32 | 16 events u64 | 24 devices that
//! failed, a bit each u64 | 32 filled up to this sector u64, or all ones. A mirror that was never active has zeros there.
//!
//! Source: Linux drivers/md/dm-raid.c, "struct dm_raid_superblock".

use nom::bytes::complete::{tag, take};
use nom::number::complete::le_u64;
use nom::{IResult, Parser};

use crate::disk::{Disk, DiskError};
use crate::units::GuestOffset;

/// Bytes of the state that we read.
const STATE_BYTES: usize = 40;

/// What the volume beside an image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub events: u64,
    pub failed: u64,
    pub filled_to: u64,
}

fn state(input: &[u8]) -> IResult<&[u8], State> {
    let (input, (_, _, events, failed, filled_to)) =
        (tag(&b"DmRd"[..]), take(12usize), le_u64, le_u64, le_u64).parse(input)?;
    Ok((input, State { events, failed, filled_to }))
}

/// The state in such a volume; `None` if it has none.
pub(super) fn read(volume: &dyn Disk) -> Result<Option<State>, DiskError> {
    if volume.size().0 < STATE_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = [0; STATE_BYTES];
    volume.read_at(GuestOffset(0), &mut bytes)?;
    Ok(state(&bytes).ok().map(|(_, state)| state))
}

/// Of the copies at hand (`None`: not at hand; without a state: as good as any), the one to read, and what is to be said
/// about it.
pub(super) fn choose(copies: &[Option<Option<State>>]) -> Option<(usize, Option<String>)> {
    let at_hand = || copies.iter().enumerate().filter_map(|(number, copy)| Some((number, (*copy)?)));
    let freshest = at_hand().filter_map(|(_, state)| state).max_by_key(|state| state.events);
    let Some(freshest) = freshest else {
        return at_hand().next().map(|(number, _)| (number, None));
    };
    let of_freshest = at_hand().filter_map(|(_, state)| state).filter(|state| state.events == freshest.events);
    let all_failed = of_freshest.fold(0, |all, state| all | state.failed);
    let is_sound = |number: usize, state: State| {
        let failed = u32::try_from(number).ok().and_then(|bit| all_failed.checked_shr(bit)).unwrap_or(0) & 1 == 1;
        !failed && state.events == freshest.events && state.filled_to == u64::MAX
    };
    let sound = at_hand().find(|(number, state)| state.is_some_and(|state| is_sound(*number, state)));
    if let Some((number, _)) = sound {
        return Some((number, None));
    }
    let (number, _) = at_hand().find(|(_, state)| *state == Some(freshest))?;
    Some((number, Some("no copy of the mirror at hand is known to be complete: its freshest was taken".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_that_is_complete_is_read() {
        const FULL: u64 = u64::MAX;
        let copy = |events, failed, filled_to| Some(Some(State { events, failed, filled_to }));
        #[track_caller]
        fn check(copies: &[Option<Option<State>>], expected: Option<(usize, bool)>) {
            assert_eq!(choose(copies).map(|(number, warning)| (number, warning.is_some())), expected);
        }
        check(&[], None);
        check(&[None, None], None);
        check(&[copy(5, 0, FULL), copy(5, 0, FULL)], Some((0, false)));
        check(&[None, copy(5, 0, FULL)], Some((1, false)));
        // Missed something; failed; still being filled; never active.
        check(&[copy(4, 0, FULL), copy(5, 0, FULL)], Some((1, false)));
        check(&[copy(5, 0, FULL), copy(5, 1, FULL)], Some((1, false)));
        check(&[copy(5, 2, FULL), copy(5, 0, FULL)], Some((0, false)));
        check(&[copy(4, 0, FULL), copy(5, 1, FULL)], Some((1, false)));
        check(&[copy(5, 0, 4096), copy(5, 0, FULL)], Some((1, false)));
        check(&[Some(None), Some(None)], Some((0, false)));
        check(&[Some(None), copy(5, 0, FULL)], Some((1, false)));
        // Only what is not known to be complete is left.
        check(&[None, copy(5, 0, 4096)], Some((1, true)));
        check(&[copy(5, 2, 4096), copy(9, 2, 0)], Some((1, true)));
    }
}
