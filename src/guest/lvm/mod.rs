//! LVM2: physical volumes on any number of disks, joined to volume groups, and their logical volumes as disks.
//!
//! In here: `label` where descriptions lie · `text` their syntax · `metadata` their meaning, checked · `mapping` what a logical
//! volume is made of · `logical`, `thin` the disks · `raid1` which copy to read. Not in here: partitions, filesystems.
//!
//! Descriptions are in every physical volume; the one with the highest sequence number counts, whatever order they come
//! in. A volume that cannot be read (a physical volume missing, a type we do not read) is named with its reason and never
//! hides the others. Nothing is read but labels, descriptions and the superblocks of thin pools and mirrors.

mod label;
mod logical;
mod mapping;
mod metadata;
mod raid1;
mod text;
mod thin;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::GuestError;
use crate::disk::Disk;
use mapping::{Opener, Outcome};
use metadata::{Group, Kind};

/// Metadata areas of one physical volume that are looked at; LVM makes at most two.
const AREAS_MAX: usize = 4;

/// What was made of the physical volumes.
#[derive(Default)]
pub struct Groups {
    /// Each logical volume that has content of its own, by group and name.
    pub volumes: Vec<LogicalVolume>,
    /// What is odd, each in one line.
    pub warnings: Vec<String>,
    /// What could not be used, each in one line.
    pub faults: Vec<String>,
}

/// A logical volume.
pub struct LogicalVolume {
    /// Its group's name; with the place of a physical volume behind an `@` where several groups have that name.
    pub group: String,
    /// Its own name.
    pub name: String,
    /// Its UUID, in groups.
    pub uuid: String,
    /// The volume as a disk, or why it cannot be read.
    pub disk: Result<Arc<dyn Disk>, String>,
}

/// A UUID of LVM in its groups: `6-4-4-4-4-4-6`.
pub(super) fn dashed(id: &[u8; 32]) -> String {
    let mut dashed = String::new();
    for (number, character) in String::from_utf8_lossy(id).chars().enumerate() {
        if matches!(number, 6 | 10 | 14 | 18 | 22 | 26) {
            dashed.push('-');
        }
        dashed.push(character);
    }
    dashed
}

/// A physical volume that was found.
struct Member<'a> {
    /// Where: `disk0/p2`.
    place: &'a str,
    uuid: String,
    disk: &'a Arc<dyn Disk>,
    /// The newest description it holds.
    group: Option<Group>,
}

/// Joins physical volumes to groups. `volumes` are named as in messages: `disk0/p2`.
pub fn assemble(volumes: &[(String, Arc<dyn Disk>)]) -> Groups {
    let mut groups = Groups::default();
    let members: Vec<Member<'_>> =
        volumes.iter().filter_map(|(place, disk)| member(place, disk, &mut groups)).collect();
    let mut by_id: BTreeMap<&str, Vec<&Member<'_>>> = BTreeMap::new();
    for member in &members {
        if let Some(group) = &member.group {
            by_id.entry(&group.id).or_default().push(member);
        }
    }
    let found: Vec<Found<'_>> = by_id.values().flat_map(|told| instances(told, &members, &mut groups)).collect();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for instance in &found {
        *names.entry(&instance.group.name).or_default() += 1;
    }
    for instance in &found {
        let name = &instance.group.name;
        let shown = if names[name.as_str()] == 1 {
            name.clone()
        } else {
            let shown = format!("{name}@{}", instance.place.replace('/', "."));
            groups.warnings.push(format!(
                "several volume groups are called {name}: that on {} is shown as {shown}",
                instance.place
            ));
            shown
        };
        open_all(instance, &shown, &mut groups);
    }
    groups
}

/// A group and the physical volumes that are at hand for it.
struct Found<'a> {
    group: &'a Group,
    /// Where one of them lies.
    place: &'a str,
    physical: HashMap<String, Arc<dyn Disk>>,
}

/// The groups of one id: one, or, if a disk and its copy are both there, one for each.
fn instances<'a>(told: &[&'a Member<'a>], members: &'a [Member<'a>], groups: &mut Groups) -> Vec<Found<'a>> {
    let Some(newest) = told.iter().max_by_key(|member| member.group.as_ref().map_or(0, |group| group.seqno)) else {
        return Vec::new();
    };
    let group = newest.group.as_ref().expect("only members that describe a group tell of one");
    let wanted: HashSet<&str> = group.physical.values().map(|physical| physical.id.as_str()).collect();
    let at_hand: Vec<&Member<'_>> = members.iter().filter(|member| wanted.contains(member.uuid.as_str())).collect();
    let distinct: HashSet<&str> = at_hand.iter().map(|member| member.uuid.as_str()).collect();
    let name = &group.name;
    if told.iter().any(|member| member.group.as_ref().is_some_and(|other| other.seqno < group.seqno)) {
        groups.warnings.push(format!("volume group {name}: an older description on another disk was passed over"));
    }
    let alone = |member: &&'a Member<'a>| {
        let group = member.group.as_ref()?;
        let physical = HashMap::from([(member.uuid.clone(), Arc::clone(member.disk))]);
        Some(Found { group, place: member.place, physical })
    };
    match () {
        () if distinct.len() == at_hand.len() => {
            let physical = at_hand.iter().map(|member| (member.uuid.clone(), Arc::clone(member.disk))).collect();
            vec![Found { group, place: newest.place, physical }]
        }
        () if wanted.len() == 1 => told.iter().filter_map(alone).collect(),
        () => {
            let places: Vec<&str> = at_hand.iter().map(|member| member.place).collect();
            groups.faults.push(format!(
                "volume group {name}: the same physical volumes are there more than once ({}): copies of disks \
                 cannot be told apart, so the group was not opened",
                places.join(", ")
            ));
            Vec::new()
        }
    }
}

/// Reads a label and the newest description beside it.
fn member<'a>(place: &'a str, disk: &'a Arc<dyn Disk>, groups: &mut Groups) -> Option<Member<'a>> {
    let label = match label::read(disk.as_ref()) {
        Ok(label) => label?,
        Err(error) => {
            groups.faults.push(format!("{place}: {error}"));
            return None;
        }
    };
    let mut newest: Option<Group> = None;
    let mut faults = Vec::new();
    for area in label.areas.iter().take(AREAS_MAX) {
        let text = label::text(disk.as_ref(), *area);
        match text.and_then(|text| text.map(|text| Group::read(&text).map_err(GuestError::from)).transpose()) {
            Ok(Some(group)) if newest.as_ref().is_none_or(|before| before.seqno < group.seqno) => newest = Some(group),
            Ok(_) => {}
            Err(error) => faults.push(format!("{place}: {error}")),
        }
    }
    // A second area, or another physical volume, may hold the same text undamaged.
    if newest.is_some() {
        groups.warnings.extend(faults)
    } else {
        groups.faults.extend(faults)
    }
    Some(Member { place, uuid: label.uuid, disk, group: newest })
}

fn open_all(found: &Found<'_>, shown: &str, groups: &mut Groups) {
    let mut opener = Opener::new(found.group, &found.physical);
    for (name, volume) in &found.group.logical {
        let is_pool =
            matches!(volume.segments.as_deref(), Ok([segment]) if matches!(segment.kind, Kind::ThinPool { .. }));
        if !volume.is_visible || is_pool {
            continue;
        }
        let disk: Outcome = opener.open(name);
        groups.volumes.push(LogicalVolume {
            group: shown.to_string(),
            name: name.clone(),
            uuid: volume.id.clone(),
            disk,
        });
    }
    groups.warnings.extend(opener.warnings.into_iter().map(|warning| format!("{shown}/{warning}")));
}
