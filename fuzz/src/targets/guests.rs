//! The promises of `guest` on any disks: what they are divided into lies inside them; a filesystem opens, or is refused in
//! words; what opens can be walked.
//!
//! - Every call ends, in an answer or an error; what it answers is bounded by what was asked for.
//! - A node is the same at every look; its extents lie inside it, and what is no data reads as zeros.
//! - A read equals the same read in two parts, in its bytes and in whether it succeeds.
//! - The guest's own view keeps the same promises as its volumes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use abbild::disk::{Disk, ExtentKind};
use abbild::formats::{self, OpenPolicy};
use abbild::guest::machine::GuestMachine;
use abbild::guest::tree::{FileSystem, NodeId};
use abbild::units::GuestOffset;

use super::guest_checksums;
use super::message::is_short;
use super::stage::{self, Content, REPAIR, Stage, states};

/// Disks of one machine that are looked at.
const DISKS_MAX: usize = 4;
/// Volumes that are looked into.
const VOLUMES_MAX: usize = 12;

thread_local! {
    static STAGE: Stage = Stage::new();
}

/// Takes the files of the folder that `input` describes for the disks of a machine, and looks into all of them.
pub fn disks(input: &[u8]) {
    STAGE.with(|stage| {
        let mut plan = stage::decode(input);
        plan.entries.truncate(DISKS_MAX);
        stage.fill(&plan);
        let is_file = |entry: &&stage::Entry| matches!(entry.content, Content::File(..));
        let mut paths: Vec<_> = plan.entries.iter().filter(is_file).map(|e| stage.folder().join(&e.name)).collect();
        paths.retain(|path| path.is_file());
        paths.dedup();
        if plan.options & REPAIR != 0 {
            paths.iter().for_each(|path| guest_checksums::repair(path));
        }
        let before = states(stage.folder());
        let opened = paths.iter().filter_map(|path| {
            let policy = OpenPolicy::within(stage.folder()).expect("the folder is there");
            Some(Arc::new(formats::open_raw(path, &policy).ok()?.disk()) as Arc<dyn Disk>)
        });
        let opened: Vec<Arc<dyn Disk>> = opened.collect();
        machine(&opened);
        assert_eq!(states(stage.folder()), before, "the source is never written");
    });
}

fn machine(disks: &[Arc<dyn Disk>]) {
    let machine = GuestMachine::new(disks);
    let found = machine.volumes();
    found.warnings.iter().chain(&found.faults).for_each(|said| is_short(said));
    found.unavailable.iter().for_each(|unavailable| is_short(&unavailable.reason));
    for (_, table) in &found.tables {
        table.warnings.iter().for_each(|said| is_short(said));
    }
    let mut names = BTreeSet::new();
    for volume in &found.volumes {
        assert!(names.insert(&volume.name), "two volumes are {}", volume.name);
        assert_eq!(volume.disk.size(), volume.size, "{}", volume.name);
        let size = volume.size.0;
        for at in [0, size / 2, size.saturating_sub(1)] {
            if at < size {
                let _ = volume.disk.read_at(GuestOffset(at), &mut [0]);
                let extent = volume.disk.extent_at(GuestOffset(at));
                assert!(extent.is_ok_and(|extent| extent.len.0 > 0 && extent.len.0 <= size - at), "{}", volume.name);
            }
        }
        assert!(volume.disk.read_at(GuestOffset(size), &mut [0]).is_err(), "a read behind {}", volume.name);
    }
    let names: Vec<String> = machine.names().take(VOLUMES_MAX).map(str::to_owned).collect();
    for name in names {
        match machine.filesystem(&name).expect("the name was just told") {
            Ok(filesystem) => survey(filesystem.as_ref()),
            Err(error) => is_short(&error.to_string()),
        }
    }
    if let Some(view) = machine.view() {
        survey(view.as_ref());
    }
}

/// Asks everything of a tree that may be damaged anywhere. Errors are fine; panics, and answers that break the contract
/// of [`FileSystem`], are not.
pub fn survey(tree: &dyn FileSystem) {
    const NODES_MAX: usize = 300;
    const ENTRIES_MAX: usize = 2000;
    let summary = tree.summary();
    summary.warnings.iter().for_each(|said| is_short(said));
    let mut seen = BTreeSet::from([tree.root()]);
    let mut nodes = vec![tree.root()];
    while let Some(node) = nodes.pop() {
        look(tree, node);
        let mut names = Vec::new();
        let read = tree.read_directory(node, &mut |entry| {
            assert!(!entry.name.is_empty() && !entry.name.iter().any(|byte| matches!(byte, 0 | b'/')));
            names.push(entry.name.to_vec());
            if seen.len() < NODES_MAX && seen.insert(entry.node) {
                nodes.push(entry.node);
            }
            if names.len() < ENTRIES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Err(error) = read {
            is_short(&error.to_string());
        }
        for name in names.iter().step_by(names.len() / 3 + 1) {
            let _ = tree.lookup(node, name);
        }
        let _ = tree.lookup(node, b"no such name");
    }
}

/// What a node says of itself, and what is in it.
fn look(tree: &dyn FileSystem, node: NodeId) {
    const EXTENTS_MAX: usize = 100;
    let metadata = match tree.metadata(node) {
        Ok(metadata) => metadata,
        Err(error) => return is_short(&error.to_string()),
    };
    assert!(metadata.mode <= 0o7777 && metadata.modified.nanoseconds < 1_000_000_000, "{metadata:?}");
    assert_eq!(tree.metadata(node).ok().as_ref(), Some(&metadata), "looked at again");
    if let Ok(attributes) = tree.extended_attributes(node) {
        assert!(attributes.is_sorted_by(|one, other| one.name <= other.name), "{attributes:?}");
    }
    let _ = tree.read_link(node);
    if let Ok(streams) = tree.streams(node) {
        for (name, _) in streams.iter().take(3) {
            let _ = tree.read_stream(node, name, 0, &mut [0; 5000]);
        }
    }
    let size = metadata.size;
    for at in [0, 5000, size / 2, size.saturating_sub(100), size, u64::MAX] {
        read(tree, node, size, at);
    }
    let mut at = 0;
    for _ in 0..EXTENTS_MAX {
        let Ok(Some(extent)) = tree.extent_at(node, at) else { break };
        assert!(extent.len.0 > 0 && extent.len.0 <= size - at, "{extent:?} at {at} of {size}");
        if extent.kind != ExtentKind::Data {
            let mut buf = [0xa5; 100];
            let len = usize::try_from(extent.len.0).map_or(buf.len(), |len| len.min(buf.len()));
            if tree.read_at(node, at, &mut buf[..len]).is_ok() {
                assert!(buf[..len].iter().all(|byte| *byte == 0), "{:?} at {at} is not zero", extent.kind);
            }
        }
        at += extent.len.0;
    }
}

/// Reads from `at` in one piece and in two.
fn read(tree: &dyn FileSystem, node: NodeId, size: u64, at: u64) {
    const CUT: usize = 7001;
    let (mut whole, mut parts) = (vec![0xa5; 20_000], vec![0xa5; 20_000]);
    let Ok(len) = tree.read_at(node, at, &mut whole) else { return };
    assert_eq!(len as u64, size.saturating_sub(at).min(whole.len() as u64));
    let first = tree.read_at(node, at, &mut parts[..CUT]);
    let second = at.checked_add(CUT as u64).map(|at| tree.read_at(node, at, &mut parts[CUT..]));
    assert!(first.is_ok() && second.is_none_or(|second| second.is_ok()), "in two parts at {at}");
    assert!(whole[..len] == parts[..len], "in two parts at {at} other bytes");
}
