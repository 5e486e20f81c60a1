//! Members of Linux software RAID: the superblock, at the end or the beginning of the member.
//!
//! Version 1, little-endian, 256 bytes: 0 magic | 4 version u32 = 1 | 16 UUID of the array | 32 its name, 32 bytes | 72 level
//! i32 | 80 size of each member u64 | 92 members u32 | 128 data from u64 | 136 data length u64 | 144 where this superblock
//! lies u64 | 160 this device's number u32 | 200 events u64 | 208 in sync up to u64 | 216 checksum u32 | 220 places in the table u32 | 256
//! table u16 × n: number → role. All lengths in sectors. It lies at 0 (1.1), 4 KiB (1.2) or 8 to 12 KiB before the end (1.0).
//! Version 0.90, in the byte order of the machine, 4 KiB, in the last 64 KiB.
//!
//! Sources: Linux include/uapi/linux/raid/md_p.h; md(4).

use super::probe::{Probe, text};
use crate::disk::{Disk, DiskError};
use crate::units::{ByteLen, GuestOffset, SECTOR_BYTES};

const MAGIC: u32 = 0xa92b_4efc;
/// Devices that the table of roles can name.
const ROLES_MAX: u32 = 1920;
/// Roles from here on are no places in the array: spare, failed, journal.
const ROLE_MAX: u16 = 0xff00;

/// What a superblock says about a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `0.90`, `1.0`, `1.1` or `1.2`.
    pub version: &'static str,
    /// The array's UUID.
    pub array: [u8; 16],
    /// The array's name, mostly `host:name`; empty before version 1.
    pub name: String,
    /// RAID level; negative: linear and the like.
    pub level: i32,
    /// Number of devices the array is made of.
    pub devices: u32,
    /// Counts what happened to the array: a member with fewer events has missed something.
    pub events: u64,
    /// Whether this member holds a place in the array, and all of its data.
    pub in_sync: bool,
    /// Where the data begins on the member.
    pub data_start: GuestOffset,
    /// How much of it there is.
    pub data_len: ByteLen,
}

/// The superblock of a member, if it is one.
///
/// # Errors
/// What the disk fails with.
pub fn member(volume: &dyn Disk) -> Result<Option<Member>, DiskError> {
    in_probe(&Probe::new(volume)?)
}

pub(super) fn in_probe(probe: &Probe<'_>) -> Result<Option<Member>, DiskError> {
    let size = probe.size();
    let places = [
        ("1.1", Some(0)),
        ("1.2", Some(4096)),
        ("1.0", size.checked_sub(8192).map(|at| at / 4096 * 4096)),
        ("0.90", (size / 65_536).checked_sub(1).map(|last| last * 65_536)),
    ];
    for (version, at) in places {
        let Some(at) = at else { continue };
        let member = if version == "0.90" { version_0(probe, at)? } else { version_1(probe, version, at)? };
        if member.is_some() {
            return Ok(member);
        }
    }
    Ok(None)
}

fn version_1(probe: &Probe<'_>, version: &'static str, at: u64) -> Result<Option<Member>, DiskError> {
    if probe.le32(at)? != MAGIC || probe.le32(at + 4)? != 1 || probe.le64(at + 144)? != at / SECTOR_BYTES {
        return Ok(None);
    }
    let roles = probe.le32(at + 220)?;
    if roles > ROLES_MAX || !checksum_1_fits(probe, at, roles)? {
        return Ok(None);
    }
    let number = probe.le32(at + 160)?;
    let role = if number < roles { probe.le16(at + 256 + 2 * u64::from(number))? } else { u16::MAX };
    let features = probe.le32(at + 8)?;
    const RECOVERY_OFFSET: u32 = 2;
    let data_start = probe.le64(at + 128)?.saturating_mul(SECTOR_BYTES);
    let data_len = probe.le64(at + 80)?.saturating_mul(SECTOR_BYTES);
    let member = Member {
        version,
        array: probe.bytes(at + 16)?,
        name: text(&probe.bytes::<32>(at + 32)?),
        level: i32::from_le_bytes(probe.bytes(at + 72)?),
        devices: probe.le32(at + 92)?,
        events: probe.le64(at + 200)?,
        in_sync: role < ROLE_MAX && features & RECOVERY_OFFSET == 0,
        data_start: GuestOffset(data_start),
        data_len: ByteLen(data_len),
    };
    Ok(Some(member))
}

/// The sum of all 32-bit words and a last half one, its carries added, with the checksum itself as zero.
fn checksum_1_fits(probe: &Probe<'_>, at: u64, roles: u32) -> Result<bool, DiskError> {
    let len = 256 + 2 * usize::try_from(roles).expect("at most 1920");
    let mut bytes = vec![0; len];
    probe.read(at, &mut bytes)?;
    let stored = probe.le32(at + 216)?;
    bytes[216..220].fill(0);
    let words = bytes.chunks_exact(4);
    let half = words.remainder();
    let sum: u64 = words.map(|word| u64::from(u32::from_le_bytes(word.try_into().expect("4 bytes")))).sum();
    let sum = sum + if half.len() == 2 { u64::from(u16::from_le_bytes([half[0], half[1]])) } else { 0 };
    Ok(folded(sum) == stored)
}

fn folded(sum: u64) -> u32 {
    let both_halves = (sum & 0xffff_ffff) + (sum >> 32);
    u32::try_from(both_halves & 0xffff_ffff).expect("32 bits are left")
}

fn version_0(probe: &Probe<'_>, at: u64) -> Result<Option<Member>, DiskError> {
    let bytes = probe.bytes::<4096>(at)?;
    let is_little = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) == MAGIC;
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|word| word.try_into().expect("4 bytes"))
        .map(if is_little { u32::from_le_bytes } else { u32::from_be_bytes })
        .collect();
    // Words: 0 magic, 1-2 version, 5 and 13-15 UUID, 7 level, 8 size in KiB, 10 devices, 38 checksum, 39-40 events, 992 this device.
    let sum: u64 = words.iter().enumerate().filter(|(word, _)| *word != 38).map(|(_, value)| u64::from(*value)).sum();
    if words[0] != MAGIC || (words[1], words[2]) != (0, 90) || folded(sum) != words[38] {
        return Ok(None);
    }
    let (high, low) = if is_little { (words[40], words[39]) } else { (words[39], words[40]) };
    let mut array = [0; 16];
    for (part, word) in array.chunks_exact_mut(4).zip([5, 13, 14, 15]) {
        part.copy_from_slice(&words[word].to_be_bytes());
    }
    const ACTIVE_AND_IN_SYNC: u32 = 1 << 1 | 1 << 2;
    let member = Member {
        version: "0.90",
        array,
        name: String::new(),
        level: i32::from_ne_bytes(words[7].to_ne_bytes()),
        devices: words[10],
        events: u64::from(high) << 32 | u64::from(low),
        in_sync: words[992 + 4] & ACTIVE_AND_IN_SYNC == ACTIVE_AND_IN_SYNC,
        data_start: GuestOffset(0),
        data_len: ByteLen((u64::from(words[8]) * 1024).min(at)),
    };
    Ok(Some(member))
}
