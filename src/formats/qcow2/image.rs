//! One state of a qcow2 file as a [`Disk`]: what this file alone stores, its holes meaning "ask the backing file".

use std::sync::Arc;

use super::compressed;
use super::layout::Compression;
use super::tables::Tables;
use crate::disk::{Disk, DiskError};
use crate::formats::file::{Bytes, ImageFile};
use crate::formats::mapped::{CellMap, MappedDisk, Names, Packed, Piece, Runs, Unpacker};
use crate::units::FileOffset;

/// The state that `tables` map; its clusters lie in `data`, the image itself or its data file.
pub(super) fn disk(data: Arc<ImageFile>, compression: Compression, tables: Tables) -> Arc<dyn Disk> {
    Arc::new(MappedDisk::new(Clusters { data, compression, tables }))
}

/// The active state, or a snapshot's.
struct Clusters {
    data: Arc<ImageFile>,
    compression: Compression,
    tables: Tables,
}

impl CellMap for Clusters {
    const NAMES: Names = Names { entry: "L2 table entry", cell: "cluster" };
    // Slices. One is a few runs as a rule, and 400 KiB if every subcluster is a run of its own.
    const PIECES_CACHED: usize = 64;

    fn size(&self) -> u64 {
        self.tables.geometry().size
    }

    fn cell(&self) -> u64 {
        self.tables.geometry().cluster()
    }

    fn table_file(&self) -> &ImageFile {
        self.tables.file()
    }

    fn cells(&self) -> &dyn Bytes {
        self.data.as_ref()
    }

    fn piece_at(&self, at: u64) -> Result<Piece, DiskError> {
        self.tables.slice_at(at)
    }

    fn load(&self, piece: &Piece, entries_at: FileOffset, runs: &mut Runs) -> Result<(), DiskError> {
        self.tables.load(piece, entries_at, runs)
    }

    fn unpack(&self, packed: Packed, unpacker: &mut Unpacker, out: &mut [u8]) -> Result<(), DiskError> {
        compressed::read_cluster(&self.data, self.compression, packed, unpacker, out)
    }
}
