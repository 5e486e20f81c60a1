//! One state of a qcow2 file as a [`Disk`]: what this file alone stores, its holes meaning "ask the backing file".

use std::sync::Arc;

use super::compressed;
use super::layout::Compression;
use super::tables::{Geometry, RunKind, Tables};
use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::formats::cache::SlotCache;
use crate::formats::file::ImageFile;
use crate::units::{ByteLen, FileOffset, GuestOffset};

/// Decompressed clusters kept: reads smaller than a cluster come in order.
const CLUSTERS_CACHED: usize = 4;
/// Absent tables that one answer of `extent_at` looks at, so that asking is cheap however sparse the disk.
const ABSENT_TABLES_AHEAD: u64 = 4096;

/// The active state, or a snapshot's.
pub(super) struct Qcow2Disk {
    /// Holds the clusters: the image itself, or its data file.
    data: Arc<ImageFile>,
    /// Holds the tables.
    image: Arc<ImageFile>,
    geometry: Geometry,
    compression: Compression,
    tables: Tables,
    decompressed: SlotCache<Vec<u8>>,
}

impl Qcow2Disk {
    /// The state that `tables` map: `image` holds the tables, `data` the clusters.
    pub fn new(
        (image, data): (Arc<ImageFile>, Arc<ImageFile>),
        geometry: Geometry,
        compression: Compression,
        tables: Tables,
    ) -> Qcow2Disk {
        Qcow2Disk { data, image, geometry, compression, tables, decompressed: SlotCache::new(CLUSTERS_CACHED) }
    }

    fn fault(&self, kind: RunKind) -> Option<DiskError> {
        match kind {
            RunKind::Invalid(at, value, expected) => {
                Some(self.image.corrupt("L2 table entry", at, expected, format_args!("{value:#x}")))
            }
            RunKind::PastEnd(at, len) => Some(self.data.truncated("cluster", at, len)),
            RunKind::Hole | RunKind::Zero | RunKind::Stored(_) | RunKind::Compressed(..) => None,
        }
    }

    /// Reads a piece of the compressed cluster around guest offset `at`; `buf` does not leave it.
    fn read_compressed(&self, (place, len): (FileOffset, u64), at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let cluster = self.geometry.cluster();
        if buf.len() as u64 == cluster {
            return compressed::read_cluster(&self.data, self.compression, place, len, buf);
        }
        let whole = self.decompressed.get_or(at / cluster, || {
            let mut whole = vec![0; usize::try_from(cluster).expect("a cluster has at most 2 MiB")];
            compressed::read_cluster(&self.data, self.compression, place, len, &mut whole)?;
            Ok(whole)
        })?;
        let from = usize::try_from(at % cluster).expect("below the cluster size");
        buf.copy_from_slice(&whole[from..from + buf.len()]);
        Ok(())
    }
}

impl Disk for Qcow2Disk {
    fn size(&self) -> ByteLen {
        ByteLen(self.geometry.size)
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        let mut at = at.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let answer = self.tables.answer_at(at)?;
            let len = rest.len().min(usize::try_from(answer.len).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            match answer.kind {
                RunKind::Hole | RunKind::Zero => now.fill(0),
                RunKind::Stored(from) => self.data.read("cluster", FileOffset(from.0 + answer.skipped), now)?,
                RunKind::Compressed(place, len) => self.read_compressed((place, len), at, now)?,
                kind => return Err(self.fault(kind).expect("all other kinds are faults")),
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        let left = check_inside(self.size(), at)?.0;
        let first = self.tables.answer_at(at.0)?;
        if let Some(fault) = self.fault(first.kind) {
            return Err(fault);
        }
        let kind = extent_kind(first.kind);
        let (span, slice_end) = (self.geometry.table_span(), self.tables.slice_end(at.0));
        let mut len = first.len;
        // On to the end of this slice, and over absent tables behind it: both without further I/O.
        while len < left {
            let next = at.0 + len;
            let is_near = next < slice_end
                || (next / span - at.0 / span < ABSENT_TABLES_AHEAD && self.tables.l2_at(next)?.is_none());
            if !is_near {
                break;
            }
            let answer = self.tables.answer_at(next)?;
            if self.fault(answer.kind).is_some() || extent_kind(answer.kind) != kind {
                break;
            }
            len += answer.len;
        }
        Ok(Extent { kind, len: ByteLen(len) })
    }
}

fn extent_kind(kind: RunKind) -> ExtentKind {
    match kind {
        RunKind::Hole => ExtentKind::Hole,
        RunKind::Zero => ExtentKind::Zero,
        RunKind::Stored(_) | RunKind::Compressed(..) | RunKind::Invalid(..) | RunKind::PastEnd(..) => ExtentKind::Data,
    }
}
