//! `.vmsd`, VMware's list of a machine's snapshots → [`MachineSnapshot`]s.
//!
//! In here: the tree of snapshots and which image each one froze. Not in here: the syntax (`dictionary`), the chains of
//! redo logs themselves (`formats`): this file may be stale, the chain is what is true.
//!
//! Invariant of what [`snapshots`] returns: uids are unique, every parent is in the list, and following parents ends.
//! VMware counts uids upwards, so oldest first is by uid; the `N` of `snapshotN` says nothing.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::MachineSnapshot;
use super::dictionary::Dictionary;
use super::error::{MachineError, shown};
use super::names::{locate, printable};
use super::vmx::DISKS_MAX;

/// Most snapshots; VMware allows 32 in a row and 496 in all.
const SNAPSHOTS_MAX: u64 = 4096;

/// What a `.vmsd` says.
pub(super) struct Vmsd {
    /// Oldest first.
    pub(super) snapshots: Vec<MachineSnapshot>,
    pub(super) warnings: Vec<String>,
}

/// Takes the snapshots out of their list; `folder` is where relative file names begin. An empty file has none.
pub(super) fn snapshots(vmsd: &Dictionary, folder: &Path) -> Result<Vmsd, MachineError> {
    const COUNT: &str = "snapshot.numsnapshots";
    let count: u64 = vmsd.number(COUNT, "a number of snapshots")?.unwrap_or(0);
    if count > SNAPSHOTS_MAX {
        return Err(vmsd.wrong(COUNT, format!("at most {SNAPSHOTS_MAX}"), count.to_string()));
    }

    let mut snapshots = Vec::new();
    let mut warnings = Vec::new();
    for index in 0..count {
        snapshots.push(snapshot(vmsd, &format!("snapshot{index}"), folder, &mut warnings)?);
    }
    snapshots.sort_by_key(|snapshot| snapshot.uid);
    check_tree(vmsd, &snapshots)?;
    if vmsd.is_true("snapshot.needconsolidate") {
        warnings.push("a snapshot was removed but its redo log is still there: the machine needs consolidation".into());
    }
    Ok(Vmsd { snapshots, warnings })
}

fn snapshot(
    vmsd: &Dictionary,
    prefix: &str,
    folder: &Path,
    warnings: &mut Vec<String>,
) -> Result<MachineSnapshot, MachineError> {
    let key = |name: &str| format!("{prefix}.{name}");
    let uid_key = key("uid");
    let uid: u64 = vmsd
        .number(&uid_key, "the number of a snapshot")?
        .ok_or_else(|| vmsd.wrong(&uid_key, "the number of a snapshot", "nothing"))?;
    // No snapshot has number 0; as a parent it says "none".
    let parent = vmsd.number(&key("parent"), "the number of a snapshot")?.filter(|parent: &u64| *parent != 0);
    let name = vmsd.text(&key("displayname")).map(printable).filter(|name| !name.is_empty());

    let disks_key = key("numdisks");
    let disks: u64 = vmsd.number(&disks_key, "a number of disks")?.unwrap_or(0);
    if disks > DISKS_MAX {
        return Err(vmsd.wrong(&disks_key, format!("at most {DISKS_MAX}"), disks.to_string()));
    }
    let mut frozen: Vec<(String, _)> = Vec::new();
    for disk in 0..disks {
        let file_key = key(&format!("disk{disk}.filename"));
        let node_key = key(&format!("disk{disk}.node"));
        let file = vmsd.exact(&file_key)?.map(str::trim).filter(|name| !name.is_empty());
        let file = file.ok_or_else(|| vmsd.wrong(&file_key, "the file of a disk", "nothing"))?;
        let slot = vmsd.text(&node_key).map(|node| printable(node).to_ascii_lowercase());
        let slot = slot.ok_or_else(|| vmsd.wrong(&node_key, "the slot of a disk", "nothing"))?;
        if frozen.iter().any(|(known, _)| *known == slot) {
            return Err(vmsd.wrong(&node_key, "another slot for each disk", shown(&slot)));
        }
        let (path, remark) = locate(folder, file);
        warnings.extend(remark.map(|remark| format!("snapshot {uid}, {slot}: {remark}")));
        frozen.push((slot, path));
    }
    Ok(MachineSnapshot {
        uid,
        parent,
        name: name.unwrap_or_else(|| format!("snapshot {uid}")),
        taken_us: taken_us(vmsd, prefix)?,
        frozen,
    })
}

/// Two signed 32-bit halves of the microseconds since 1970, of which the low one means its bits.
fn taken_us(vmsd: &Dictionary, prefix: &str) -> Result<Option<i64>, MachineError> {
    let half = |name: &str| vmsd.number::<i64>(&format!("{prefix}.{name}"), "half of a time");
    let (Some(high), Some(low)) = (half("createtimehigh")?, half("createtimelow")?) else { return Ok(None) };
    // A nonsensical time is no reason to refuse the snapshot: it only gets none.
    let Ok(high) = i32::try_from(high) else { return Ok(None) };
    let low = u32::try_from(low).ok().or_else(|| i32::try_from(low).ok().map(i32::cast_unsigned));
    Ok(low.map(|low| (i64::from(high) << 32) | i64::from(low)))
}

/// Checks the invariant of the tree; `snapshots` are sorted by uid.
fn check_tree(vmsd: &Dictionary, snapshots: &[MachineSnapshot]) -> Result<(), MachineError> {
    if let Some(pair) = snapshots.windows(2).find(|pair| pair[0].uid == pair[1].uid) {
        return Err(vmsd.wrong("snapshotN.uid", "another number for each snapshot", format!("{} twice", pair[0].uid)));
    }
    let parents: HashMap<u64, Option<u64>> = snapshots.iter().map(|s| (s.uid, s.parent)).collect();
    let mut rooted: HashSet<u64> = HashSet::new();
    for snapshot in snapshots {
        let mut passed: HashSet<u64> = HashSet::new();
        let mut child = snapshot.uid;
        let mut at = Some(snapshot.uid);
        while let Some(uid) = at.filter(|uid| !rooted.contains(uid)) {
            if !passed.insert(uid) {
                return Err(vmsd.wrong("snapshotN.parent", "a tree of snapshots", format!("{uid} above itself")));
            }
            let parent = parents.get(&uid).ok_or_else(|| {
                vmsd.wrong("snapshotN.parent", "the number of a listed snapshot", format!("{uid} (of {child})"))
            })?;
            child = uid;
            at = *parent;
        }
        rooted.extend(passed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vmsd, MachineError> {
        let dictionary = Dictionary::parse(Path::new("/nowhere/web1.vmsd"), text.as_bytes())?;
        snapshots(&dictionary, Path::new("/nowhere"))
    }

    /// A list of snapshots given as uid and parent, each with one disk.
    fn list(tree: &[(u64, Option<u64>)]) -> String {
        let mut text = format!("snapshot.numSnapshots = \"{}\"\n", tree.len());
        for (index, (uid, parent)) in tree.iter().enumerate() {
            text += &format!("snapshot{index}.uid = \"{uid}\"\nsnapshot{index}.numDisks = \"1\"\n");
            text += &format!("snapshot{index}.disk0.fileName = \"web1-{uid:06}.vmdk\"\n");
            text += &format!("snapshot{index}.disk0.node = \"scsi0:0\"\n");
            if let Some(parent) = parent {
                text += &format!("snapshot{index}.parent = \"{parent}\"\n");
            }
        }
        text
    }

    #[test]
    fn none() {
        for text in ["", ".encoding = \"UTF-8\"\n", "snapshot.numSnapshots = \"0\"\nsnapshot0.uid = \"7\"\n"] {
            let vmsd = read(text).unwrap();
            assert!(vmsd.snapshots.is_empty() && vmsd.warnings.is_empty(), "{text}");
        }
    }

    #[test]
    fn oldest_first_whatever_the_index() {
        let vmsd = read(&list(&[(9, Some(4)), (4, Some(0)), (12, Some(4))])).unwrap();
        let tree: Vec<_> = vmsd.snapshots.iter().map(|s| (s.uid, s.parent)).collect();
        assert_eq!(tree, [(4, None), (9, Some(4)), (12, Some(4))]);
        assert_eq!(vmsd.snapshots[0].frozen, [("scsi0:0".to_owned(), "/nowhere/web1-000004.vmdk".into())]);
        assert_eq!(vmsd.snapshots[0].name, "snapshot 4");
        assert_eq!(vmsd.snapshots[0].taken_us, None);
    }

    #[track_caller]
    fn taken(high: &str, low: &str, expected: Option<i64>) {
        let time = format!("snapshot0.createTimeHigh = \"{high}\"\nsnapshot0.createTimeLow = \"{low}\"\n");
        let vmsd = read(&(list(&[(1, None)]) + &time)).unwrap();
        assert_eq!(vmsd.snapshots[0].taken_us, expected, "{high} {low}");
    }

    #[test]
    fn times() {
        // 2026-03-09 07:55:00 UTC, as signed and as unsigned low half.
        taken("412818", "-1204167424", Some(1_773_042_900_000_000));
        taken("412818", "3090799872", Some(1_773_042_900_000_000));
        taken("0", "0", Some(0));
        taken("0", "-1", Some(0xffff_ffff));
        taken("2147483647", "-1", Some(i64::MAX));
        taken("2147483648", "0", None);
        taken("0", "4294967296", None);
        taken("0", "-2147483649", None);
    }

    #[test]
    fn stale_redo_logs_are_reported() {
        let vmsd = read("snapshot.needConsolidate = \"TRUE\"").unwrap();
        assert_eq!(vmsd.warnings.len(), 1);
    }

    #[test]
    fn a_long_row_is_fine() {
        let tree: Vec<_> = (1..=SNAPSHOTS_MAX).map(|uid| (uid, Some(uid - 1))).rev().collect();
        assert_eq!(read(&list(&tree)).unwrap().snapshots.len() as u64, SNAPSHOTS_MAX);
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        let Err(error) = read(text) else { panic!("was accepted: {text}") };
        assert_eq!(error.to_string(), format!("/nowhere/web1.vmsd: {message}"));
    }

    #[test]
    fn hostile_lists_are_refused() {
        refused("snapshot.numSnapshots = 2", "line 1: expected key = \"value\", found \"snapshot.numSnapshots = 2\"");
        refused(
            "snapshot.numSnapshots = \"4000000000\"",
            "snapshot.numsnapshots: expected at most 4096, found 4000000000",
        );
        refused(
            "snapshot.numSnapshots = \"-1\"",
            "snapshot.numsnapshots: expected a number of snapshots, found \"-1\"",
        );
        refused("snapshot.numSnapshots = \"1\"", "snapshot0.uid: expected the number of a snapshot, found nothing");
        refused(&list(&[(3, Some(3))]), "snapshotN.parent: expected a tree of snapshots, found 3 above itself");
        refused(
            &list(&[(1, Some(3)), (2, Some(1)), (3, Some(2))]),
            "snapshotN.parent: expected a tree of snapshots, found 1 above itself",
        );
        refused(
            &list(&[(1, None), (2, Some(7))]),
            "snapshotN.parent: expected the number of a listed snapshot, found 7 (of 2)",
        );
        refused(
            &list(&[(5, None), (5, None)]),
            "snapshotN.uid: expected another number for each snapshot, found 5 twice",
        );
        let one = list(&[(1, None)]);
        refused(
            &(one.clone() + "snapshot0.numDisks = \"99999999999\""),
            "snapshot0.numdisks: expected at most 1024, found 99999999999",
        );
        refused(
            &(one.clone() + "snapshot0.numDisks = \"2\""),
            "snapshot0.disk1.filename: expected the file of a disk, found nothing",
        );
        refused(
            &(one + "snapshot0.numDisks = \"2\"\nsnapshot0.disk1.fileName = \"x\"\nsnapshot0.disk1.node = \"SCSI0:0\""),
            "snapshot0.disk1.node: expected another slot for each disk, found \"scsi0:0\"",
        );
    }

    #[test]
    fn hostile_paths_stay_paths() {
        let text = list(&[(1, None)]) + "snapshot0.disk0.fileName = \"../../etc/shadow\"";
        assert_eq!(read(&text).unwrap().snapshots[0].frozen[0].1, Path::new("/nowhere/../../etc/shadow"));
    }

    proptest::proptest! {
        /// A list is accepted exactly if following parents from any snapshot ends at one without parent, which a walk of as
        /// many steps as there are snapshots can tell.
        #[test]
        fn only_trees_are_accepted(parents in proptest::collection::vec(0u64..8, 0..7)) {
            let tree: Vec<(u64, Option<u64>)> = (1..).zip(parents).map(|(uid, parent)| (uid, Some(parent))).collect();
            let parent_of = |uid: u64| tree.iter().find(|(known, _)| *known == uid).and_then(|(_, parent)| *parent);
            let ends = |uid: u64| (0..tree.len()).scan(uid, |at, _| { *at = parent_of(*at)?; Some(*at) }).last() == Some(0);
            proptest::prop_assert_eq!(read(&list(&tree)).is_ok(), tree.iter().all(|(uid, _)| ends(*uid)), "{:?}", tree);
        }
    }
}
