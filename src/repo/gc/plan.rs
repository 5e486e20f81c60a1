//! Which packs go, and which are worth writing anew. Pure.

use std::collections::HashMap;

use crate::repo::ids::PackId;
use crate::repo::pack::PACK_BYTES_TARGET;
use crate::repo::seal::Kind;

/// A pack no longer than this is small.
const SMALL_BYTES: u64 = PACK_BYTES_TARGET / 8;
/// Small packs of about one length are merged once there are so many: then a byte is written anew a few times in all, as what
/// they become is longer, however many runs add small packs.
const MERGED: usize = 16;

/// How much of a pack is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackUse {
    /// The pack.
    pub id: PackId,
    /// Whether it holds data or maps.
    pub kind: Kind,
    /// Length of the object in bytes.
    pub len: u64,
    /// Plain bytes of its chunks.
    pub plain: u64,
    /// Plain bytes of those that are needed.
    pub live: u64,
    /// Why it may be given up although nobody knows what it was for.
    pub unneeded: Unneeded,
}

/// What is known of a pack that no backup needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unneeded {
    /// It belongs to a forgotten backup, or to no writer that lives.
    Given,
    /// It may be a writer's who has not published yet.
    PerhapsNew,
}

/// What is to become of the packs in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs that nothing needs.
    pub unneeded: Vec<PackUse>,
    /// Packs that nothing needs yet.
    pub left: Vec<PackUse>,
    /// Packs of which what is needed is written into new ones.
    pub repack: Vec<PackUse>,
    /// Small packs that are written into longer ones, so that the store does not fill with them.
    pub merge: Vec<PackUse>,
    /// Bytes in the packs that stay which nothing needs, about.
    pub unused_bytes: u64,
}

/// Stored bytes of a pack that nothing needs: its share by plain bytes.
fn unused(pack: &PackUse) -> u64 {
    let share = u128::from(pack.len) * u128::from(pack.plain.saturating_sub(pack.live)) / u128::from(pack.plain.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// Decides. Packs with the largest share of waste are written anew first, until at most `max_unused_percent` of what
/// stays is waste. Then, of what stays, small packs are merged.
pub fn plan(packs: impl IntoIterator<Item = PackUse>, max_unused_percent: f64) -> Plan {
    let mut plan = Plan::default();
    let (mut mixed, mut whole) = (Vec::new(), Vec::new());
    let (mut unused_bytes, mut bytes) = (0u64, 0u64);
    for pack in packs {
        if pack.live == 0 {
            match pack.unneeded {
                Unneeded::Given => plan.unneeded.push(pack),
                Unneeded::PerhapsNew => plan.left.push(pack),
            }
            continue;
        }
        unused_bytes += unused(&pack);
        bytes += pack.len;
        if pack.live < pack.plain { mixed.push(pack) } else { whole.push(pack) }
    }
    // Most waste for the least writing first; the id decides among equals, so that equal input gives an equal plan.
    mixed.sort_by(|a, b| {
        let share = |pack: &PackUse| pack.live as f64 / pack.plain.max(1) as f64;
        share(a).total_cmp(&share(b)).then(a.id.cmp(&b.id))
    });
    for pack in mixed {
        if unused_bytes as f64 <= bytes as f64 * max_unused_percent / 100.0 {
            whole.push(pack);
            continue;
        }
        let waste = unused(&pack);
        unused_bytes -= waste;
        bytes -= waste;
        plan.repack.push(pack);
    }
    plan.merge = small_ones(whole);
    unused_bytes -= plan.merge.iter().map(unused).sum::<u64>();
    plan.unused_bytes = unused_bytes;
    plan
}

/// Those of `packs` that are worth merging, in the same order.
fn small_ones(mut packs: Vec<PackUse>) -> Vec<PackUse> {
    // Lengths that differ by less than the number that is merged are alike.
    let class = |pack: &PackUse| (pack.kind as u8, pack.len.max(1).ilog(MERGED as u64));
    packs.retain(|pack| pack.len <= SMALL_BYTES);
    let mut alike: HashMap<(u8, u32), usize> = HashMap::new();
    packs.iter().for_each(|pack| *alike.entry(class(pack)).or_default() += 1);
    packs.retain(|pack| alike[&class(pack)] >= MERGED);
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(id: u8, live: u64) -> PackUse {
        let unneeded = Unneeded::Given;
        PackUse { id: PackId([id; 16]), kind: Kind::DataPack, len: 1000, plain: 2000, live, unneeded }
    }

    #[track_caller]
    fn check(packs: &[PackUse], percent: f64, unneeded: &[u8], repack: &[u8], unused_bytes: u64) {
        let plan = plan(packs.to_vec(), percent);
        let ids = |packs: &[PackUse]| packs.iter().map(|pack| pack.id.0[0]).collect::<Vec<_>>();
        assert_eq!(
            (ids(&plan.unneeded), ids(&plan.repack), plan.unused_bytes),
            (unneeded.to_vec(), repack.to_vec(), unused_bytes)
        );
    }

    #[test]
    fn what_goes_and_what_is_worth_writing_anew() {
        check(&[], 5.0, &[], &[], 0);
        check(&[pack(1, 0), pack(2, 2000)], 0.0, &[1], &[], 0);
        let packs = [pack(1, 2000), pack(2, 1800), pack(3, 200), pack(4, 1000)];
        check(&packs, 100.0, &[], &[], 1500);
        check(&packs, 40.0, &[], &[], 1500);
        check(&packs, 20.0, &[], &[3], 600);
        check(&packs, 5.0, &[], &[3, 4], 100);
        check(&packs, 0.0, &[], &[3, 4, 2], 0);
        let packs = [pack(1, 2000), pack(2, 1800), pack(3, 200), pack(4, 1000)];
        assert_eq!(plan(packs, 0.0).merge, []);
        let mut new = pack(5, 0);
        new.unneeded = Unneeded::PerhapsNew;
        let plan = plan([new.clone(), pack(1, 2000)], 0.0);
        assert_eq!((plan.unneeded.len(), plan.left), (0, vec![new]));
    }

    #[test]
    fn small_packs_are_merged_with_their_like() {
        let of_len = |len: u64| move |id: u8| PackUse { len, ..pack(id, 2000) };
        let merged = |packs: Vec<PackUse>| plan(packs, 100.0).merge.len();
        assert_eq!(merged((0..15).map(of_len(1000)).collect()), 0);
        assert_eq!(merged((0..16).map(of_len(1000)).collect()), 16);
        assert_eq!(merged((0..16).map(of_len(SMALL_BYTES + 1)).collect()), 0);
        // Lengths from 256 to 4095 are alike.
        assert_eq!(merged((0..8).map(of_len(256)).chain((8..16).map(of_len(4095))).collect()), 16);
        assert_eq!(merged((0..8).map(of_len(255)).chain((8..16).map(of_len(4095))).collect()), 0);
        let maps = (8..16).map(|id| PackUse { kind: Kind::MapPack, ..pack(id, 2000) });
        assert_eq!(merged((0..8).map(of_len(1000)).chain(maps).collect()), 0);
        // What waste is left in them goes, too.
        let wasteful = plan((0..16).map(|id| pack(id, 1000)), 100.0);
        assert_eq!((wasteful.merge.len(), wasteful.unused_bytes), (16, 0));
    }
}
