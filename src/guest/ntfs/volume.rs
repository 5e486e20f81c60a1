//! The volume's bytes, in clusters, and a bounded cache of metadata.
//!
//! In here: reading ranges, and putting right the sector ends of records and index blocks. Not in here: what they mean.
//!
//! Records and index blocks are protected against torn writes: the last two bytes of each sector hold a number of the
//! latest write, and what belongs there lies in an array in the head (4 its place u16 | 6 its length u16, the number itself
//! included). A sector whose end has another number was not written.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::boot::Boot;
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::recent;
use crate::units::GuestOffset;

/// Metadata is read and kept in pieces of this length: neighbouring records and index blocks come with it.
const PIECE_BYTES: u64 = 32 << 10;
/// Metadata kept at most.
const CACHE_BYTES: u64 = 12 << 20;
/// Smallest stretch that has its end protected.
const PROTECTED_BYTES_MIN: usize = 256;

/// The volume.
pub(super) struct Volume {
    disk: Arc<dyn Disk>,
    pub cluster_bits: u32,
    pub clusters: u64,
    pieces: Cache<u64, Arc<[u8]>>,
}

impl Volume {
    pub fn new(disk: Arc<dyn Disk>, boot: &Boot) -> Volume {
        let items = usize::try_from(CACHE_BYTES / PIECE_BYTES).expect("a small constant");
        Volume { disk, cluster_bits: boot.cluster_bits, clusters: boot.clusters, pieces: recent::entries(items) }
    }

    /// Cluster size in bytes.
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// All of the volume's bytes, by its own account.
    pub fn bytes(&self) -> u64 {
        self.clusters << self.cluster_bits
    }

    /// Where a cluster inside the volume begins.
    pub fn position(&self, cluster: u64) -> GuestOffset {
        GuestOffset(cluster << self.cluster_bits)
    }

    /// Fills `buf` from a place of the volume; for content, which is not kept.
    pub fn read(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), GuestError> {
        Ok(self.disk.read_at(at, buf)?)
    }

    /// Fills `buf` from a place of the volume; for metadata, which is kept together with its neighbours.
    pub fn read_metadata(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), GuestError> {
        let mut done = 0;
        while done < buf.len() {
            let position = at.0.saturating_add(done as u64);
            let (number, inside) = (position / PIECE_BYTES, position % PIECE_BYTES);
            let inside = usize::try_from(inside).expect("below 32 KiB");
            let piece = match self.pieces.get(&number) {
                Some(piece) => Some(piece),
                None => self.piece(number),
            };
            let Some(stretch) = piece.as_deref().and_then(|piece| piece.get(inside..)).filter(|it| !it.is_empty())
            else {
                // The volume ends here, or a neighbour cannot be read: these bytes alone decide.
                return self.read(GuestOffset(position), &mut buf[done..]);
            };
            let len = stretch.len().min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&stretch[..len]);
            done += len;
        }
        Ok(())
    }

    /// A piece, shorter where the volume ends in it; `None` if something in it cannot be read.
    fn piece(&self, number: u64) -> Option<Arc<[u8]>> {
        let at = number.checked_mul(PIECE_BYTES)?;
        let len = self.disk.size().0.checked_sub(at)?.min(PIECE_BYTES);
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.read(GuestOffset(at), &mut bytes).ok()?;
        let piece: Arc<[u8]> = bytes.into();
        self.pieces.insert(number, Arc::clone(&piece));
        Some(piece)
    }
}

/// Puts back the ends of the sectors of a record or index block that lies at `at` of the volume.
pub(super) fn restore_sector_ends(bytes: &mut [u8], field: &'static str, at: GuestOffset) -> Result<(), GuestError> {
    let corrupt = |expected: String, found: String| GuestError::Corrupt { field, at, expected, found };
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 2).map(|it| [it[0], it[1]]);
    let (array_at, count) = (le16(bytes, 4), le16(bytes, 6));
    let sectors = count.saturating_sub(1);
    let stretch = bytes.len().checked_div(sectors).unwrap_or(0);
    if stretch < PROTECTED_BYTES_MIN || !stretch.is_power_of_two() || sectors * stretch != bytes.len() {
        let expected = format!("an array for the sector ends of {} bytes", bytes.len());
        return Err(corrupt(expected, format!("one of {count} entries")));
    }
    if array_at < 8 || array_at + 2 * count > stretch - 2 {
        return Err(corrupt("the array for its sector ends in its head".to_owned(), format!("at byte {array_at}")));
    }
    let number = word(bytes, array_at).expect("checked to be inside");
    for sector in 0..sectors {
        let end = (sector + 1) * stretch - 2;
        if bytes[end..end + 2] != number {
            let [expected, found] = [number, word(bytes, end).expect("inside")].map(u16::from_le_bytes);
            let found = format!("{found:#06x} (a torn write)");
            return Err(corrupt(format!("write number {expected:#06x} at the end of sector {sector}"), found));
        }
        let saved = word(bytes, array_at + 2 + 2 * sector).expect("checked to be inside");
        bytes[end..end + 2].copy_from_slice(&saved);
    }
    Ok(())
}

/// Two bytes as a number; 0 past the end.
fn le16(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |it| usize::from(u16::from_le_bytes([it[0], it[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protected() -> Vec<u8> {
        let mut bytes = vec![0xee; 1024];
        bytes[4..8].copy_from_slice(&[48, 0, 3, 0]);
        bytes[48..54].copy_from_slice(&[7, 0, b'a', b'b', b'c', b'd']);
        for end in [510, 1022] {
            bytes[end..end + 2].copy_from_slice(&[7, 0]);
        }
        bytes
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Vec<u8>), expected: &str) {
        let mut bytes = protected();
        change(&mut bytes);
        let said = restore_sector_ends(&mut bytes, "record", GuestOffset(0)).unwrap_err().to_string();
        assert_eq!(said, format!("record at 0x0 of the volume: {expected}"));
    }

    #[test]
    fn sector_ends_are_put_back_or_the_write_was_torn() {
        let mut bytes = protected();
        restore_sector_ends(&mut bytes, "record", GuestOffset(0)).unwrap();
        assert_eq!((&bytes[508..512], &bytes[1020..]), (&b"\xee\xeeab"[..], &b"\xee\xeecd"[..]));
        let torn = "expected write number 0x0007 at the end of sector 1, found 0x0006 (a torn write)";
        check(|bytes| bytes[1022] = 6, torn);
        check(|bytes| bytes[6] = 4, "expected an array for the sector ends of 1024 bytes, found one of 4 entries");
        check(|bytes| bytes[6] = 0, "expected an array for the sector ends of 1024 bytes, found one of 0 entries");
        check(|bytes| bytes[5] = 2, "expected the array for its sector ends in its head, found at byte 560");
        check(|bytes| bytes[4] = 2, "expected the array for its sector ends in its head, found at byte 2");
    }
}
