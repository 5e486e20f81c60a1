//! The log's blocks: a ring, written round and round. Every block carries its cycle, so the newest record ends where the
//! cycle drops; blocks around that place may be torn, for several records are under way at once.

use super::record::{Header, MAGIC, Record, header_at};
use super::transaction::is_unmount;
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::guest::xfs::geometry::Geometry;
use crate::guest::xfs::{corrupt, unsupported};
use crate::units::GuestOffset;

/// Bytes of a block of the log, whatever the filesystem's.
pub(super) const BLOCK_BYTES: u64 = 512;
/// Blocks before the newest record's end that may be torn: eight buffers of at most 256 KiB, with a record before them.
const UNSURE_BLOCKS: u64 = 9 * (512 + 8);
/// Blocks that are looked at first: a log that was closed ends with a short record.
const CLOSED_BLOCKS: u64 = 64;

/// The log of a volume.
pub(super) struct Ring<'a> {
    disk: &'a dyn Disk,
    geometry: &'a Geometry,
    at: u64,
    blocks: u64,
}

/// How the log ends.
pub(super) enum Newest {
    /// Nothing is to be replayed.
    Closed,
    /// This is the newest record.
    Record(Header),
}

impl<'a> Ring<'a> {
    /// The log from that block of the filesystem.
    pub fn new(disk: &'a dyn Disk, geometry: &'a Geometry, start: u64) -> Result<Ring<'a>, GuestError> {
        let place = geometry.block_place(start, geometry.log_blocks).filter(|_| geometry.log_blocks > 0);
        let Some(at) = place else {
            let found = format!("{} blocks from {start}", geometry.log_blocks);
            return Err(corrupt("log", 48, "blocks inside an allocation group", found));
        };
        // At least one block of the filesystem has at least one of the log.
        let blocks = (geometry.log_blocks << geometry.block_log) / BLOCK_BYTES;
        Ok(Ring { disk, geometry, at, blocks })
    }

    /// `count` blocks from block `from`, which is below the end; they may go on at the start.
    fn read(&self, from: u64, count: u64) -> Result<Vec<u8>, GuestError> {
        let bytes = |blocks: u64| usize::try_from(blocks * BLOCK_BYTES).expect("bounded by the callers");
        let mut all = vec![0; bytes(count)];
        let (first, rest) = all.split_at_mut(bytes(count.min(self.blocks - from)));
        self.disk.read_at(GuestOffset(self.at + from * BLOCK_BYTES), first)?;
        self.disk.read_at(GuestOffset(self.at), rest)?;
        Ok(all)
    }

    fn cycle(&self, block: u64) -> Result<u32, GuestError> {
        let bytes = self.read(block, 1)?;
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Ok(if word(0) == MAGIC { word(4) } else { word(0) })
    }

    /// The first block that is not of the newest cycle, and how many blocks before it were ever written.
    fn head(&self) -> Result<(u64, u64), GuestError> {
        let (first, last) = (self.cycle(0)?, self.cycle(self.blocks - 1)?);
        if first == last {
            return Ok((if first == 0 { 0 } else { self.blocks }, if first == 0 { 0 } else { self.blocks }));
        }
        let (mut newer, mut older) = (0, self.blocks - 1);
        while older - newer > 1 {
            let middle = newer + (older - newer) / 2;
            if self.cycle(middle)? == last {
                older = middle;
            } else {
                newer = middle;
            }
        }
        Ok((older, if last == 0 { older } else { self.blocks }))
    }

    /// Finds the newest record that is whole, and all before it.
    pub fn newest(&self) -> Result<Newest, GuestError> {
        let (head, written) = self.head()?;
        if written == 0 {
            return Ok(Newest::Closed); // never used
        }
        let closed = self.newest_in(head, written.min(CLOSED_BLOCKS))?;
        if let Some((newest, true)) = closed
            && self.is_closed_by(&newest)?
        {
            return Ok(Newest::Closed);
        }
        match self.newest_in(head, written.min(UNSURE_BLOCKS))? {
            Some((newest, _)) if self.is_closed_by(&newest)? => Ok(Newest::Closed),
            Some((newest, _)) => Ok(Newest::Record(newest)),
            None => Err(corrupt("log", self.at, "a record before its end", "none that is whole")),
        }
    }

    /// The newest whole record of the `blocks` blocks before `head`, and whether it ends there.
    fn newest_in(&self, head: u64, blocks: u64) -> Result<Option<(Header, bool)>, GuestError> {
        let from = (head + self.blocks - blocks) % self.blocks;
        let bytes = self.read(from, blocks)?;
        let block_bytes = usize::try_from(BLOCK_BYTES).expect("512");
        let mut newest = None;
        let mut next = None;
        let headers = bytes.chunks(block_bytes).enumerate().filter_map(|(index, block)| {
            let index = index as u64;
            header_at(block, (from + index) % self.blocks).map(|header| (index, header))
        });
        for (index, header) in headers {
            // A gap: what comes after it was never promised.
            if next.is_some_and(|next| next != index) {
                break;
            }
            let end = index + header.blocks;
            let start = usize::try_from(index).expect("inside the bytes") * block_bytes;
            let whole = usize::try_from(end).ok().and_then(|end| bytes.get(start..end * block_bytes));
            let Some(Ok(_)) = whole.map(|bytes| header.unpack(bytes, self.geometry, self.at)) else { break };
            newest = Some((header, end == blocks));
            next = Some(end);
        }
        Ok(newest)
    }

    fn is_closed_by(&self, header: &Header) -> Result<bool, GuestError> {
        Ok(is_unmount(&self.record(header)?))
    }

    fn record(&self, header: &Header) -> Result<Record, GuestError> {
        let number = header.raw.sequence & u64::from(u32::MAX);
        let bytes = self.read(number, header.blocks)?;
        header.unpack(&bytes, self.geometry, self.at)
    }

    /// All records from the oldest that may be needed to the newest, if they are no more than that many bytes.
    pub fn records_to(
        &self,
        newest: &Header,
        bytes_max: u64,
    ) -> Result<impl Iterator<Item = Result<Record, GuestError>>, GuestError> {
        let (first, last) = (newest.raw.tail & u64::from(u32::MAX), newest.raw.sequence & u64::from(u32::MAX));
        if first >= self.blocks || newest.blocks > self.blocks {
            let found = format!("block {first}");
            return Err(corrupt("tail of the log", self.at, format!("a block below {}", self.blocks), found));
        }
        let active = (last + self.blocks - first) % self.blocks + newest.blocks;
        if active > self.blocks || active * BLOCK_BYTES > bytes_max {
            return Err(unsupported(format!("replaying {} bytes of log", active * BLOCK_BYTES)));
        }
        let mut done = 0;
        Ok(std::iter::from_fn(move || {
            (done < active).then(|| {
                let number = (first + done) % self.blocks;
                let header = header_at(&self.read(number, 1)?, number).filter(|header| header.blocks <= active - done);
                // One failure is the last item.
                let Some(header) = header else {
                    done = active;
                    return Err(corrupt("log", self.at, "a record", format!("none in block {number}")));
                };
                done += header.blocks;
                self.record(&header).inspect_err(|_| done = active)
            })
        }))
    }
}
