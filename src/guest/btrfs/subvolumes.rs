//! Subvolumes and snapshots: where their trees begin, which one is shown first, and where one is linked into another.

use nom::bytes::complete::take;
use nom::number::complete::{le_u8, le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use super::checksum::name_hash;
use super::cursor::Cursor;
use super::key::{Key, kind, object};
use super::names;
use super::superblock::{LEVEL_MAX, Root};
use super::volume::Volume;
use super::{corrupt, too_short};
use crate::guest::GuestError;

/// The directory of the root tree that names the default subvolume.
const ROOT_DIRECTORY: u64 = 6;
const DEFAULT_NAME: &[u8] = b"default";

/// A tree's item (`btrfs_root_item`), as far as we use it.
struct RawRoot {
    generation: u64,
    logical: u64,
    references: u32,
    level: u8,
}

fn raw_root(input: &[u8]) -> IResult<&[u8], RawRoot> {
    // The inode is one that no tree shows.
    let (input, (_inode, generation, _directory, logical)) = (take(160usize), le_u64, le_u64, le_u64).parse(input)?;
    // Limits, last snapshot, flags; then how far a removal has come.
    let (input, (_, references, _, level)) = (take(32usize), le_u32, take(18usize), le_u8).parse(input)?;
    Ok((input, RawRoot { generation, logical, references, level }))
}

/// Whether a tree has the number of a subvolume.
pub(crate) fn is_subvolume(tree: u64) -> bool {
    tree == object::TOP_LEVEL || (object::FIRST_FREE..=object::LAST_FREE).contains(&tree)
}

/// Where the tree of that number begins; `None` if there is none, or it is being removed.
pub(crate) fn root(volume: &Volume, tree: u64) -> Result<Option<Root>, GuestError> {
    root_in(volume, &volume.superblock.root, Key::new(tree, kind::ROOT, u64::MAX))
}

/// The root in the last item of a tree of roots that is not above `key`, but of the same object.
pub(crate) fn root_in(volume: &Volume, roots: &Root, key: Key) -> Result<Option<Root>, GuestError> {
    let cursor = Cursor::before(volume, roots, key)?;
    let Some(item) = cursor.item().filter(|item| item.key.is_of(key.object, key.kind)) else { return Ok(None) };
    let (_, raw) = raw_root(item.bytes).map_err(|_| too_short("root item", item.at))?;
    if raw.level > LEVEL_MAX {
        return Err(corrupt("level of a root", item.at, format!("at most {LEVEL_MAX}"), raw.level));
    }
    let root = Root { logical: raw.logical, level: raw.level, generation: raw.generation };
    // Logs are referred to by the superblock alone.
    Ok((raw.references > 0 || key.object == object::LOG).then_some(root))
}

/// The number of the subvolume that a mount shows if it is not told otherwise.
pub(crate) fn default(volume: &Volume) -> Result<u64, GuestError> {
    let wanted = Key::new(ROOT_DIRECTORY, kind::DIRECTORY_BY_HASH, name_hash(DEFAULT_NAME));
    let cursor = Cursor::from(volume, &volume.superblock.root, wanted)?;
    if let Some(item) = cursor.item().filter(|item| item.key == wanted) {
        for named in names::entries(item, "name of the default subvolume") {
            let named = named?;
            if named.name == DEFAULT_NAME {
                return Ok(named.target.object);
            }
        }
    }
    Ok(object::TOP_LEVEL)
}

fn reference(input: &[u8]) -> IResult<&[u8], (u64, &[u8])> {
    let (input, (directory, _sequence, name_bytes)) = (le_u64, le_u64, le_u16).parse(input)?;
    let (input, name) = take(name_bytes).parse(input)?;
    Ok((input, (directory, name)))
}

/// Whether `child` hangs in subvolume `parent` under that name of that directory. A snapshot keeps the names of
/// subvolumes that were linked in what it was taken of, but they lead nowhere.
pub(crate) fn is_linked(
    volume: &Volume,
    parent: u64,
    directory: u64,
    name: &[u8],
    child: u64,
) -> Result<bool, GuestError> {
    let wanted = Key::new(parent, kind::ROOT_REFERENCE, child);
    let cursor = Cursor::from(volume, &volume.superblock.root, wanted)?;
    let Some(item) = cursor.item().filter(|item| item.key == wanted) else { return Ok(false) };
    let (_, found) = reference(item.bytes).map_err(|_| too_short("reference to a subvolume", item.at))?;
    Ok(found == (directory, name))
}
