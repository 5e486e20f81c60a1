//! The bytes of files. Plain extents go into the caller's buffer in one read for every contiguous run; compressed ones are
//! unpacked whole and kept for a while, since the next read often wants the rest of them. Every sector that has a
//! checksum is proven by it, and read from another copy if there is one that is right.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::data_checksums;
use super::extents::{Packed, Run, Runs, Stored};
use super::inode::Inode;
use super::superblock::Root;
use super::volume::{Volume, first_sound};
use crate::guest::GuestError;
use crate::recent;

/// Unpacked extents that are kept, at most 128 KiB each.
const UNPACKED_KEPT: usize = 64;
/// Reads up to this length that do not end with sectors are done in one piece, with what is around them.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

/// What reading content needs beside the volume.
pub(crate) struct Content {
    /// The tree of checksums; volumes without any content may lack it.
    checksums: Option<Root>,
    unpacked: Cache<Packed, Arc<Vec<u8>>>,
}

/// A run of plain bytes that was found but not yet read.
struct Pending {
    logical: u64,
    bytes: usize,
    item_at: u64,
}

impl Content {
    pub fn new(checksums: Option<Root>) -> Content {
        Content { checksums, unpacked: recent::entries(UNPACKED_KEPT) }
    }

    /// Fills `buf` from byte `at` of a file; all of it is below the file's size.
    pub fn read(&self, volume: &Volume, inode: &Inode, at: u64, mut buf: &mut [u8]) -> Result<(), GuestError> {
        let checksums = self.checksums.as_ref().filter(|_| inode.has_checksums);
        let mut runs = Runs::new(volume, inode, at, at + buf.len() as u64)?;
        let mut pending: Option<Pending> = None;
        while let Some(Run { bytes, what, item_at }) = runs.next()? {
            let bytes = usize::try_from(bytes).expect("a run is not longer than the buffer");
            // Neighbours on the volume that are several extents become one read.
            if let (Stored::At(logical), Some(before)) = (&what, &mut pending)
                && before.logical + before.bytes as u64 == *logical
            {
                before.bytes += bytes;
                continue;
            }
            if let Some(before) = pending.take() {
                buf = before.read(volume, checksums, buf)?;
            }
            if let Stored::At(logical) = what {
                pending = Some(Pending { logical, bytes, item_at });
                continue;
            }
            let (now, rest) = buf.split_at_mut(bytes);
            match what {
                Stored::Inline { bytes, skip } => copy_from(&bytes, skip, now),
                Stored::Packed { extent, skip } => {
                    copy_from(&self.unpack(volume, checksums, extent, item_at)?, skip, now);
                }
                Stored::Hole | Stored::Unwritten | Stored::At(_) => now.fill(0),
            }
            buf = rest;
        }
        if let Some(before) = pending {
            before.read(volume, checksums, buf)?;
        }
        Ok(())
    }

    fn unpack(
        &self,
        volume: &Volume,
        checksums: Option<&Root>,
        extent: Packed,
        item_at: u64,
    ) -> Result<Arc<Vec<u8>>, GuestError> {
        if let Some(bytes) = self.unpacked.get(&extent) {
            return Ok(bytes);
        }
        let mut stored = vec![0; usize::try_from(extent.stored_bytes).expect("at most 128 KiB")];
        read_sectors(volume, checksums, extent.logical, item_at, &mut stored)?;
        let at = volume.place(extent.logical, item_at)?.copies[0];
        let len = usize::try_from(extent.bytes).expect("at most 128 KiB");
        let bytes = Arc::new(extent.compression.unpack(&stored, len, &volume.superblock, at)?);
        self.unpacked.insert(extent, Arc::clone(&bytes));
        Ok(bytes)
    }
}

/// Fills `buf` with `bytes` from the `skip`th on, then zeros.
fn copy_from(bytes: &[u8], skip: u64, buf: &mut [u8]) {
    let there = usize::try_from(skip).ok().and_then(|skip| bytes.get(skip..)).unwrap_or_default();
    let len = there.len().min(buf.len());
    buf[..len].copy_from_slice(&there[..len]);
    buf[len..].fill(0);
}

impl Pending {
    /// Reads it into the start of `buf`; returns the rest.
    fn read<'b>(
        &self,
        volume: &Volume,
        checksums: Option<&Root>,
        buf: &'b mut [u8],
    ) -> Result<&'b mut [u8], GuestError> {
        let (now, rest) = buf.split_at_mut(self.bytes);
        if checksums.is_some() {
            self.read_around(volume, checksums, now)?;
        } else {
            read_sectors(volume, None, self.logical, self.item_at, now)?;
        }
        Ok(rest)
    }

    /// Reads with whole sectors, which alone have checksums. Extents are whole sectors, so what is around is theirs.
    fn read_around(&self, volume: &Volume, checksums: Option<&Root>, buf: &mut [u8]) -> Result<(), GuestError> {
        let sector = usize::try_from(volume.superblock.sector_bytes).expect("at most 64 KiB");
        let before = usize::try_from(self.logical % u64::from(volume.superblock.sector_bytes)).expect("below a sector");
        let read_some = |logical: u64, skip: usize, buf: &mut [u8]| -> Result<(), GuestError> {
            let mut scratch = vec![0; (skip + buf.len()).next_multiple_of(sector)];
            read_sectors(volume, checksums, logical - skip as u64, self.item_at, &mut scratch)?;
            buf.copy_from_slice(&scratch[skip..skip + buf.len()]);
            Ok(())
        };
        let whole = before == 0 && buf.len().is_multiple_of(sector);
        if !whole && buf.len() <= SCRATCH_BYTES_MAX {
            return read_some(self.logical, before, buf);
        }
        let (head, rest) = buf.split_at_mut((sector - before) % sector);
        let (middle, tail) = rest.split_at_mut(rest.len() / sector * sector);
        let middle_at = self.logical + head.len() as u64;
        if !head.is_empty() {
            read_some(self.logical, before, head)?;
        }
        read_sectors(volume, checksums, middle_at, self.item_at, middle)?;
        if !tail.is_empty() {
            read_some(middle_at + middle.len() as u64, 0, tail)?;
        }
        Ok(())
    }
}

/// Fills `buf` from a logical address. If there are checksums, both are whole sectors.
fn read_sectors(
    volume: &Volume,
    checksums: Option<&Root>,
    mut logical: u64,
    item_at: u64,
    mut buf: &mut [u8],
) -> Result<(), GuestError> {
    let sector_bytes = usize::try_from(volume.superblock.sector_bytes).expect("at most 64 KiB");
    while !buf.is_empty() {
        let place = volume.place(logical, item_at)?;
        let len = usize::try_from(place.left).unwrap_or(usize::MAX).min(buf.len());
        let (now, rest) = buf.split_at_mut(len);
        first_sound(&place.copies, |at| volume.read(at, now))?;
        let wrong = match checksums {
            Some(root) => data_checksums::wrong(volume, root, logical, now)?,
            None => Vec::new(),
        };
        for wrong in wrong {
            let sector = &mut now[wrong.offset..][..sector_bytes];
            let found = volume.superblock.checksum.of(sector);
            first_sound(&place.copies, |at| {
                let at = at + wrong.offset as u64;
                volume.read(at, sector)?;
                let sum = volume.superblock.checksum.of(sector);
                if sum.bytes() == wrong.expected { Ok(()) } else { Err(wrong.error(at, found)) }
            })?;
        }
        logical += len as u64;
        buf = rest;
    }
    Ok(())
}
