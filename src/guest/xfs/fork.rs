//! Forks: what an inode holds, and where. A fork lies in the inode itself, or is a map from its blocks to the volume's: a
//! list of mappings in the inode, or a tree of them ([`bmbt`](super::bmbt)).
//!
//! Invariant: the mappings of one list ascend, do not overlap, and lie inside one allocation group each.

use std::borrow::Cow;

use nom::Parser;
use nom::multi::count;
use nom::number::complete::be_u64;

use super::bmbt::{self, Root};
use super::volume::Volume;
use super::{corrupt, too_short};
use crate::guest::GuestError;
use crate::guest::tree::NodeKind;

/// Bytes of a mapping.
pub(crate) const MAPPING_BYTES: usize = 16;
/// Blocks of a fork have numbers of 54 bits.
const FORK_BLOCKS_MAX: u64 = 1 << 54;

/// What an inode holds.
#[derive(Clone, Debug)]
pub(crate) enum Fork {
    /// The number of a device; nothing, for pipes and sockets.
    Device(u32),
    /// The content itself.
    Local(Vec<u8>),
    /// All mappings.
    List(Vec<Mapping>),
    /// The root of the tree of mappings.
    Tree(Root),
}

/// A run of a fork's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// First block in the fork.
    pub offset: u64,
    /// Blocks.
    pub count: u64,
    /// Where they lie, in bytes from the volume's start.
    pub at: u64,
    /// Allocated, but reads as zeros.
    pub unwritten: bool,
}

/// What the core says about a fork: `di_format` or `di_aformat`, and the number of mappings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForkFormat {
    pub code: u8,
    pub extents: u64,
    pub size: u64,
}

impl ForkFormat {
    /// The data fork of an inode at byte `at`.
    pub fn read(self, kind: NodeKind, bytes: &[u8], at: u64, volume: &Volume) -> Result<Fork, GuestError> {
        use NodeKind::{BlockDevice, CharacterDevice, Directory, Fifo, File, Socket, Symlink};
        match (self.code, kind) {
            (0, Fifo | Socket) => Ok(Fork::Device(0)),
            (0, CharacterDevice | BlockDevice) => {
                let number = bytes.first_chunk().ok_or_else(|| too_short("device number", at))?;
                Ok(Fork::Device(u32::from_be_bytes(*number)))
            }
            (1, Directory | Symlink) => {
                let len = usize::try_from(self.size).ok().filter(|len| *len <= bytes.len()).ok_or_else(|| {
                    let expected = format!("at most {} bytes", bytes.len());
                    corrupt("content inside the inode", at, expected, format!("{} bytes", self.size))
                })?;
                Ok(Fork::Local(bytes[..len].to_vec()))
            }
            (2, File | Directory | Symlink) => self.list(bytes, at, volume),
            (3, File | Directory | Symlink) => Ok(Fork::Tree(bmbt::root(bytes, at)?)),
            (code, kind) => Err(corrupt("format of the data fork", at, format!("one of {}", kind.noun()), code)),
        }
    }

    /// The attribute fork of an inode at byte `at`.
    pub fn read_attributes(self, bytes: &[u8], at: u64, volume: &Volume) -> Result<Fork, GuestError> {
        match self.code {
            1 => Ok(Fork::Local(bytes.to_vec())),
            2 => self.list(bytes, at, volume),
            3 => Ok(Fork::Tree(bmbt::root(bytes, at)?)),
            code => Err(corrupt("format of the attribute fork", at, "1 to 3", code)),
        }
    }

    fn list(self, bytes: &[u8], at: u64, volume: &Volume) -> Result<Fork, GuestError> {
        let most = bytes.len() / MAPPING_BYTES;
        let records = usize::try_from(self.extents).ok().filter(|records| *records <= most);
        let Some(records) = records else {
            return Err(corrupt("mappings in the inode", at, format!("at most {most}"), self.extents));
        };
        let mappings = mappings(bytes, records, at, volume)?;
        Ok(Fork::List(mappings))
    }
}

/// Takes apart and checks `records` mappings at the start of `bytes`, which lie at `at`.
pub(crate) fn mappings(bytes: &[u8], records: usize, at: u64, volume: &Volume) -> Result<Vec<Mapping>, GuestError> {
    // A damaged count fails before anything of its size is allocated.
    if records > bytes.len() / MAPPING_BYTES {
        return Err(too_short("mappings", at));
    }
    let (_, raw) = count((be_u64::<_, nom::error::Error<&[u8]>>, be_u64), records)
        .parse(bytes)
        .map_err(|_| too_short("mappings", at))?;
    let mut mappings = Vec::with_capacity(records);
    let mut known = 0;
    for (high, low) in raw {
        let mapping = mapping(high, low, at, volume)?;
        if mapping.offset < known {
            let expected = format!("one from block {known}");
            return Err(corrupt("mapping", at, expected, format!("one from block {}", mapping.offset)));
        }
        known = mapping.offset + mapping.count;
        mappings.push(mapping);
    }
    Ok(mappings)
}

/// A mapping, packed in 128 bits: unwritten 1, offset 54, volume block 52, count 21.
fn mapping(high: u64, low: u64, at: u64, volume: &Volume) -> Result<Mapping, GuestError> {
    let offset = high >> 9 & (FORK_BLOCKS_MAX - 1);
    let block = (high & 0x1ff) << 43 | low >> 21;
    let count = low & 0x1f_ffff;
    let place = volume.geometry.block_place(block, count).filter(|_| count > 0 && offset + count <= FORK_BLOCKS_MAX);
    let Some(place) = place else {
        let found = format!("{count} from block {block} for block {offset} of the file");
        return Err(corrupt("mapping", at, "blocks inside an allocation group", found));
    };
    Ok(Mapping { offset, count, at: place, unwritten: high >> 63 != 0 })
}

/// A run of a fork's blocks, or a gap between such runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First block in the fork.
    pub offset: u64,
    /// Blocks; not 0.
    pub count: u64,
    /// What is there.
    pub what: Stored,
}

/// What is stored for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Nothing.
    Hole,
    /// Space, without content.
    Unwritten,
    /// Content, from this byte of the volume.
    At(u64),
}

/// Mappings of a fork, as many as came with one look into it.
struct Batch<'a> {
    mappings: Cow<'a, [Mapping]>,
    /// Between the block asked for and this one, there are no others.
    until: u64,
}

/// Walks a range of a fork's blocks, run by run, without gaps.
pub(crate) struct Runs<'a> {
    volume: &'a Volume,
    fork: &'a Fork,
    owner: u64,
    batch: Batch<'a>,
    at: u64,
    end: u64,
}

impl<'a> Runs<'a> {
    /// The runs of blocks `at` to `end` of a fork of inode `owner`.
    pub fn new(volume: &'a Volume, fork: &'a Fork, owner: u64, at: u64, end: u64) -> Runs<'a> {
        let batch = Batch { mappings: Cow::Borrowed(&[]), until: at };
        Runs { volume, fork, owner, batch, at, end }
    }

    /// The next run; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Run>, GuestError> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.at >= self.batch.until {
            self.batch = self.fork.batch(self.volume, self.owner, self.at)?;
        }
        let at = self.at;
        let mappings = &self.batch.mappings;
        let next = mappings.partition_point(|mapping| mapping.offset + mapping.count <= at);
        let (until, what) = match mappings.get(next) {
            Some(mapping) if mapping.offset <= at && mapping.unwritten => {
                (mapping.offset + mapping.count, Stored::Unwritten)
            }
            Some(mapping) if mapping.offset <= at => {
                let skipped = (at - mapping.offset) << self.volume.geometry.block_log;
                (mapping.offset + mapping.count, Stored::At(mapping.at + skipped))
            }
            Some(mapping) => (mapping.offset, Stored::Hole),
            None => (self.batch.until, Stored::Hole),
        };
        self.at = until.min(self.end);
        Ok(Some(Run { offset: at, count: self.at - at, what }))
    }
}

impl Fork {
    fn batch<'a>(&'a self, volume: &Volume, owner: u64, block: u64) -> Result<Batch<'a>, GuestError> {
        Ok(match self {
            Fork::Device(_) | Fork::Local(_) => Batch { mappings: Cow::Borrowed(&[]), until: u64::MAX },
            Fork::List(mappings) => Batch { mappings: Cow::Borrowed(mappings), until: u64::MAX },
            Fork::Tree(root) => {
                let (mappings, until) = root.leaf_for(volume, owner, block)?;
                Batch { mappings: Cow::Owned(mappings), until }
            }
        })
    }

    /// Metadata in `count` blocks of a fork from `block`: its bytes, and where on the volume they begin. `None` if the
    /// first block is a hole. The caller bounds `count`.
    pub fn metadata(
        &self,
        volume: &Volume,
        owner: u64,
        block: u64,
        count: u64,
    ) -> Result<Option<(Vec<u8>, u64)>, GuestError> {
        let mut runs = Runs::new(volume, self, owner, block, block.saturating_add(count));
        let mut found: Option<(Vec<u8>, u64)> = None;
        while let Some(run) = runs.next()? {
            let at = match run.what {
                Stored::At(at) => at,
                Stored::Hole if run.offset == block => return Ok(None),
                Stored::Hole | Stored::Unwritten => {
                    let place = found.map_or(0, |(_, at)| at);
                    let hole = format!("none for block {} of inode {owner}", run.offset);
                    return Err(corrupt("metadata in a fork", place, "a stored block", hole));
                }
            };
            let len = usize::try_from(run.count << volume.geometry.block_log).expect("bounded by the caller");
            let bytes = volume.metadata(at, len)?;
            match &mut found {
                None => found = Some((bytes, at)),
                Some((all, _)) => all.extend_from_slice(&bytes),
            }
        }
        Ok(found)
    }
}
