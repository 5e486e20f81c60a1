//! A file: its base record, where its attributes are, and what it is.
//!
//! Standard information: 0 created | 8 modified | 16 record changed | 24 accessed, each u64, units of 100 ns since 1601 |
//! 32 DOS attributes u32. File name: 0 reference of the directory | 56 DOS attributes u32 | 64 length u8 | 65 namespace u8 |
//! 66 the name.

use std::sync::{Arc, OnceLock};

use nom::Parser;
use nom::number::complete::{le_i64, le_u32};

use super::content::Content;
use super::list::{self, Place};
use super::record::{Body, Record, Reference, kind};
use super::reparse::{self, Meaning};
use super::{Ntfs, node_id, table};
use crate::guest::GuestError;
use crate::guest::tree::{NodeId, NodeKind, Time};
use crate::units::GuestOffset;

/// The namespace of short names that stand beside a long one.
pub(super) const NAMESPACE_DOS: u8 = 2;
const FILE_NAME_NAMESPACE_AT: usize = 65;

/// A file or directory.
pub(super) struct Node {
    pub reference: Reference,
    /// Where its base record lies.
    pub at: GuestOffset,
    pub directory: bool,
    pub information: Information,
    /// Its names, short ones beside long ones not counted.
    pub links: u32,
    /// The directory of its first name.
    pub parent: Option<Reference>,
    /// Its attributes, in pieces: those of one type and name together, in the order of their clusters.
    pub places: Vec<Place>,
    pub meaning: Meaning,
    data: OnceLock<Option<Arc<Content>>>,
}

/// What every file has. All zero where it is missing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Information {
    pub created: Time,
    pub modified: Time,
    pub changed: Time,
    pub accessed: Time,
    pub attributes: u32,
}

impl Information {
    fn read(value: &[u8]) -> Option<Information> {
        let header = (le_i64::<_, nom::error::Error<&[u8]>>, le_i64, le_i64, le_i64, le_u32).parse(value);
        let (_, (created, modified, changed, accessed, attributes)) = header.ok()?;
        let [created, modified, changed, accessed] = [created, modified, changed, accessed].map(time);
        Some(Information { created, modified, changed, accessed, attributes })
    }
}

/// A time in units of 100 ns since 1601.
fn time(stored: i64) -> Time {
    const UNITS_PER_SECOND: i64 = 10_000_000;
    const SECONDS_FROM_1601_TO_1970: i64 = 11_644_473_600;
    let nanoseconds = stored.rem_euclid(UNITS_PER_SECOND) * 100;
    Time {
        seconds: stored.div_euclid(UNITS_PER_SECOND) - SECONDS_FROM_1601_TO_1970,
        nanoseconds: u32::try_from(nanoseconds).expect("below 10^9"),
    }
}

impl Ntfs {
    /// A record in use, of the sequence that the reference names.
    pub(super) fn record(&self, reference: Reference) -> Result<Record, GuestError> {
        let nothing = GuestError::NoSuchNode { node: node_id(reference) };
        if reference.number() >= self.table.records {
            return Err(nothing);
        }
        let record = self.table.read(&self.volume, reference.number())?;
        if !record.in_use || record.sequence != reference.sequence() {
            return Err(nothing);
        }
        Ok(record)
    }

    /// A record that belongs to a node.
    pub(super) fn record_of(&self, node: &Node, reference: Reference) -> Result<Record, GuestError> {
        let record = self.record(reference)?;
        if reference != node.reference && record.base != node.reference {
            return Err(GuestError::Corrupt {
                field: "base of a file record",
                at: record.at,
                expected: node.reference.number().to_string(),
                found: record.base.number().to_string(),
            });
        }
        Ok(record)
    }

    /// The node of an id.
    pub(super) fn node(&self, id: NodeId) -> Result<Arc<Node>, GuestError> {
        if id.tree != 0 {
            return Err(GuestError::NoSuchNode { node: id });
        }
        let reference = Reference(id.number);
        if let Some(node) = self.nodes.get(&reference) {
            return Ok(node);
        }
        let mut node = self.bare_node(reference)?;
        node.meaning = reparse::meaning(self, &node)?;
        let node = Arc::new(node);
        self.nodes.insert(reference, Arc::clone(&node));
        Ok(node)
    }

    /// A node as its records are, without what they mean.
    pub(super) fn bare_node(&self, reference: Reference) -> Result<Node, GuestError> {
        let base = self.record(reference)?;
        if base.base.0 != 0 {
            return Err(GuestError::NoSuchNode { node: node_id(reference) });
        }
        let mut places = match table::own_list(&self.volume, &base)? {
            Some(listed) => list::read(&listed, base.at)?,
            None => own_places(&base, reference),
        };
        places.sort_by(|one, other| one.order().cmp(&other.order()));
        let information = base.resident(kind::STANDARD_INFORMATION).and_then(Information::read).unwrap_or_default();
        let mut node = Node {
            reference,
            at: base.at,
            directory: base.directory,
            information,
            links: 0,
            parent: None,
            places,
            meaning: Meaning::Plain,
            data: OnceLock::new(),
        };
        self.count_names(&mut node, base)?;
        Ok(node)
    }

    fn count_names(&self, node: &mut Node, base: Record) -> Result<(), GuestError> {
        let (mut record, mut reference) = (base, node.reference);
        let mut places: Vec<_> = node.places.iter().filter(|place| place.kind == kind::FILE_NAME).collect();
        places.sort_by_key(|place| place.record);
        let (mut links, mut parent) = (0, None);
        for place in places {
            if place.record != reference {
                record = self.record_of(node, place.record)?;
                reference = place.record;
            }
            let attribute = record.attributes.iter().find(|it| it.kind == kind::FILE_NAME && it.id == place.id);
            let Some(Body::Resident(range)) = attribute.map(|attribute| &attribute.body) else { continue };
            let name = record.part(range);
            if name.get(FILE_NAME_NAMESPACE_AT).is_none_or(|namespace| *namespace == NAMESPACE_DOS) {
                continue;
            }
            links += 1;
            let directory = u64::from_le_bytes(name[..8].try_into().expect("eight bytes"));
            parent.get_or_insert(Reference(directory));
        }
        node.links = links;
        node.parent = parent;
        Ok(())
    }

    /// A file's content: that of its unnamed stream.
    pub(super) fn data(&self, node: &Node) -> Result<Option<Arc<Content>>, GuestError> {
        if let Some(data) = node.data.get() {
            return Ok(data.clone());
        }
        let data = self.content(node, kind::DATA, &[])?.map(Arc::new);
        Ok(node.data.get_or_init(|| data).clone())
    }
}

/// Places of the attributes of a file that has all of them in one record.
fn own_places(base: &Record, record: Reference) -> Vec<Place> {
    let place = |attribute: &super::record::Attribute| Place {
        kind: attribute.kind,
        name: attribute.name.clone(),
        start: match &attribute.body {
            Body::Resident(_) => 0,
            Body::NonResident(extents) => extents.start,
        },
        record,
        id: attribute.id,
    };
    base.attributes.iter().map(place).collect()
}

impl Node {
    /// What it is to us.
    pub fn kind(&self) -> NodeKind {
        match &self.meaning {
            Meaning::Link(_) => NodeKind::Symlink,
            Meaning::Device(kind, _) => *kind,
            _ if self.directory => NodeKind::Directory,
            _ => NodeKind::File,
        }
    }

    /// The pieces of the attribute of a type and name.
    pub fn pieces(&self, kind: u32, name: &[u16]) -> &[Place] {
        let wanted = (kind, name);
        let from = self.places.partition_point(|place| (place.kind, &*place.name) < wanted);
        let to = self.places.partition_point(|place| (place.kind, &*place.name) <= wanted);
        &self.places[from..to]
    }

    /// Whether it has an attribute of a type.
    pub fn has(&self, kind: u32) -> bool {
        self.places.iter().any(|place| place.kind == kind)
    }

    /// Whether a DOS attribute is set.
    pub fn has_dos(&self, attribute: u32) -> bool {
        self.information.attributes & attribute != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_1601() {
        #[track_caller]
        fn check(stored: i64, seconds: i64, nanoseconds: u32) {
            assert_eq!(time(stored), Time { seconds, nanoseconds });
        }
        check(0, -11_644_473_600, 0);
        check(116_444_736_000_000_000, 0, 0);
        check(116_444_735_999_999_999, -1, 999_999_900);
        check(-1, -11_644_473_601, 999_999_900);
        check(i64::MAX, 910_692_730_085, 477_580_700);
    }
}
