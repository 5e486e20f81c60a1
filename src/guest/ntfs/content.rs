//! The value of an attribute, resident or in clusters: found piece by piece, read in as few requests as it has runs.
//!
//! Runs are read from their record when they are needed and kept for a while; so are units that were decompressed. Bytes
//! behind the initialized length are zeros, whatever the clusters hold.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Ntfs;
use super::list::Place;
use super::lznt1;
use super::node::Node;
use super::record::{Body, Record, Reference, flags};
use super::runs::{self, Run};
use crate::disk::{Extent, ExtentKind};
use crate::guest::GuestError;
use crate::recent;
use crate::units::{ByteLen, GuestOffset};

/// Runs and decompressed units kept at most, each.
const CACHE_BYTES: u64 = 4 << 20;
/// Clusters that are compressed together, in bytes: Windows has 64 KiB.
const UNIT_BYTES_MAX: u64 = 1 << 20;

/// The value of an attribute.
pub(super) struct Content {
    pub len: u64,
    /// Bytes it takes of the volume.
    pub allocated: u64,
    pub flags: u16,
    /// Whose it is, for messages.
    pub at: GuestOffset,
    body: Value,
}

enum Value {
    Resident(Box<[u8]>),
    Clusters { initialized: u64, unit_bits: u8, pieces: Vec<Piece> },
}

/// A piece of an attribute: the clusters from `start` up to the next piece.
#[derive(Clone, Copy)]
struct Piece {
    start: u64,
    record: Reference,
    id: u16,
    kind: u32,
    base: Reference,
}

/// Names a piece, or with the number of a unit that unit.
type Key = (Reference, u16, u64);

/// What was read and may be needed again.
pub(super) struct Kept {
    runs: Cache<Key, Arc<[Run]>, ByLen>,
    units: Cache<Key, Arc<[u8]>, ByLen>,
}

#[derive(Clone)]
struct ByLen;

impl<T> Weighter<Key, Arc<[T]>> for ByLen {
    fn weight(&self, _: &Key, kept: &Arc<[T]>) -> u64 {
        64 + std::mem::size_of_val::<[T]>(kept) as u64
    }
}

impl Kept {
    pub fn new() -> Kept {
        Kept { runs: recent::weighed(1000, CACHE_BYTES, ByLen), units: recent::weighed(128, CACHE_BYTES, ByLen) }
    }
}

impl Ntfs {
    /// The attribute of a type and name; `None` if the node has none.
    pub(super) fn content(&self, node: &Node, kind: u32, name: &[u16]) -> Result<Option<Content>, GuestError> {
        let base = node.reference;
        let piece = |place: &Place| Piece { start: place.start, record: place.record, id: place.id, kind, base };
        let pieces: Vec<Piece> = node.pieces(kind, name).iter().map(piece).collect();
        let Some(first) = pieces.first() else { return Ok(None) };
        let record = self.record_of(node, first.record)?;
        let attribute = first.find(&record)?;
        let content = match &attribute.body {
            Body::Resident(range) => {
                let value = record.part(range);
                let len = value.len() as u64;
                // As `stat` has it: content in the record is something, or it would look like a hole.
                let allocated = len.next_multiple_of(512);
                let body = Value::Resident(value.into());
                Content { len, allocated, flags: attribute.flags, at: record.at, body }
            }
            Body::NonResident(extents) => {
                if extents.start != 0 {
                    return Err(missing_runs(record.at, 0));
                }
                let initialized = extents.initialized.min(extents.len);
                let body = Value::Clusters { initialized, unit_bits: extents.unit_bits, pieces };
                let (len, allocated) = (extents.len, extents.allocated);
                Content { len, allocated, flags: attribute.flags, at: record.at, body }
            }
        };
        Ok(Some(content))
    }

    /// A whole value that must not be longer than `limit`.
    pub(super) fn small_content(
        &self,
        node: &Node,
        kind: u32,
        field: &'static str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, GuestError> {
        let Some(content) = self.content(node, kind, &[])? else { return Ok(None) };
        if content.len > limit {
            let (expected, found) = (format!("at most {limit} bytes"), content.len.to_string());
            return Err(GuestError::Corrupt { field, at: content.at, expected, found });
        }
        let mut bytes = vec![0; usize::try_from(content.len).expect("a small limit")];
        self.read_content(&content, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Fills `buf` from byte `at`; returns how much there was.
    pub(super) fn read_content(&self, content: &Content, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        content.check_readable()?;
        let left = content.len.saturating_sub(at);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = &mut buf[..len];
        match &content.body {
            Value::Resident(value) => {
                // Not past the end, or `len` is 0.
                let at = usize::try_from(at).unwrap_or(usize::MAX).min(value.len());
                buf.copy_from_slice(&value[at..at + len]);
            }
            Value::Clusters { initialized, pieces, unit_bits } => {
                let unit_bits = content.compressed_in(*unit_bits, self)?;
                let stored = usize::try_from(initialized.saturating_sub(at)).map_or(len, |stored| stored.min(len));
                let (stored, beyond) = buf.split_at_mut(stored);
                beyond.fill(0);
                match unit_bits {
                    None => self.read_plain(content, pieces, at, stored)?,
                    Some(bits) => self.read_units(content, pieces, bits, at, stored)?,
                }
            }
        }
        Ok(len)
    }

    /// Fills all of `buf`, which lies in plain content, through the cache of metadata; returns where it begins on the volume.
    pub(super) fn read_content_kept(
        &self,
        content: &Content,
        at: u64,
        buf: &mut [u8],
    ) -> Result<GuestOffset, GuestError> {
        let Value::Clusters { pieces, .. } = &content.body else {
            self.read_content(content, at, buf)?;
            return Ok(content.at);
        };
        let mut first = None;
        let mut done = 0;
        while done < buf.len() {
            let position = at + done as u64;
            let inside = position & (self.volume.cluster_bytes() - 1);
            let cluster = position >> self.volume.cluster_bits;
            let run = self.run_at(content, pieces, cluster)?;
            let place = run.cluster.ok_or_else(|| missing_runs(content.at, cluster))?;
            let place = GuestOffset(self.volume.position(place).0 + inside);
            let bytes = (run.len << self.volume.cluster_bits) - inside;
            let end = usize::try_from(bytes).map_or(buf.len(), |bytes| bytes.min(buf.len() - done) + done);
            self.volume.read_metadata(place, &mut buf[done..end])?;
            first.get_or_insert(place);
            done = end;
        }
        Ok(first.unwrap_or(content.at))
    }

    fn read_plain(&self, content: &Content, pieces: &[Piece], at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        let mut done = 0;
        while done < buf.len() {
            let position = at + done as u64;
            let inside = position & (self.volume.cluster_bytes() - 1);
            let run = self.run_at(content, pieces, position >> self.volume.cluster_bits)?;
            let bytes = (run.len << self.volume.cluster_bits) - inside;
            let end = usize::try_from(bytes).map_or(buf.len(), |bytes| bytes.min(buf.len() - done) + done);
            let part = &mut buf[done..end];
            match run.cluster {
                Some(cluster) => self.volume.read(GuestOffset(self.volume.position(cluster).0 + inside), part)?,
                None => part.fill(0),
            }
            done = end;
        }
        Ok(())
    }

    fn read_units(
        &self,
        content: &Content,
        pieces: &[Piece],
        unit_bits: u32,
        at: u64,
        buf: &mut [u8],
    ) -> Result<(), GuestError> {
        let unit_bytes = self.volume.cluster_bytes() << unit_bits;
        let mut done = 0;
        while done < buf.len() {
            let position = at + done as u64;
            let (number, inside) = (position / unit_bytes, position % unit_bytes);
            let end = usize::try_from(unit_bytes - inside).map_or(buf.len(), |left| left.min(buf.len() - done) + done);
            let part = &mut buf[done..end];
            match self.unit_at(content, pieces, unit_bits, number)? {
                Unit::Hole => part.fill(0),
                Unit::Plain => self.read_plain(content, pieces, position, part)?,
                Unit::Compressed(runs) => {
                    let unit = self.unpacked(content, pieces, number, unit_bytes, &runs)?;
                    let inside = usize::try_from(inside).expect("units are small");
                    part.copy_from_slice(&unit[inside..inside + part.len()]);
                }
            }
            done = end;
        }
        Ok(())
    }

    /// What a unit is: clusters for all of it are plain data, clusters for its first part are compressed data.
    fn unit_at(&self, content: &Content, pieces: &[Piece], bits: u32, number: u64) -> Result<Unit, GuestError> {
        let (first, end) = (number << bits, (number + 1) << bits);
        let mut runs = Vec::new();
        let mut at = first;
        while at < end {
            let mut run = self.run_at(content, pieces, at)?;
            run.len = run.len.min(end - at);
            at = run.end();
            runs.push(run);
        }
        let stored = runs.iter().take_while(|run| run.cluster.is_some()).count();
        if runs[stored..].iter().any(|run| run.cluster.is_some()) {
            return Err(GuestError::Corrupt {
                field: "compressed unit of a file",
                at: content.at,
                expected: "its clusters before its hole".to_owned(),
                found: format!("a hole between clusters from {first}"),
            });
        }
        let clusters: u64 = runs[..stored].iter().map(|run| run.len).sum();
        runs.truncate(stored);
        Ok(match clusters {
            0 => Unit::Hole,
            all if all == end - first => Unit::Plain,
            _ => Unit::Compressed(runs),
        })
    }

    /// A unit's content.
    fn unpacked(
        &self,
        content: &Content,
        pieces: &[Piece],
        number: u64,
        unit_bytes: u64,
        runs: &[Run],
    ) -> Result<Arc<[u8]>, GuestError> {
        let first = pieces.first().expect("contents have pieces");
        let key = (first.record, first.id, number);
        if let Some(unit) = self.kept.units.get(&key) {
            return Ok(unit);
        }
        let len = |run: &Run| usize::try_from(run.len << self.volume.cluster_bits).expect("units are small");
        let mut stored = vec![0; runs.iter().map(len).sum()];
        let mut done = 0;
        for run in runs {
            let cluster = run.cluster.expect("no hole");
            self.volume.read(self.volume.position(cluster), &mut stored[done..done + len(run)])?;
            done += len(run);
        }
        let mut unit = vec![0; usize::try_from(unit_bytes).expect("units are small")];
        lznt1::unpack(&stored, &mut unit).map_err(|found| GuestError::Corrupt {
            field: "compressed unit of a file",
            at: runs.first().and_then(|run| run.cluster).map_or(content.at, |first| self.volume.position(first)),
            expected: "LZNT1".to_owned(),
            found: found.to_owned(),
        })?;
        let unit: Arc<[u8]> = unit.into();
        self.kept.units.insert(key, Arc::clone(&unit));
        Ok(unit)
    }

    /// The run from byte `at`; `None` at or past the end.
    pub(super) fn content_extent(&self, content: &Content, at: u64) -> Result<Option<Extent>, GuestError> {
        content.check_readable()?;
        let left = content.len.saturating_sub(at);
        if left == 0 {
            return Ok(None);
        }
        let (initialized, unit_bits, pieces) = match &content.body {
            Value::Resident(_) => return Ok(Some(Extent { kind: ExtentKind::Data, len: ByteLen(left) })),
            Value::Clusters { initialized, unit_bits, pieces } => (*initialized, *unit_bits, pieces),
        };
        let (hole, len) = match content.compressed_in(unit_bits, self)? {
            None => {
                let run = self.run_at(content, pieces, at >> self.volume.cluster_bits)?;
                let inside = at & (self.volume.cluster_bytes() - 1);
                (run.cluster.is_none(), (run.len << self.volume.cluster_bits) - inside)
            }
            Some(bits) => {
                let unit_bytes = self.volume.cluster_bytes() << bits;
                let run = self.run_at(content, pieces, (at / unit_bytes) << bits)?;
                // Whole units in one run are all the same; the walk over a hole must not be as long as the hole.
                match run.len >> bits {
                    0 => {
                        let unit = self.unit_at(content, pieces, bits, at / unit_bytes)?;
                        (matches!(unit, Unit::Hole), unit_bytes - at % unit_bytes)
                    }
                    units => (run.cluster.is_none(), units * unit_bytes - at % unit_bytes),
                }
            }
        };
        let len = len.min(left);
        let extent = match initialized.checked_sub(at) {
            _ if hole => Extent { kind: ExtentKind::Hole, len: ByteLen(len) },
            None | Some(0) => Extent { kind: ExtentKind::Zero, len: ByteLen(len) },
            Some(stored) => Extent { kind: ExtentKind::Data, len: ByteLen(len.min(stored)) },
        };
        Ok(Some(extent))
    }

    /// The rest of the run that has a cluster of the attribute.
    fn run_at(&self, content: &Content, pieces: &[Piece], cluster: u64) -> Result<Run, GuestError> {
        let index = pieces.partition_point(|piece| piece.start <= cluster);
        let missing = || missing_runs(content.at, cluster);
        let piece = pieces.get(index.wrapping_sub(1)).ok_or_else(missing)?;
        let key = (piece.record, piece.id, piece.start);
        let runs = match self.kept.runs.get(&key) {
            Some(runs) => runs,
            None => {
                let record = self.record(piece.record)?;
                let attribute = piece.find(&record)?;
                let Body::NonResident(extents) = &attribute.body else { return Err(missing()) };
                let pairs = record.part(&extents.runs);
                let runs: Arc<[Run]> = runs::read(pairs, piece.start, self.volume.clusters, record.at)?.into();
                self.kept.runs.insert(key, Arc::clone(&runs));
                runs
            }
        };
        let run = runs.get(runs.partition_point(|run| run.end() <= cluster)).ok_or_else(missing)?.from(cluster);
        // A piece ends where the next begins.
        let end = pieces.get(index).map_or(u64::MAX, |next| next.start);
        Ok(Run { len: run.len.min(end - cluster), ..run })
    }
}

/// What a compressed unit holds.
enum Unit {
    Hole,
    Plain,
    Compressed(Vec<Run>),
}

impl Content {
    fn check_readable(&self) -> Result<(), GuestError> {
        if self.flags & flags::ENCRYPTED != 0 {
            return Err(GuestError::Unsupported { feature: "reading what the guest encrypted (EFS)".to_owned() });
        }
        Ok(())
    }

    /// log2 of the clusters that are compressed together, if the content is compressed.
    fn compressed_in(&self, unit_bits: u8, ntfs: &Ntfs) -> Result<Option<u32>, GuestError> {
        let unsupported = |what: String| Err(GuestError::Unsupported { feature: what });
        match (self.flags & flags::COMPRESSION, u32::from(unit_bits)) {
            (0, _) | (1, 0) => Ok(None),
            (1, bits) if bits < 16 && ntfs.volume.cluster_bytes() << bits <= UNIT_BYTES_MAX => Ok(Some(bits)),
            (1, bits) => unsupported(format!("compression in units of 2^{bits} clusters")),
            (way, _) => unsupported(format!("compression of kind {way}")),
        }
    }

    /// Whether no cluster holds anything of it.
    pub fn is_all_hole(&self) -> bool {
        self.len > 0 && self.allocated == 0
    }
}

impl Piece {
    /// The piece in its record.
    fn find<'r>(&self, record: &'r Record) -> Result<&'r super::record::Attribute, GuestError> {
        let is_own = record.base == self.base || record.base.0 == 0 && self.record == self.base;
        let found = record.attributes.iter().find(|attribute| {
            let start = match &attribute.body {
                Body::Resident(_) => 0,
                Body::NonResident(extents) => extents.start,
            };
            attribute.kind == self.kind && attribute.id == self.id && start == self.start
        });
        found.filter(|_| is_own).ok_or_else(|| GuestError::Corrupt {
            field: "file record",
            at: record.at,
            expected: format!("attribute {:#x} with id {} of file {}", self.kind, self.id, self.base.number()),
            found: "none".to_owned(),
        })
    }
}

fn missing_runs(at: GuestOffset, cluster: u64) -> GuestError {
    let (expected, found) = (format!("a run with cluster {cluster}"), "none".to_owned());
    GuestError::Corrupt { field: "runs of a file", at, expected, found }
}
