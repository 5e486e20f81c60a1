//! A QED file as a disk: what this file alone stores, its holes meaning "ask the backing file".

use std::sync::Arc;

use super::layout::{MapLayout, is_cluster};
use crate::disk::{Disk, DiskError};
use crate::formats::file::ImageFile;
use crate::formats::grains::{self, GrainMap, Storage};
use crate::formats::mapped::{Cell, Entry, Names};
use crate::units::FileOffset;

/// Loads the first table, every second table of which must lie inside the file, and opens the disk.
pub(super) fn open(file: &Arc<ImageFile>, layout: MapLayout) -> Result<Arc<dyn Disk>, DiskError> {
    let MapLayout { geometry, l1_at, l1_entries, slices, header } = layout;
    let bytes = file.read_vec("L1 table", l1_at, l1_entries * 8)?;
    let l1: Vec<u64> = Entry::Le64.all(&bytes).collect();
    let covers = geometry.grains_per_table * slices;
    for (number, at) in (0u64..).zip(&l1).filter(|(_, at)| **at != 0) {
        let clusters = geometry.size.div_ceil(geometry.grain) - number * covers;
        let needed = clusters.min(covers) * 8;
        if !is_cluster(*at, geometry.grain, header) || file.check_holds("L2 table", FileOffset(*at), needed).is_err() {
            let expected = format!(
                "an L2 table at a multiple of {} bytes inside the file of {} bytes",
                geometry.grain,
                file.len()
            );
            let place = FileOffset(l1_at.0 + number * 8);
            return Err(file.corrupt(
                "L1 table entry",
                place,
                expected,
                format_args!("{at:#x} (a truncated image, or a damaged table)"),
            ));
        }
    }
    let map = TableMap { l1, slices, slice_bytes: geometry.grains_per_table * 8, cluster: geometry.grain, header };
    Ok(grains::disk(Arc::clone(file), geometry, Storage::Plain, map))
}

/// Slices of second tables.
struct TableMap {
    l1: Vec<u64>,
    slices: u64,
    slice_bytes: u64,
    cluster: u64,
    header: u64,
}

impl GrainMap for TableMap {
    const ENTRY: Entry = Entry::Le64;
    const NAMES: Names = Names { entry: "L2 table entry", cell: "cluster" };

    fn table_at(&self, slice: u64) -> Option<FileOffset> {
        match *self.l1.get(usize::try_from(slice / self.slices).ok()?)? {
            0 => None,
            at => Some(FileOffset(at + slice % self.slices * self.slice_bytes)),
        }
    }

    fn grain(&self, entry: u64) -> Cell {
        match entry {
            0 => Cell::Hole,
            1 => Cell::Zero,
            at if is_cluster(at, self.cluster, self.header) => Cell::Stored(FileOffset(at)),
            _ => Cell::Invalid("0, 1 or a multiple of the cluster size behind the header"),
        }
    }
}
