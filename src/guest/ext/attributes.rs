//! Extended attributes: in the inode behind its fields, in a block of their own, and large values in inodes of their own.
//!
//! Both places hold entries (16 bytes and the name, padded to 4) up to four zero bytes, and values somewhere behind them.
//!
//! Source: Linux Documentation/filesystems/ext4/attributes.rst; posix_acl_xattr.h for what `getxattr` gives.

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32};
use nom::{IResult, Parser};

use super::Ext;
use super::checksum::crc32c;
use super::inode::{Inode, flags};
use super::volume::Bytes;
use crate::guest::GuestError;
use crate::guest::tree::ExtendedAttribute;

const MAGIC: u32 = 0xea02_0000;
/// Magic, count of users, of blocks, hash, checksum, and three reserved words.
const BLOCK_HEADER_BYTES: usize = 32;
const BLOCK_CHECKSUM_AT: usize = 16;
/// Values of one node together: full blocks of 64 KiB with a large value an entry stay far below.
const VALUES_BYTES_MAX: usize = 64 << 20;
/// A single value: what the kernel allows within the filesystem.
const VALUE_BYTES_MAX: u32 = 1 << 24;

/// Name indexes: what a name begins with.
mod index {
    pub const ACCESS_LIST: u8 = 2;
    pub const DEFAULT_LIST: u8 = 3;
    pub const SYSTEM: u8 = 7;
}

/// What stands for a name index; `None` for names that the filesystem keeps to itself.
fn prefix(name_index: u8) -> Option<&'static str> {
    Some(match name_index {
        1 => "user.",
        index::ACCESS_LIST => "system.posix_acl_access",
        index::DEFAULT_LIST => "system.posix_acl_default",
        4 => "trusted.",
        6 => "security.",
        10 => "gnu.",
        _ => return None,
    })
}

struct RawEntry<'a> {
    name_index: u8,
    value_at: u16,
    value_inode: u32,
    value_bytes: u32,
    name: &'a [u8],
}

/// An entry with its padding; `None` at the four zero bytes behind the last, or at the end.
fn entry(input: &[u8]) -> IResult<&[u8], Option<RawEntry<'_>>> {
    if input.len() < 4 || input[..4] == [0; 4] {
        return Ok((input, None));
    }
    let (rest, (name_bytes, name_index, value_at, value_inode)) = (le_u8, le_u8, le_u16, le_u32).parse(input)?;
    let (rest, (value_bytes, _hash, name)) = (le_u32, le_u32, take(name_bytes)).parse(rest)?;
    let padding = name.len().next_multiple_of(4) - name.len();
    let (rest, _) = take(padding)(rest)?;
    Ok((rest, Some(RawEntry { name_index, value_at, value_inode, value_bytes, name })))
}

/// A place where entries lie.
struct Place {
    entries: Bytes,
    /// What the values' positions count from.
    values: Bytes,
}

impl Place {
    fn corrupt(&self, field: &'static str, expected: impl Into<String>, found: impl ToString) -> GuestError {
        GuestError::Corrupt { field, at: self.entries.at, expected: expected.into(), found: found.to_string() }
    }

    /// Tells `visit` all entries.
    fn each(&self, visit: &mut dyn FnMut(RawEntry<'_>) -> Result<(), GuestError>) -> Result<(), GuestError> {
        let mut rest = &self.entries[..];
        loop {
            let Ok((behind, raw)) = entry(rest) else {
                return Err(self.corrupt("extended attributes", "entries that end inside", "one that does not"));
            };
            let Some(raw) = raw else { return Ok(()) };
            visit(raw)?;
            rest = behind;
        }
    }

    /// A value that lies here.
    fn value(&self, raw: &RawEntry<'_>) -> Result<Bytes, GuestError> {
        let len = usize::try_from(raw.value_bytes).unwrap_or(usize::MAX);
        let start = if len == 0 { 0 } else { usize::from(raw.value_at) };
        start.checked_add(len).and_then(|end| self.values.part(start..end)).ok_or_else(|| {
            let expected = format!("inside {} bytes", self.values.len());
            self.corrupt("value of an extended attribute", expected, format!("{len} bytes at {start}"))
        })
    }
}

impl Ext {
    /// All attributes that `listxattr` would name, sorted.
    pub(super) fn attributes(&self, inode: &Inode) -> Result<Vec<ExtendedAttribute>, GuestError> {
        let mut attributes = Vec::new();
        let mut total = 0;
        for place in [self.place_in_inode(inode), self.place_in_block(inode)?].into_iter().flatten() {
            place.each(&mut |raw| {
                let Some(prefix) = prefix(raw.name_index) else { return Ok(()) };
                let value = self.value(inode, &place, &raw)?;
                total += value.len();
                if total > VALUES_BYTES_MAX {
                    return Err(place.corrupt(
                        "extended attributes",
                        format!("at most {VALUES_BYTES_MAX} bytes"),
                        "more",
                    ));
                }
                let value = match raw.name_index {
                    index::ACCESS_LIST | index::DEFAULT_LIST => access_list(&value).ok_or_else(|| {
                        place.corrupt("access control list", "a version 1 list", format!("{} other bytes", value.len()))
                    })?,
                    _ => value,
                };
                attributes.push(ExtendedAttribute { name: [prefix.as_bytes(), raw.name].concat(), value });
                Ok(())
            })?;
        }
        // A name in both places is damage; the inode's own comes first, as for the kernel.
        attributes.sort_by(|one, other| one.name.cmp(&other.name));
        attributes.dedup_by(|one, other| one.name == other.name);
        Ok(attributes)
    }

    /// The part of inline content that does not fit where the block map lies.
    pub(super) fn inline_value(&self, inode: &Inode) -> Result<Option<Bytes>, GuestError> {
        let mut found = None;
        if let Some(place) = self.place_in_inode(inode) {
            place.each(&mut |raw| {
                if raw.name_index == index::SYSTEM && raw.name == b"data" {
                    found = Some(place.value(&raw)?);
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    fn place_in_inode(&self, inode: &Inode) -> Option<Place> {
        let area = &inode.attributes;
        let magic = area.get(..4)?;
        if magic != MAGIC.to_le_bytes() {
            return None;
        }
        let entries = area.part(4..area.len())?;
        Some(Place { values: entries.clone(), entries })
    }

    fn place_in_block(&self, inode: &Inode) -> Result<Option<Place>, GuestError> {
        let number = inode.attributes_block;
        if number == 0 {
            return Ok(None);
        }
        self.volume.check_run("block of extended attributes", inode.bytes.at, number, 1)?;
        let block = self.volume.block(number)?;
        let corrupt = |field, expected: u32, found: u32| GuestError::Corrupt {
            field,
            at: block.at,
            expected: format!("{expected:#010x}"),
            found: format!("{found:#010x}"),
        };
        let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
        if word(0) != MAGIC {
            return Err(corrupt("magic of a block of extended attributes", MAGIC, word(0)));
        }
        if word(8) != 1 {
            return Err(corrupt("length in blocks of extended attributes", 1, word(8)));
        }
        if self.superblock.has_checksums() {
            let sum = crc32c(self.superblock.checksum_seed, &number.to_le_bytes());
            let sum = crc32c(crc32c(sum, &block[..BLOCK_CHECKSUM_AT]), &[0; 4]);
            let sum = crc32c(sum, &block[BLOCK_CHECKSUM_AT + 4..]);
            if sum != word(BLOCK_CHECKSUM_AT) {
                return Err(corrupt("checksum of a block of extended attributes", sum, word(BLOCK_CHECKSUM_AT)));
            }
        }
        let entries = block.part(BLOCK_HEADER_BYTES..block.len()).expect("a block is longer than the header");
        Ok(Some(Place { entries, values: block }))
    }

    fn value(&self, inode: &Inode, place: &Place, raw: &RawEntry<'_>) -> Result<Vec<u8>, GuestError> {
        if raw.value_inode == 0 {
            return Ok(place.value(raw)?.to_vec());
        }
        if raw.value_bytes > VALUE_BYTES_MAX {
            let expected = format!("at most {VALUE_BYTES_MAX} bytes");
            return Err(place.corrupt("value of an extended attribute", expected, raw.value_bytes));
        }
        let holder = self.inode(raw.value_inode)?;
        let sound = holder.has(flags::EA_INODE) && holder.size == u64::from(raw.value_bytes);
        let corrupt = |found: &str| GuestError::Corrupt {
            field: "inode of an extended attribute's value",
            at: holder.bytes.at,
            expected: format!("{} bytes of a value, with their checksum", raw.value_bytes),
            found: found.to_owned(),
        };
        if !sound {
            return Err(corrupt("another inode"));
        }
        let mut value = vec![0; usize::try_from(raw.value_bytes).expect("at most 16 MiB")];
        self.read_content(&holder, 0, &mut value)?;
        // The access time's field holds the checksum. Lustre, which came first, has the owner's number there instead.
        let stored = u32::try_from(holder.accessed.seconds & 0xffff_ffff).expect("32 bits");
        let of_lustre = holder.modified.seconds & 0xffff_ffff == i64::from(inode.number);
        if stored != crc32c(self.superblock.checksum_seed, &value) && !of_lustre {
            return Err(corrupt("another checksum"));
        }
        Ok(value)
    }
}

/// An access control list as the system calls have it, from the shorter form on the volume.
fn access_list(stored: &[u8]) -> Option<Vec<u8>> {
    const STORED_VERSION: u32 = 1;
    const VERSION: u32 = 2;
    const NOBODY: u32 = u32::MAX;
    /// Entries of a named user or group have an id behind them.
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    fn number(input: &[u8]) -> IResult<&[u8], u32> {
        le_u32(input)
    }
    fn tagged(input: &[u8]) -> IResult<&[u8], (u16, u16)> {
        (le_u16, le_u16).parse(input)
    }
    let (mut rest, version) = number(stored).ok()?;
    if version != STORED_VERSION {
        return None;
    }
    let mut list = VERSION.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let (behind, (tag, permissions)) = tagged(rest).ok()?;
        let (behind, id) = if tag == USER || tag == GROUP { number(behind).ok()? } else { (behind, NOBODY) };
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
        rest = behind;
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_widened() {
        let stored = [&[1, 0, 0, 0][..], &[1, 0, 6, 0], &[2, 0, 7, 0, 0xe8, 3, 0, 0], &[4, 0, 4, 0]].concat();
        let nobody = [255; 4];
        let expected =
            [&[2, 0, 0, 0][..], &[1, 0, 6, 0], &nobody, &[2, 0, 7, 0, 0xe8, 3, 0, 0], &[4, 0, 4, 0], &nobody].concat();
        assert_eq!(access_list(&stored), Some(expected));
        assert_eq!(access_list(&stored[..stored.len() - 1]), None);
        assert_eq!(access_list(&[2, 0, 0, 0]), None);
        assert_eq!(access_list(&[]), None);
    }
}
