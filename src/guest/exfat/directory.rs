//! Entries of a directory: sets of records put together, and checked one by one. What is no sound set is said as an error
//! after all that are.
//!
//! A node's number is where its set begins, which is a multiple of 32, plus 1 if the directory it lies in is in one piece:
//! a set may go on in another cluster, and only its directory knows which that is.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::entry::{self, Content, FileEntry, kinds};
use super::tree::ExFat;
use crate::guest::GuestError;
use crate::guest::clusters::chain::Chain;
use crate::guest::clusters::content::{RECORD_BYTES, Record, Records};
use crate::guest::clusters::name::{self, Distinct};
use crate::guest::clusters::{Clusters, corrupt};
use crate::guest::tree::{NodeId, NodeKind};

/// Bytes of a directory at most (7.4.8.2).
const DIRECTORY_BYTES_MAX: u64 = 256 << 20;
/// Set in the number of a node whose directory is in one piece.
const IN_ONE_PIECE: u64 = 1;

/// Where a directory's records lie.
pub(super) struct Place {
    first_cluster: u32,
    chain: Arc<Chain>,
    pub bytes: u64,
    in_one_piece: bool,
}

/// An entry with its node.
pub(super) struct Found<'a> {
    pub node: NodeId,
    pub name: &'a [u8],
    pub entry: &'a FileEntry,
}

impl Place {
    /// The root directory: as long as its chain.
    pub fn of_root(clusters: &Clusters, first_cluster: u32) -> Result<Place, GuestError> {
        let most = u32::try_from(clusters.clusters_for(DIRECTORY_BYTES_MAX)).expect("256 MiB in clusters");
        let chain = clusters.chain(first_cluster, most + 1)?;
        if chain.len() > most {
            return Err(too_long(clusters.heap.position(first_cluster), "more"));
        }
        let bytes = u64::from(chain.len()) << clusters.heap.cluster_log;
        Ok(Place { first_cluster, chain, bytes, in_one_piece: false })
    }

    /// The directory whose entry lies at `at`.
    pub fn of(clusters: &Clusters, at: u64, content: &Content) -> Result<Place, GuestError> {
        if content.bytes > DIRECTORY_BYTES_MAX {
            return Err(too_long(at, &content.bytes.to_string()));
        }
        Ok(Place {
            first_cluster: content.first_cluster,
            chain: content.chain(clusters)?,
            bytes: content.bytes,
            in_one_piece: content.in_one_piece,
        })
    }

    pub fn records(&self) -> Records<'_> {
        Records::Chain { chain: &self.chain, len: self.bytes }
    }
}

fn too_long(at: u64, found: &str) -> GuestError {
    corrupt("length of a directory", at, format!("at most {DIRECTORY_BYTES_MAX} bytes"), found)
}

impl Content {
    /// The clusters of all of it.
    pub fn chain(&self, clusters: &Clusters) -> Result<Arc<Chain>, GuestError> {
        let count = u32::try_from(clusters.clusters_for(self.bytes)).expect("not more than the heap has");
        if self.in_one_piece || count == 0 {
            return Ok(Arc::new(Chain::run(self.first_cluster, count)));
        }
        clusters.chain(self.first_cluster, count)
    }
}

/// Records of a set, as they come.
struct Awaited {
    at: u64,
    records: Vec<Record>,
    count: usize,
}

impl ExFat {
    /// The set that begins where a node's number says.
    pub(super) fn entry(&self, node: NodeId) -> Result<FileEntry, GuestError> {
        let no_such = || GuestError::NoSuchNode { node };
        let mut at = node.number & !IN_ONE_PIECE;
        let heap = &self.clusters.heap;
        if node.tree != 0 || !at.is_multiple_of(RECORD_BYTES as u64) || heap.cluster_of(at).is_none() {
            return Err(no_such());
        }
        let begin = at;
        let mut set = vec![self.record(at)?];
        if set[0][0] != kinds::FILE {
            return Err(no_such());
        }
        for _ in 0..entry::following(&set[0]) {
            at = self.after(at, node.number & IN_ONE_PIECE != 0)?.ok_or_else(no_such)?;
            set.push(self.record(at)?);
        }
        entry::parse(&self.clusters, begin, &set)
    }

    fn record(&self, at: u64) -> Result<Record, GuestError> {
        let mut record = [0; RECORD_BYTES];
        self.clusters.volume.metadata(at, &mut record)?;
        Ok(record)
    }

    /// Where the record after the one at `at` lies.
    fn after(&self, at: u64, in_one_piece: bool) -> Result<Option<u64>, GuestError> {
        let heap = &self.clusters.heap;
        let next = at + RECORD_BYTES as u64;
        if (next - heap.at) & (heap.cluster_bytes() - 1) != 0 {
            return Ok(Some(next));
        }
        let Some(cluster) = heap.cluster_of(at) else { return Ok(None) };
        let following = if in_one_piece {
            Some(cluster + 1).filter(|cluster| heap.has(*cluster))
        } else {
            self.clusters.next(cluster)?
        };
        Ok(following.map(|cluster| heap.position(cluster)))
    }

    /// Tells `visit` every set that is whole; the first that is not is returned.
    fn each_set(
        &self,
        place: &Place,
        visit: &mut dyn FnMut(FileEntry) -> ControlFlow<()>,
    ) -> Result<Option<GuestError>, GuestError> {
        let mut damage: Option<GuestError> = None;
        let mut awaited: Option<Awaited> = None;
        let clusters = &self.clusters;
        clusters.each_record(&place.records(), &mut |at, record| {
            let kind = record[0];
            if let Some(mut set) = awaited.take() {
                if kind & (kinds::IN_USE | kinds::SECONDARY) == kinds::IN_USE | kinds::SECONDARY {
                    set.records.push(*record);
                    if set.records.len() < set.count {
                        awaited = Some(set);
                        return Ok(ControlFlow::Continue(()));
                    }
                    return Ok(match entry::parse(clusters, set.at, &set.records) {
                        Ok(entry) => visit(entry),
                        Err(wrong) => {
                            damage.get_or_insert(wrong);
                            ControlFlow::Continue(())
                        }
                    });
                }
                damage.get_or_insert_with(|| cut_off(&set));
            }
            match kind {
                kinds::END => return Ok(ControlFlow::Break(())),
                kinds::FILE if entry::following(record) > 0 => {
                    let count = 1 + entry::following(record);
                    awaited = Some(Awaited { at, records: vec![*record], count });
                }
                kinds::FILE => {
                    damage.get_or_insert_with(|| cut_off(&Awaited { at, records: vec![*record], count: 3 }));
                }
                // Deleted, or not a file's.
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some(set) = awaited {
            damage.get_or_insert_with(|| cut_off(&set));
        }
        Ok(damage)
    }

    /// Tells `visit` every entry of a directory, with its name, until it breaks.
    pub(super) fn each_entry(
        &self,
        place: &Place,
        visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        let mut doubtful = None;
        let mut names = Distinct::default();
        let mut stopped = false;
        let damage = self.each_set(place, &mut |entry| {
            let name = name::bytes(&entry.name);
            if let Some(wrong) = self.wrong_with(&entry, &name, place, &mut names) {
                doubtful.get_or_insert(wrong);
                return ControlFlow::Continue(());
            }
            let number = entry.at | if place.in_one_piece { IN_ONE_PIECE } else { 0 };
            let flow = visit(Found { node: NodeId { tree: 0, number }, name: &name, entry: &entry });
            stopped = flow.is_break();
            flow
        })?;
        doubtful.or(damage).filter(|_| !stopped).map_or(Ok(()), Err)
    }

    /// Why there can be no such entry in this directory.
    fn wrong_with(&self, entry: &FileEntry, name: &[u8], place: &Place, names: &mut Distinct) -> Option<GuestError> {
        let shown = String::from_utf8_lossy(name);
        if !names.insert(name) {
            return Some(corrupt("name of a directory's entry", entry.at, "each name once", format!("{shown} again")));
        }
        // Larger rings of directories show themselves to those who walk: the same nodes come again.
        let first = entry.content.first_cluster;
        let is_ring = first == place.first_cluster || first == self.geometry.root_cluster;
        if entry.kind() == NodeKind::Directory && entry.content.bytes > 0 && is_ring {
            let expected = format!("clusters of its own for the directory {shown}");
            let found = format!("cluster {first}, of a directory that it lies in");
            return Some(corrupt("first cluster of a directory", entry.at, expected, found));
        }
        None
    }

    /// The entry of that name: as it is written, or else but for its case, by the volume's own table.
    pub(super) fn find(&self, place: &Place, wanted: &[u8]) -> Result<Option<NodeId>, GuestError> {
        let Some(units) = name::units(wanted) else { return Ok(None) };
        let capital = |unit: &u16| self.up_case.capital(*unit);
        let (mut exact, mut similar) = (None, None);
        let outcome = self.each_entry(place, &mut |found| {
            let name = &found.entry.name;
            if *name == units {
                exact = Some(found.node);
                return ControlFlow::Break(());
            }
            if similar.is_none() && name.iter().map(capital).eq(units.iter().map(capital)) {
                similar = Some(found.node);
            }
            ControlFlow::Continue(())
        });
        // Damage elsewhere in the directory does not hide what is there.
        match exact.or(similar) {
            Some(node) => Ok(Some(node)),
            None => outcome.map(|()| None),
        }
    }

    /// How many directories lie in one, `.` and `..` counted as if it had them.
    pub(super) fn subdirectories(&self, place: &Place) -> u32 {
        let mut count = 2;
        // What can be counted.
        let _ = self.each_set(place, &mut |entry| {
            count += u32::from(entry.kind() == NodeKind::Directory);
            ControlFlow::Continue(())
        });
        count
    }
}

/// A set that ends before its last record.
fn cut_off(set: &Awaited) -> GuestError {
    let expected = format!("{} records that belong together", set.count);
    corrupt("directory entry of an exFAT", set.at, expected, set.records.len())
}
