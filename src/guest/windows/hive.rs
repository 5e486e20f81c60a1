//! A hive of Windows's registry: keys and their values in a file, read where they lie and never as a whole.
//!
//! Little-endian. Base block, 4096 bytes: 0 `regf` | 36 the root key. Cells follow; they are named by their distance from
//! the end of the base block: 0 length i32 (negative: in use; itself included) | 4 what it holds:
//!
//!     key:      `nk` | 2 flags u16 | 20 number of keys below u32 | 28 their list | 36 number of values u32 | 40 their list |
//!               72 length of its name u16 | 76 the name
//!     keys:     `lf`, `lh` (8 bytes each: a key and a hash), `li` (4 bytes each: a key), `ri` (4 bytes each: a list) |
//!               2 their number u16 | 4 …
//!     value:    `vk` | 2 length of its name u16 | 4 length of its data u32 (bit 31: the next field is the data) |
//!               8 the data | 16 flags u16 | 20 the name
//!
//! The hive's logs are not replayed: what we ask for was written long before.
//!
//! Source: Maxim Suhanov, "Windows registry file format specification"; tried on hives that hivex wrote.

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_u16, le_u32};
use nom::{IResult, Parser};

use crate::guest::GuestError;
use crate::guest::tree::{FileSystem, NodeId};

const BASE_BYTES: u64 = 4096;
/// What is read of the base block.
const BASE_HEAD_BYTES: usize = 40;
const KEY_HEAD_BYTES: usize = 76;
const VALUE_HEAD_BYTES: usize = 20;
/// Longest name of a key or value that is looked at, in bytes: those that we ask for are shorter.
const NAME_BYTES_MAX: usize = 1024;
/// Keys below one key that are looked through: those that we ask have a few dozen.
const KEYS_MAX: usize = 10_000;
/// Values of one key at most.
const VALUES_MAX: u32 = 10_000;
/// Longest data of a value; longer ones are cut off.
const DATA_BYTES_MAX: usize = 4096;
/// A key's name is Latin-1, not UTF-16; and a value's.
const KEY_IS_LATIN: u16 = 0x20;
const VALUE_IS_LATIN: u16 = 1;
/// The data of a value stands where its place would be.
const DATA_IS_HERE: u32 = 1 << 31;

/// Why a hive cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HiveError {
    #[error("{field} at {at:#x} of the hive: expected {expected}")]
    Corrupt { field: &'static str, at: u64, expected: &'static str },
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// A name and the data of that value.
pub(super) type Value = (String, Vec<u8>);

/// A hive.
pub(super) struct Hive<'f> {
    filesystem: &'f dyn FileSystem,
    file: NodeId,
    root: u32,
}

struct RawKey<'a> {
    flags: u16,
    keys: u32,
    key_list: u32,
    values: u32,
    value_list: u32,
    name: &'a [u8],
}

fn raw_key(input: &[u8]) -> IResult<&[u8], RawKey<'_>> {
    let (rest, (_, flags, _, keys, _, key_list)) =
        (tag(&b"nk"[..]), le_u16, take(16usize), le_u32, take(4usize), le_u32).parse(input)?;
    let (rest, (_, values, value_list, _, name_len, _)) =
        (take(4usize), le_u32, le_u32, take(28usize), le_u16, take(2usize)).parse(rest)?;
    let (rest, name) = take(name_len).parse(rest)?;
    Ok((rest, RawKey { flags, keys, key_list, values, value_list, name }))
}

struct RawValue<'a> {
    data_len: u32,
    data: [u8; 4],
    flags: u16,
    name: &'a [u8],
}

fn raw_value(input: &[u8]) -> IResult<&[u8], RawValue<'_>> {
    let (rest, (_, name_len, data_len, data, _, flags, _)) =
        (tag(&b"vk"[..]), le_u16, le_u32, take(4usize), take(4usize), le_u16, take(2usize)).parse(input)?;
    let (rest, name) = take(name_len).parse(rest)?;
    let data = data.try_into().expect("four bytes");
    Ok((rest, RawValue { data_len, data, flags, name }))
}

impl<'f> Hive<'f> {
    /// The hive in a file.
    pub fn open(filesystem: &'f dyn FileSystem, file: NodeId) -> Result<Hive<'f>, HiveError> {
        let mut head = [0; BASE_HEAD_BYTES];
        let len = filesystem.read_at(file, 0, &mut head)?;
        if len < head.len() || !head.starts_with(b"regf") {
            return Err(HiveError::Corrupt { field: "base block", at: 0, expected: "\"regf\"" });
        }
        let root = u32::from_le_bytes(head[36..].try_into().expect("four bytes"));
        Ok(Hive { filesystem, file, root })
    }

    /// All values of a key; `None` if there is no such key.
    pub fn values(&self, path: &[&str]) -> Result<Option<Vec<Value>>, HiveError> {
        let mut at = self.root;
        for name in path {
            match self.child(at, name)? {
                Some(child) => at = child,
                None => return Ok(None),
            }
        }
        let cell = self.cell(at, KEY_HEAD_BYTES + NAME_BYTES_MAX)?;
        let key = key_in(&cell, at)?;
        if key.values == 0 {
            return Ok(Some(Vec::new()));
        }
        if key.values > VALUES_MAX {
            return Err(corrupt("number of values", at, "at most 10000"));
        }
        let count = usize::try_from(key.values).expect("at most 10000");
        let list = self.cell(key.value_list, 4 * count)?;
        if list.len() < 4 * count {
            return Err(corrupt("list of values", key.value_list, "a place for each"));
        }
        numbers(&list).map(|at| self.value(at)).collect::<Result<_, _>>().map(Some)
    }

    /// The key of that name below another; case does not count.
    fn child(&self, key_at: u32, wanted: &str) -> Result<Option<u32>, HiveError> {
        let cell = self.cell(key_at, KEY_HEAD_BYTES + NAME_BYTES_MAX)?;
        let key = key_in(&cell, key_at)?;
        if key.keys == 0 {
            return Ok(None);
        }
        let mut left = KEYS_MAX;
        let first = self.list(key.key_list, &mut left)?;
        let mut lists = vec![];
        match first {
            List::Keys(keys) => lists.push(keys),
            List::Lists(places) => {
                for place in places {
                    match self.list(place, &mut left)? {
                        List::Keys(keys) => lists.push(keys),
                        List::Lists(_) => return Err(corrupt("list of keys", place, "keys, in a list of lists")),
                    }
                }
            }
        }
        for at in lists.into_iter().flatten() {
            let cell = self.cell(at, KEY_HEAD_BYTES + NAME_BYTES_MAX)?;
            let key = key_in(&cell, at)?;
            if text(key.name, key.flags & KEY_IS_LATIN != 0).eq_ignore_ascii_case(wanted) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// What a list of keys names; `left` counts down what may still be looked at.
    fn list(&self, at: u32, left: &mut usize) -> Result<List, HiveError> {
        let unsound = || corrupt("list of keys", at, "\"lf\", \"lh\", \"li\" or \"ri\", and at most 10000 keys");
        let head = self.cell(at, 4)?;
        let [kind @ .., low, high] = &head[..] else { return Err(unsound()) };
        let (count, step) = (usize::from(u16::from_le_bytes([*low, *high])), if kind[..1] == *b"l" { 8 } else { 4 });
        let step = if kind == b"li" { 4 } else { step };
        *left = left.checked_sub(count).ok_or_else(unsound)?;
        let cell = self.cell(at, 4 + step * count)?;
        let entries = cell.get(4..4 + step * count).ok_or_else(unsound)?;
        let places = entries.chunks_exact(step).flat_map(|entry| numbers(&entry[..4])).collect();
        match kind {
            b"lf" | b"lh" | b"li" => Ok(List::Keys(places)),
            b"ri" => Ok(List::Lists(places)),
            _ => Err(unsound()),
        }
    }

    fn value(&self, at: u32) -> Result<Value, HiveError> {
        let cell = self.cell(at, VALUE_HEAD_BYTES + NAME_BYTES_MAX)?;
        let (_, value) = raw_value(&cell).map_err(|_| corrupt("value", at, "\"vk\" and a whole name"))?;
        let name = text(value.name, value.flags & VALUE_IS_LATIN != 0);
        let len = usize::try_from(value.data_len & !DATA_IS_HERE).unwrap_or(usize::MAX);
        if value.data_len & DATA_IS_HERE != 0 {
            let data = value.data.get(..len).ok_or_else(|| corrupt("length of a value", at, "at most 4 bytes"))?;
            return Ok((name, data.to_vec()));
        }
        let wanted = len.min(DATA_BYTES_MAX);
        let data = if wanted == 0 { Vec::new() } else { self.cell(u32::from_le_bytes(value.data), wanted)? };
        if data.len() < wanted {
            return Err(corrupt("length of a value", at, "no more than its data"));
        }
        Ok((name, data))
    }

    /// What a cell holds, up to so many bytes.
    fn cell(&self, at: u32, limit: usize) -> Result<Vec<u8>, HiveError> {
        let position = BASE_BYTES + u64::from(at);
        let mut len = [0; 4];
        if self.filesystem.read_at(self.file, position, &mut len)? < len.len() {
            return Err(corrupt("cell", at, "one within the file"));
        }
        let holds = i32::from_le_bytes(len).checked_neg().and_then(|len| usize::try_from(len).ok()?.checked_sub(4));
        let holds = holds.ok_or_else(|| corrupt("cell", at, "one in use"))?;
        let mut bytes = vec![0; holds.min(limit)];
        if self.filesystem.read_at(self.file, position + 4, &mut bytes)? < bytes.len() {
            return Err(corrupt("cell", at, "one within the file"));
        }
        Ok(bytes)
    }
}

enum List {
    Keys(Vec<u32>),
    Lists(Vec<u32>),
}

fn key_in(cell: &[u8], at: u32) -> Result<RawKey<'_>, HiveError> {
    raw_key(cell).map(|(_, key)| key).map_err(|_| corrupt("key", at, "\"nk\" and a whole name"))
}

fn corrupt(field: &'static str, at: u32, expected: &'static str) -> HiveError {
    HiveError::Corrupt { field, at: BASE_BYTES + u64::from(at), expected }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|number| u32::from_le_bytes([number[0], number[1], number[2], number[3]]))
}

fn text(name: &[u8], latin: bool) -> String {
    if latin {
        return name.iter().copied().map(char::from).collect();
    }
    let units = name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}
