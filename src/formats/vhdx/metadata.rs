//! What kind of disk it is: sizes, flags, and what a differencing disk remembers of its parent.
//!
//! Source: \[MS-VHDX\] 2.6.2 "Known Metadata Items".

use uuid::Uuid;

use super::header::{METADATA_TABLE_BYTES, RawItem, TABLE_ENTRIES_MAX, items, metadata_table, parent_locator};
use super::layout::{Region, Regions};
use super::{MIB, guid};
use crate::formats::ImageError;
use crate::formats::blocks::{BLOCK_BYTES_MAX, Geometry};
use crate::formats::file::Bytes;
use crate::units::FileOffset;

/// Largest disk, the format's own limit.
const DISK_BYTES_MAX: u64 = 64 << 40;
/// Longest parent locator we read: five values of at most 64 KiB each would fit.
const LOCATOR_BYTES_MAX: u32 = 1 << 20;

/// Metadata that make sense together.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub geometry: Geometry,
    /// Blocks whose sector bitmaps lie in one block of bitmaps.
    pub chunk_blocks: u64,
    /// All blocks were allocated when it was made.
    pub is_fixed: bool,
    pub parent: Option<ParentLocator>,
    /// What `inspect` shows.
    pub properties: Vec<(String, String)>,
}

/// What a differencing disk remembers of its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ParentLocator {
    /// The parent's "data write" GUID; a second one while the parent is being changed under it.
    pub linkage: Vec<Uuid>,
    /// Best first.
    pub names: Vec<Vec<u8>>,
}

/// Reads the items that a reader needs.
pub(crate) fn read(bytes: &dyn Bytes, regions: &Regions) -> Result<Metadata, ImageError> {
    let items = read_table(bytes, regions.metadata)?;
    let reader = ItemReader { bytes, region: regions.metadata, items: &items };
    for item in items.iter().filter(|item| item.is_required) {
        let known = [
            guid::FILE_PARAMETERS,
            guid::DISK_SIZE,
            guid::DISK_ID,
            guid::LOGICAL_SECTOR,
            guid::PHYSICAL_SECTOR,
            guid::PARENT_LOCATOR,
        ];
        if !known.contains(&item.guid) {
            return Err(bytes.file().unsupported(format!("the metadata item {}, which it requires", item.guid)));
        }
    }
    let (at, parameters) = reader.fixed::<8>(guid::FILE_PARAMETERS, "file parameters")?;
    let [a, b, c, d, flags, ..] = parameters;
    let block = u64::from(u32::from_le_bytes([a, b, c, d]));
    if !block.is_power_of_two() || !(MIB..=BLOCK_BYTES_MAX).contains(&block) {
        let expected = "a power of two from 1 MiB to 256 MiB";
        return Err(bytes.file().corrupt("block size", at, expected, block).into());
    }
    let (at, sector) = reader.fixed::<4>(guid::LOGICAL_SECTOR, "logical sector size")?;
    let sector = u64::from(u32::from_le_bytes(sector));
    if sector != 512 && sector != 4096 {
        return Err(bytes.file().corrupt("logical sector size", at, "512 or 4096", sector).into());
    }
    let (at, size) = reader.fixed::<8>(guid::DISK_SIZE, "disk size")?;
    let size = u64::from_le_bytes(size);
    if size == 0 || size > DISK_BYTES_MAX || !size.is_multiple_of(sector) {
        let expected = format!("whole sectors of {sector} bytes, at most {DISK_BYTES_MAX}");
        return Err(bytes.file().corrupt("disk size", at, expected, size).into());
    }
    let geometry = Geometry { size, block, sector };
    let chunk_blocks = (sector << 23) / block; // at least 16
    let has_parent = flags & 2 != 0;
    check_table(bytes, regions.table, geometry, chunk_blocks, has_parent)?;
    let parent = if has_parent { Some(reader.parent()?) } else { None };
    let mut properties = vec![
        ("vhdx.block_size".to_string(), block.to_string()),
        ("vhdx.logical_sector_size".to_string(), sector.to_string()),
    ];
    if let Ok((_, physical)) = reader.fixed::<4>(guid::PHYSICAL_SECTOR, "physical sector size") {
        let physical = u32::from_le_bytes(physical).to_string();
        properties.push(("vhdx.physical_sector_size".to_string(), physical));
    }
    if let Ok((_, id)) = reader.fixed::<16>(guid::DISK_ID, "disk id") {
        properties.push(("vhdx.disk_id".to_string(), Uuid::from_bytes_le(id).to_string()));
    }
    Ok(Metadata { geometry, chunk_blocks, is_fixed: flags & 1 != 0, parent, properties })
}

/// Refuses a table that has no entry for some block, or (in a differencing disk) for some bitmap.
fn check_table(
    bytes: &dyn Bytes,
    table: Region,
    geometry: Geometry,
    chunk_blocks: u64,
    has_parent: bool,
) -> Result<(), ImageError> {
    let blocks = geometry.blocks();
    let entries = match has_parent {
        true => blocks.div_ceil(chunk_blocks) * (chunk_blocks + 1),
        false => blocks + (blocks - 1) / chunk_blocks,
    };
    if entries * 8 > table.len {
        let expected = format!("at least {} bytes, for a disk of {} bytes", entries * 8, geometry.size);
        return Err(bytes.file().corrupt("block table", table.at, expected, table.len).into());
    }
    Ok(())
}

fn read_table(bytes: &dyn Bytes, region: Region) -> Result<Vec<RawItem>, ImageError> {
    let file = bytes.file();
    let table = bytes.read_vec("metadata table", region.at, METADATA_TABLE_BYTES)?;
    let (rest, entries) = metadata_table(&table).map_err(|_| {
        file.corrupt("metadata table", region.at, "the magic metadata", format!("{:02x?}", &table[..8]))
    })?;
    let too_many =
        || file.corrupt("metadata table", region.at, format!("at most {TABLE_ENTRIES_MAX} entries"), entries);
    if u32::from(entries) > TABLE_ENTRIES_MAX {
        return Err(too_many().into());
    }
    let (_, items) = items(entries.into())(rest).map_err(|_| too_many())?;
    Ok(items)
}

struct ItemReader<'a> {
    bytes: &'a dyn Bytes,
    region: Region,
    items: &'a [RawItem],
}

impl ItemReader<'_> {
    /// Where an item lies, and its length; it is inside the region, behind the table.
    fn find(&self, guid: Uuid, name: &'static str) -> Result<(FileOffset, u32), ImageError> {
        let file = self.bytes.file();
        let missing = || file.corrupt("metadata table", self.region.at, format!("an entry for {name}"), "none");
        let item = self.items.iter().find(|item| item.guid == guid).ok_or_else(missing)?;
        let end = u64::from(item.at) + u64::from(item.len);
        if u64::from(item.at) < METADATA_TABLE_BYTES || end > self.region.len {
            let expected = format!("a place inside the region of {} bytes, behind its table", self.region.len);
            let found = format!("{} bytes at {:#x}", item.len, item.at);
            return Err(file.corrupt(name, self.region.at, expected, found).into());
        }
        Ok((FileOffset(self.region.at.0 + u64::from(item.at)), item.len))
    }

    /// An item of at least `N` bytes.
    fn fixed<const N: usize>(&self, guid: Uuid, name: &'static str) -> Result<(FileOffset, [u8; N]), ImageError> {
        let (at, len) = self.find(guid, name)?;
        if usize::try_from(len).is_ok_and(|len| len < N) {
            return Err(self.bytes.file().corrupt(name, at, format!("{N} bytes"), format!("{len} bytes")).into());
        }
        let mut value = [0; N];
        self.bytes.read(name, at, &mut value)?;
        Ok((at, value))
    }

    fn parent(&self) -> Result<ParentLocator, ImageError> {
        let file = self.bytes.file();
        let (at, len) = self.find(guid::PARENT_LOCATOR, "parent locator")?;
        if len > LOCATOR_BYTES_MAX {
            let expected = format!("at most {LOCATOR_BYTES_MAX} bytes");
            return Err(file.corrupt("parent locator", at, expected, len).into());
        }
        let item = self.bytes.read_vec("parent locator", at, len.into())?;
        let cut = || file.corrupt("parent locator", at, "entries inside the item", format!("{len} bytes"));
        let (_, (kind, entries)) = parent_locator(&item).map_err(|_| cut())?;
        if kind != guid::LOCATOR_TYPE_VHDX {
            return Err(file.unsupported(format!("a parent locator of kind {kind}")));
        }
        let mut pairs = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = text(&item, entry.key_at, entry.key_len).ok_or_else(cut)?;
            let value = text(&item, entry.value_at, entry.value_len).ok_or_else(cut)?;
            pairs.push((key, value));
        }
        let value = |key: &str| pairs.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str());
        let mut linkage = Vec::new();
        for key in ["parent_linkage", "parent_linkage2"] {
            if let Some(text) = value(key) {
                let id = Uuid::parse_str(text).map_err(|_| file.corrupt("parent linkage", at, "a GUID", text))?;
                linkage.push(id);
            }
        }
        if linkage.is_empty() {
            return Err(file.corrupt("parent locator", at, "a parent_linkage", "none").into());
        }
        let names = ["relative_path", "absolute_win32_path", "volume_path"];
        let names = names.iter().filter_map(|key| value(key)).filter(|name| !name.is_empty());
        Ok(ParentLocator { linkage, names: names.map(|name| name.as_bytes().to_vec()).collect() })
    }
}

/// UTF-16LE inside an item; `None` if it leaves the item or is no text.
fn text(item: &[u8], at: u32, len: u16) -> Option<String> {
    let start = usize::try_from(at).ok()?;
    let bytes = item.get(start..start.checked_add(len.into())?)?;
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    Some(String::from_utf16(&units).ok()?.trim_end_matches('\0').to_string())
}
