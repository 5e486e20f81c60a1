//! Internal snapshots: frozen states of the disk inside the same file, each with an L1 table of its own.
//!
//! Source: QEMU docs/interop/qcow2.txt, "Snapshots"; the limits are QEMU's.

use super::header::{self, RawSnapshot, SNAPSHOT_BYTES};
use super::layout::{Layout, check_l1};
use super::tables::Geometry;
use crate::formats::ImageError;
use crate::formats::file::ImageFile;
use crate::units::{ByteLen, FileOffset, SECTOR_BYTES};

/// Most snapshots of an image.
const SNAPSHOTS_MAX: u32 = 65_536;
/// Longest snapshot table.
const TABLE_BYTES_MAX: u64 = 16 << 20;
/// Longest extra data of an entry.
const EXTRA_BYTES_MAX: u32 = 1024;
/// Bytes of extra data that tell the length of the machine state and the size of the disk.
const EXTRA_BYTES_USED: usize = 16;

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalSnapshot {
    /// Unique in its image; QEMU counts 1, 2, 3…
    pub id: String,
    /// As its maker called it; need not be unique.
    pub name: String,
    /// When it was made, seconds since 1970.
    pub made_at: u32,
    /// Size of the disk at that time.
    pub disk_size: ByteLen,
    /// Length of the machine's state (memory and devices) that was saved with it; 0 if none was.
    pub machine_state: ByteLen,
}

/// A snapshot whose tables may be opened.
pub(super) struct Snapshot {
    pub info: InternalSnapshot,
    pub geometry: Geometry,
    pub l1_at: FileOffset,
}

/// Reads the snapshot table; each entry is checked as far as a header is.
pub(super) fn read(file: &ImageFile, layout: &Layout) -> Result<Vec<Snapshot>, ImageError> {
    let (count, table_at) = layout.snapshots;
    if count > SNAPSHOTS_MAX {
        let expected = format!("at most {SNAPSHOTS_MAX}");
        return Err(file.corrupt("number of snapshots", FileOffset(60), expected, count).into());
    }
    if count > 0 && !table_at.0.is_multiple_of(layout.geometry.cluster()) {
        let expected = format!("a multiple of the cluster size of {} bytes", layout.geometry.cluster());
        return Err(file.corrupt("snapshot table offset", FileOffset(64), expected, table_at).into());
    }
    let mut reader = Reader { file, table_at, at: table_at };
    let mut snapshots = Vec::new();
    for _ in 0..count {
        snapshots.push(reader.next(layout)?);
    }
    Ok(snapshots)
}

/// Goes through the table entry by entry.
struct Reader<'a> {
    file: &'a ImageFile,
    table_at: FileOffset,
    at: FileOffset,
}

impl Reader<'_> {
    fn next(&mut self, layout: &Layout) -> Result<Snapshot, ImageError> {
        let start = self.at;
        let fixed = self.take(SNAPSHOT_BYTES)?;
        let (_, raw) = header::snapshot(&fixed).expect("as many bytes as an entry has");
        if raw.extra_len > EXTRA_BYTES_MAX {
            let expected = format!("at most {EXTRA_BYTES_MAX} bytes");
            let at = FileOffset(start.0 + 36);
            return Err(self.file.corrupt("snapshot extra data length", at, expected, raw.extra_len).into());
        }
        let extra = self.take(raw.extra_len.into())?;
        let id = self.take(raw.id_len.into())?;
        let name = self.take(raw.name_len.into())?;
        let used = self.at.0 - self.table_at.0;
        self.at = FileOffset(self.table_at.0 + used.next_multiple_of(8)); // far below 2^64 by the limit on the table
        self.validate(layout, start, &raw, &extra, [&id, &name])
    }

    fn take(&mut self, len: u64) -> Result<Vec<u8>, ImageError> {
        let used = self.at.0 - self.table_at.0;
        if used + len > TABLE_BYTES_MAX {
            let expected = format!("at most {TABLE_BYTES_MAX} bytes");
            return Err(self.file.corrupt("snapshot table", self.table_at, expected, "more").into());
        }
        let bytes = self.file.read_vec("snapshot table", self.at, len)?;
        self.at = FileOffset(self.at.0 + len); // inside the file
        Ok(bytes)
    }

    fn validate(
        &self,
        layout: &Layout,
        start: FileOffset,
        raw: &RawSnapshot,
        extra: &[u8],
        [id, name]: [&[u8]; 2],
    ) -> Result<Snapshot, ImageError> {
        let file = self.file;
        let field = |name, at: u64, expected: &str, found: String| -> ImageError {
            file.corrupt(name, FileOffset(start.0 + at), expected, found).into()
        };
        let (machine_state, disk_size) = match extra.get(..EXTRA_BYTES_USED) {
            Some(extra) => header::snapshot_extra(extra).expect("two numbers fit").1,
            // From before disks could be resized under snapshots.
            None => (raw.vm_state_len.into(), layout.geometry.size),
        };
        let size = match disk_size.checked_next_multiple_of(SECTOR_BYTES) {
            Some(size) if size <= i64::MAX.unsigned_abs() => size,
            _ => return Err(field("disk size of the snapshot", 48, "at most 2^63 bytes", disk_size.to_string())),
        };
        let geometry = Geometry { size, ..layout.geometry };
        let size_field = ("disk size of the snapshot", 48);
        check_l1(&field, geometry, size_field, (raw.l1_entries, 8), (raw.l1_at, 0))?;
        let info = InternalSnapshot {
            id: String::from_utf8_lossy(id).into_owned(),
            name: String::from_utf8_lossy(name).into_owned(),
            made_at: raw.seconds,
            disk_size: ByteLen(size),
            machine_state: ByteLen(machine_state),
        };
        Ok(Snapshot { info, geometry, l1_at: FileOffset(raw.l1_at) })
    }
}
