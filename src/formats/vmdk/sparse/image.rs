//! A hosted sparse extent as a disk.
//!
//! The directory is loaded whole and every table it names is checked to lie inside the file. Where the first copy of the
//! directory is unusable and the second is sound, the second serves, with a warning. The two copies are never merged
//! where both are sound: which of them is newer cannot be known.

use std::sync::Arc;

use super::super::budget::Budget;
use super::header::{HEADER_BYTES, header};
use super::layout::{Directory, Layout, MapLayout};
use super::stream;
use crate::disk::{Disk, DiskError};
use crate::formats::ImageError;
use crate::formats::file::ImageFile;
use crate::formats::grains::{self, GrainMap};
use crate::formats::mapped::{Cell, Entry};
use crate::units::FileOffset;

/// Reads and checks the header at the beginning of `file`.
pub(crate) fn read_layout(file: &ImageFile) -> Result<Layout, ImageError> {
    read_layout_at(file, FileOffset(0))
}

fn read_layout_at(file: &ImageFile, at: FileOffset) -> Result<Layout, ImageError> {
    let bytes = file.read_vec("sparse extent header", at, HEADER_BYTES)?;
    let (_, raw) = header(&bytes)
        .map_err(|_| file.corrupt("sparse extent header", at, "the magic KDMV", format!("{:02x?}", &bytes[..4])))?;
    raw.validate(file, at)
}

/// Opens the map of a sparse extent; odd but harmless things go to `warnings`.
pub(in crate::formats::vmdk) fn open(
    file: &Arc<ImageFile>,
    layout: &MapLayout,
    budget: &mut Budget,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Disk>, ImageError> {
    let layout = match layout.directory {
        Directory::At(_) => layout.clone(),
        Directory::InFooter => footer_layout(file, layout)?,
    };
    budget.take(file, layout.geometry.tables() * 4)?;
    let directory = load_directory(file, &layout, warnings)?;
    let map = SectorMap { directory, has_zeroed_grains: layout.has_zeroed_grains };
    Ok(grains::disk(Arc::clone(file), layout.geometry, layout.storage, map))
}

/// The layout as the footer has it: the header's, with the directory's real place.
fn footer_layout(file: &ImageFile, from_header: &MapLayout) -> Result<MapLayout, ImageError> {
    let at = stream::footer_at(file)?;
    let layout = read_layout_at(file, at)?;
    match layout.map {
        Some(map) if map.geometry == from_header.geometry && map.directory != Directory::InFooter => Ok(map),
        _ => {
            let expected = "the header's sizes and the place of the grain directory";
            Err(file.corrupt("footer", at, expected, "others").into())
        }
    }
}

fn load_directory(file: &ImageFile, layout: &MapLayout, warnings: &mut Vec<String>) -> Result<Vec<u32>, ImageError> {
    let Directory::At(at) = layout.directory else {
        return Err(file.corrupt("grain directory offset", FileOffset(56), "a sector", "none").into());
    };
    let fault = match layout.read_directory(file, at) {
        Ok(directory) => match first_outside(file, layout, &directory) {
            None => return Ok(directory),
            Some((table, sector)) => {
                let place = FileOffset(at.0.saturating_add(table * 4));
                let expected = format!("a grain table inside the file of {} bytes", file.len());
                let found = format!("sector {sector} (a truncated image, or a damaged directory)");
                file.corrupt("grain directory entry", place, expected, found)
            }
        },
        Err(fault @ DiskError::Corrupt { .. }) => fault,
        Err(err) => return Err(err.into()),
    };
    let second = layout.redundant_directory.and_then(|at| layout.read_directory(file, at).ok());
    match second.filter(|directory| first_outside(file, layout, directory).is_none()) {
        Some(directory) => {
            warnings.push(format!("{fault}; the redundant grain directory is used instead"));
            Ok(directory)
        }
        None => Err(fault.into()),
    }
}

/// The first table that does not lie inside the file: its number and sector.
fn first_outside(file: &ImageFile, layout: &MapLayout, directory: &[u32]) -> Option<(u64, u32)> {
    (0u64..).zip(directory.iter().copied()).find(|(table, sector)| !layout.holds_table(file, *table, *sector))
}

/// Tables and grains by sector number; 0 means nothing there.
struct SectorMap {
    directory: Vec<u32>,
    has_zeroed_grains: bool,
}

impl GrainMap for SectorMap {
    const ENTRY: Entry = Entry::Le32;

    fn table_at(&self, table: u64) -> Option<FileOffset> {
        let sector = *self.directory.get(usize::try_from(table).ok()?)?;
        if sector == 0 { None } else { FileOffset::from_sector(u64::from(sector)) }
    }

    fn grain(&self, entry: u64) -> Cell {
        match entry {
            0 => Cell::Hole,
            1 if self.has_zeroed_grains => Cell::Zero,
            1 => Cell::Invalid("0 or a sector behind the header (1 means zeros only if flag 0x4 is set)"),
            sector => match FileOffset::from_sector(sector) {
                Some(at) => Cell::Stored(at),
                None => Cell::Invalid("a sector below 2^55"),
            },
        }
    }
}
