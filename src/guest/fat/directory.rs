//! Entries of a directory.
//!
//! A directory ends with its first record that was never used, as the specification has it (Linux looks at what may lie
//! behind it). A long name that is not whole, or is not its short name's, or is none that a path could have, is not used:
//! the short name stands in, as it did for programs that knew no long ones.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::boot::Root;
use super::entry::{self, Meaning, ShortEntry};
use super::name::{self, LongName};
use super::tree::Fat;
use crate::guest::GuestError;
use crate::guest::clusters::chain::Chain;
use crate::guest::clusters::content::{Flow, Record, Records};
use crate::guest::clusters::corrupt;
use crate::guest::clusters::name::{self as clusters_name, Distinct};
use crate::guest::tree::NodeKind;

/// Bytes of a directory at most: 65,536 records.
const DIRECTORY_BYTES_MAX: u64 = 2 << 20;
/// Directories above one, as far as `..` is followed: more than a path of Windows has.
const ANCESTORS_MAX: usize = 1000;

/// Where a directory's records lie.
pub(super) enum Place {
    Fixed { at: u64, len: u64 },
    Chain { first: u32, chain: Arc<Chain>, len: u64 },
}

/// An entry with a name of its own.
pub(super) struct Found<'a> {
    /// Where its record lies.
    pub at: u64,
    pub name: &'a [u8],
    pub short: &'a ShortEntry,
}

/// Is told where an entry's record lies, what it says, and its long name.
type VisitShort<'v> = dyn FnMut(u64, &ShortEntry, Option<Vec<u8>>) -> Flow + 'v;

/// What entries of one directory are compared with.
struct Sieve {
    names: Distinct,
    /// First clusters of the directory and of those it lies in, once they are needed.
    above: Option<HashSet<u32>>,
}

impl Place {
    fn records(&self) -> Records<'_> {
        match self {
            Place::Fixed { at, len } => Records::Fixed { at: *at, len: *len },
            Place::Chain { chain, len, .. } => Records::Chain { chain, len: *len },
        }
    }

    /// Bytes, whole clusters.
    pub fn bytes(&self) -> u64 {
        match self {
            Place::Fixed { len, .. } | Place::Chain { len, .. } => *len,
        }
    }

    fn first_cluster(&self) -> Option<u32> {
        match self {
            Place::Fixed { .. } => None,
            Place::Chain { first, .. } => Some(*first),
        }
    }
}

impl Fat {
    /// Where the root directory lies.
    pub(super) fn root_place(&self) -> Result<Place, GuestError> {
        match self.geometry.root {
            Root::Fixed { at, len } => Ok(Place::Fixed { at, len }),
            Root::Chain(first) => self.chained(first),
        }
    }

    /// Where the directory of an entry at `at` lies.
    pub(super) fn place(&self, at: u64, entry: &ShortEntry) -> Result<Place, GuestError> {
        let first = entry.first_cluster(self.geometry.kind);
        self.clusters.check_first("first cluster of a directory", at, first)?;
        self.chained(first)
    }

    fn chained(&self, first: u32) -> Result<Place, GuestError> {
        let clusters = &self.clusters;
        let most = u32::try_from(clusters.clusters_for(DIRECTORY_BYTES_MAX)).expect("2 MiB in clusters of 512 bytes");
        let chain = clusters.chain(first, most + 1)?;
        let found = u64::from(chain.len()) * clusters.heap.cluster_bytes();
        if chain.len() > most {
            let expected = format!("at most {DIRECTORY_BYTES_MAX} bytes");
            return Err(corrupt("length of a directory", clusters.heap.position(first), expected, "more"));
        }
        Ok(Place::Chain { first, chain, len: found })
    }

    /// Tells `visit` every record that is an entry, with its long name if it has one, until it breaks.
    fn each_short(&self, place: &Place, visit: &mut VisitShort<'_>) -> Result<(), GuestError> {
        let mut long = LongName::default();
        self.clusters.each_record(&place.records(), &mut |at, record| {
            match entry::meaning(record) {
                Meaning::End => return Ok(ControlFlow::Break(())),
                Meaning::LongName => long.push(record),
                Meaning::Deleted | Meaning::Volume | Meaning::Dots => long.clear(),
                Meaning::Entry => {
                    let short = entry::short(record);
                    let name = long.take(&short);
                    return visit(at, &short, name);
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Tells `visit` every entry of a directory until it breaks. Entries that cannot be are said as an error after all others.
    pub(super) fn each_entry(
        &self,
        place: &Place,
        visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        let mut damage = None;
        let mut sieve = Sieve { names: Distinct::default(), above: None };
        let mut stopped = false;
        self.each_short(place, &mut |at, short, long| {
            let name = long.unwrap_or_else(|| name::short(short));
            if let Some(wrong) = self.wrong_with(&Found { at, name: &name, short }, place, &mut sieve) {
                damage.get_or_insert(wrong);
                return Ok(ControlFlow::Continue(()));
            }
            let flow = visit(Found { at, name: &name, short });
            stopped = flow.is_break();
            Ok(flow)
        })?;
        damage.filter(|_| !stopped).map_or(Ok(()), Err)
    }

    /// Why there can be no such entry in this directory.
    fn wrong_with(&self, found: &Found<'_>, place: &Place, sieve: &mut Sieve) -> Option<GuestError> {
        const FIELD: &str = "name of a directory's entry";
        let shown = String::from_utf8_lossy(found.name);
        if !clusters_name::is_sound(found.name) {
            return Some(corrupt(FIELD, found.at, "a name without / and NUL", format!("{shown:?}")));
        }
        if !sieve.names.insert(found.name) {
            return Some(corrupt(FIELD, found.at, "each name once", format!("{shown} again")));
        }
        if found.short.kind() == NodeKind::Directory {
            let first = found.short.first_cluster(self.geometry.kind);
            if sieve.above.get_or_insert_with(|| self.ancestors(place)).contains(&first) {
                let expected = format!("clusters of its own for the directory {shown}");
                let found_first = format!("cluster {first}, of a directory that it lies in");
                return Some(corrupt("first cluster of a directory", found.at, expected, found_first));
            }
        }
        None
    }

    /// First clusters of a directory and of those it lies in, as far as `..` leads to them.
    fn ancestors(&self, place: &Place) -> HashSet<u32> {
        let mut above = HashSet::new();
        if let Root::Chain(root) = self.geometry.root {
            above.insert(root);
        }
        let mut next = place.first_cluster();
        while let Some(cluster) = next.filter(|cluster| above.len() < ANCESTORS_MAX && above.insert(*cluster)) {
            next = self.parent_of(cluster);
        }
        above
    }

    /// The first cluster of the directory above, as the second record says; `None` for the root, or if it says nothing.
    fn parent_of(&self, cluster: u32) -> Option<u32> {
        let mut records = [[0; 32]; 2];
        self.clusters.volume.metadata(self.clusters.heap.position(cluster), records.as_flattened_mut()).ok()?;
        let dots: &Record = &records[1];
        let parent = entry::short(dots).first_cluster(self.geometry.kind);
        (entry::meaning(dots) == Meaning::Dots && self.clusters.heap.has(parent)).then_some(parent)
    }

    /// The entry of that name: as it is written, or else but for its case, or by its short name.
    pub(super) fn find(&self, place: &Place, wanted: &[u8]) -> Result<Option<u64>, GuestError> {
        let (mut exact, mut similar, mut alias) = (None, None, None);
        let outcome = self.each_entry(place, &mut |found| {
            if found.name == wanted {
                exact = Some(found.at);
                return ControlFlow::Break(());
            }
            if similar.is_none() && name::same_but_for_case(found.name, wanted) {
                similar = Some(found.at);
            }
            if alias.is_none() && name::same_but_for_case(&name::short(found.short), wanted) {
                alias = Some(found.at);
            }
            ControlFlow::Continue(())
        });
        // Damage elsewhere in the directory does not hide what is there.
        match exact.or(similar).or(alias) {
            Some(at) => Ok(Some(at)),
            None => outcome.map(|()| None),
        }
    }

    /// How many directories lie in one, its own `.` and `..` among them; the root's count as if it had them.
    pub(super) fn subdirectories(&self, place: &Place) -> u32 {
        let mut count = 2;
        // What can be counted.
        let _ = self.each_short(place, &mut |_, short, _| {
            count += u32::from(short.kind() == NodeKind::Directory);
            Ok(ControlFlow::Continue(()))
        });
        count
    }

    /// The label that the root directory holds.
    pub(super) fn root_label(&self) -> Option<[u8; 11]> {
        let place = self.root_place().ok()?;
        let mut label = None;
        let outcome = self.clusters.each_record(&place.records(), &mut |_, record| {
            match entry::meaning(record) {
                Meaning::End => return Ok(ControlFlow::Break(())),
                Meaning::Volume if entry::short(record).kind() == NodeKind::File => {
                    label = Some(entry::short(record).name);
                    return Ok(ControlFlow::Break(()));
                }
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        });
        outcome.ok().and(label)
    }
}
