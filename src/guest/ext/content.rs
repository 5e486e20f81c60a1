//! What a file holds: runs of blocks, or data inside the inode.

use super::Ext;
use super::inode::{Inode, MAP_BYTES, flags};
use super::{extents, indirect};
use crate::disk::{Extent, ExtentKind};
use crate::guest::GuestError;
use crate::units::{ByteLen, GuestOffset};

/// A run of a file's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub kind: RunKind,
    /// Blocks, at least 1.
    pub len: u64,
}

/// What a run of a file's blocks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunKind {
    /// Consecutive blocks of the volume from this one, checked to be inside.
    Data(u64),
    /// Allocated, never written: zeros.
    Unwritten,
    /// Nothing.
    Hole,
}

impl Ext {
    /// The run of a file's blocks that begins with `block`; may go on beyond the file's end.
    pub(super) fn run_at(&self, inode: &Inode, block: u64) -> Result<Run, GuestError> {
        if inode.has(flags::EXTENTS) {
            extents::run_at(&self.volume, inode, self.superblock.has_checksums(), block)
        } else {
            indirect::run_at(&self.volume, inode, block)
        }
    }

    /// Refuses what only a key could read.
    pub(super) fn check_plain(&self, inode: &Inode) -> Result<(), GuestError> {
        if inode.has(flags::ENCRYPT) {
            return Err(GuestError::Unsupported { feature: "reading what the guest encrypted (fscrypt)".to_owned() });
        }
        Ok(())
    }

    /// Fills `buf` with content from byte `at`; returns how much there was.
    pub(super) fn read_content(&self, inode: &Inode, at: u64, buf: &mut [u8]) -> Result<usize, GuestError> {
        let left = inode.size.saturating_sub(at);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = &mut buf[..len];
        if inode.has(flags::INLINE_DATA) {
            self.read_inline(inode, at, buf)?;
            return Ok(len);
        }
        let mut done = 0;
        // A run that waits for what may follow it on the volume too: where it lies, where in `buf` it goes.
        let mut waiting: Option<(GuestOffset, std::ops::Range<usize>)> = None;
        while done < len {
            let position = at + done as u64;
            let inside = position & (self.volume.block_bytes() - 1);
            let run = self.run_at(inode, position >> self.volume.block_bits())?;
            let bytes = run.len.saturating_mul(self.volume.block_bytes()) - inside;
            let end = usize::try_from(bytes).map_or(len, |bytes| bytes.min(len - done) + done);
            match (run.kind, &mut waiting) {
                (RunKind::Data(first), waiting) => {
                    let lies_at = GuestOffset(self.volume.position(first).0 + inside);
                    match waiting {
                        Some((start, range)) if start.0 + range.len() as u64 == lies_at.0 => range.end = end,
                        _ => {
                            if let Some((start, range)) = waiting.replace((lies_at, done..end)) {
                                self.volume.read(start, &mut buf[range])?;
                            }
                        }
                    }
                }
                (RunKind::Unwritten | RunKind::Hole, waiting) => {
                    buf[done..end].fill(0);
                    if let Some((start, range)) = waiting.take() {
                        self.volume.read(start, &mut buf[range])?;
                    }
                }
            }
            done = end;
        }
        if let Some((start, range)) = waiting {
            self.volume.read(start, &mut buf[range])?;
        }
        Ok(len)
    }

    /// Content inside the inode: the first 60 bytes where else the block map lies, the rest as an attribute's value.
    fn read_inline(&self, inode: &Inode, at: u64, buf: &mut [u8]) -> Result<(), GuestError> {
        let map = inode.map();
        let rest = self.inline_value(inode)?;
        let skipped = usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = map.iter().chain(rest.iter().flat_map(|rest| rest.iter())).skip(skipped);
        // What the file's size promises beyond both is zero, as for the kernel.
        let stored = buf.iter_mut().zip(bytes).map(|(byte, stored)| *byte = *stored).count();
        buf[stored..].fill(0);
        Ok(())
    }

    /// The run of content at byte `at`; `None` at or past the end.
    pub(super) fn content_extent(&self, inode: &Inode, at: u64) -> Result<Option<Extent>, GuestError> {
        let left = inode.size.saturating_sub(at);
        if left == 0 {
            return Ok(None);
        }
        if inode.has(flags::INLINE_DATA) {
            return Ok(Some(Extent { kind: ExtentKind::Data, len: ByteLen(left) }));
        }
        let inside = at & (self.volume.block_bytes() - 1);
        let run = self.run_at(inode, at >> self.volume.block_bits())?;
        let kind = match run.kind {
            RunKind::Data(_) => ExtentKind::Data,
            RunKind::Unwritten => ExtentKind::Zero,
            RunKind::Hole => ExtentKind::Hole,
        };
        let len = (run.len.saturating_mul(self.volume.block_bytes()) - inside).min(left);
        Ok(Some(Extent { kind, len: ByteLen(len) }))
    }

    /// Where a symbolic link leads.
    pub(super) fn link_target(&self, inode: &Inode) -> Result<Vec<u8>, GuestError> {
        /// Longest target: the kernel allows one block.
        const TARGET_BYTES_MAX: u64 = 64 << 10;
        if inode.size > TARGET_BYTES_MAX {
            return Err(GuestError::Corrupt {
                field: "length of a symbolic link",
                at: inode.bytes.at,
                expected: format!("at most {TARGET_BYTES_MAX}"),
                found: inode.size.to_string(),
            });
        }
        let len = usize::try_from(inode.size).expect("at most 64 KiB");
        if len < MAP_BYTES && self.is_fast_link(inode) {
            return Ok(inode.map()[..len].to_vec());
        }
        let mut target = vec![0; len];
        self.read_content(inode, 0, &mut target)?;
        Ok(target)
    }

    /// Whether a short link's target lies where else the block map does: then no block is its own.
    fn is_fast_link(&self, inode: &Inode) -> bool {
        if inode.has(flags::INLINE_DATA) || inode.has(flags::EXTENTS) {
            return false;
        }
        // Values of attributes in inodes of their own are counted as this one's blocks.
        let ea_inodes = self.superblock.incompatible.has(super::features::Incompatible::EA_INODE);
        let own = if inode.attributes_block == 0 { 0 } else { self.cluster_bytes() };
        ea_inodes || inode.allocated <= own
    }
}
