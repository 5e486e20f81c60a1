//! Small reads from well-known places of a volume. Past its end everything reads as zeros, which is no magic number's
//! beginning, so those who ask need not care how small a volume is.

use uuid::Uuid;

use crate::disk::{Disk, DiskError};
use crate::units::GuestOffset;

/// Bytes at the beginning that are read at once: up to the superblock of btrfs.
const HEAD_BYTES: usize = (68 << 10) + 512;

/// A volume with its first bytes at hand.
pub(super) struct Probe<'d> {
    disk: &'d dyn Disk,
    head: Vec<u8>,
}

impl<'d> Probe<'d> {
    pub fn new(disk: &'d dyn Disk) -> Result<Probe<'d>, DiskError> {
        let len = HEAD_BYTES.min(usize::try_from(disk.size().0).unwrap_or(usize::MAX));
        let mut head = vec![0; len];
        disk.read_at(GuestOffset(0), &mut head)?;
        Ok(Probe { disk, head })
    }

    pub fn size(&self) -> u64 {
        self.disk.size().0
    }

    pub fn is_blank(&self) -> bool {
        self.head.iter().all(|byte| *byte == 0)
    }

    /// Fills `buf` from `at`.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(inside) = start.checked_add(buf.len()).and_then(|end| self.head.get(start..end)) {
            buf.copy_from_slice(inside);
            return Ok(());
        }
        let there = usize::try_from(self.size().saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let (on_disk, past_end) = buf.split_at_mut(there);
        past_end.fill(0);
        if on_disk.is_empty() { Ok(()) } else { self.disk.read_at(GuestOffset(at), on_disk) }
    }

    pub fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N], DiskError> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    pub fn has(&self, at: u64, magic: &[u8]) -> Result<bool, DiskError> {
        let mut found = [0; 16];
        let found = found.get_mut(..magic.len()).expect("no magic has more than 16 bytes");
        self.read(at, found)?;
        Ok(found == magic)
    }

    pub fn byte(&self, at: u64) -> Result<u8, DiskError> {
        self.bytes::<1>(at).map(|[byte]| byte)
    }

    pub fn le16(&self, at: u64) -> Result<u16, DiskError> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    pub fn le32(&self, at: u64) -> Result<u32, DiskError> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    pub fn le64(&self, at: u64) -> Result<u64, DiskError> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    /// A UUID in the order of its bytes; empty if it is all zeros.
    pub fn uuid(&self, at: u64) -> Result<String, DiskError> {
        Ok(uuid(self.bytes(at)?))
    }

    /// Text of at most `N` bytes, up to a NUL, without spaces at its end.
    pub fn text<const N: usize>(&self, at: u64) -> Result<String, DiskError> {
        Ok(text(&self.bytes::<N>(at)?))
    }
}

pub(super) fn uuid(bytes: [u8; 16]) -> String {
    let uuid = Uuid::from_bytes(bytes);
    if uuid.is_nil() { String::new() } else { uuid.to_string() }
}

pub(super) fn text(bytes: &[u8]) -> String {
    let used = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(used).trim_end().to_string()
}

/// Little-endian UTF-16 up to a NUL.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}
