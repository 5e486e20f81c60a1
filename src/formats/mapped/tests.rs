//! Runs of table cells: what is found, against a plain model of the same table.

use std::fs::File;

use super::*;
use crate::disk::conformance;

#[test]
fn entries_are_numbers_of_either_order() {
    let table = [1u8, 2, 3, 4, 5, 6, 7, 8];
    let check = |entry: Entry, expected: &[u64]| assert_eq!(entry.all(&table).collect::<Vec<_>>(), expected);
    check(Entry::Le32, &[0x0403_0201, 0x0807_0605]);
    check(Entry::Be32, &[0x0102_0304, 0x0506_0708]);
    check(Entry::Le64, &[0x0807_0605_0403_0201]);
    check(Entry::Be64, &[0x0102_0304_0506_0708]);
}

const CELL: usize = 1024;
const PIECE: u64 = 4 * CELL as u64;

/// Pieces of four cells; `None` is an absent piece. A packed cell is a byte that fills it.
struct Toy {
    file: ImageFile,
    pieces: Vec<Option<[Cell; 4]>>,
    size: u64,
}

impl CellMap for Toy {
    const NAMES: Names = Names { entry: "toy entry", cell: "toy cell" };
    const PIECES_CACHED: usize = 2;

    fn size(&self) -> u64 {
        self.size
    }
    fn cell(&self) -> u64 {
        CELL as u64
    }
    fn table_file(&self) -> &ImageFile {
        &self.file
    }
    fn cells(&self) -> &dyn Bytes {
        &self.file
    }
    fn piece_at(&self, at: u64) -> Result<Piece, DiskError> {
        let number = at / PIECE;
        let (start, end) = (number * PIECE, self.size.min((number + 1) * PIECE));
        Ok(Piece { number, start, end, entries_at: self.pieces[number as usize].map(|_| FileOffset(number)) })
    }
    fn load(&self, piece: &Piece, entries_at: FileOffset, runs: &mut Runs) -> Result<(), DiskError> {
        let cells = self.pieces[piece.number as usize].unwrap();
        for (start, cell) in (piece.start..piece.end).step_by(CELL).zip(cells) {
            runs.push(start, CELL as u64, cell, (entries_at, 99));
        }
        Ok(())
    }
    fn unpacked_len(&self, start: u64) -> u64 {
        (CELL as u64).min(self.size - start)
    }
    fn unpack(&self, packed: Packed, unpacker: &mut Unpacker, out: &mut [u8]) -> Result<(), DiskError> {
        let (window, _) = unpacker.deflate(false);
        out.fill(window.get(&self.file, "toy cell", packed.at, (packed.len, packed.ahead))?[0]);
        Ok(())
    }
}

fn toy(pieces: &[Option<[Cell; 4]>], size: u64) -> (tempfile::TempDir, MappedDisk<Toy>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy");
    std::fs::write(&path, (0..32 * CELL).map(|at| (at / CELL) as u8).collect::<Vec<_>>()).unwrap();
    let file = ImageFile::new(&path, File::open(&path).unwrap()).unwrap();
    (dir, MappedDisk::new(Toy { file, pieces: pieces.to_vec(), size }))
}

const fn at(cell: u64) -> FileOffset {
    FileOffset(cell * CELL as u64)
}

#[test]
fn every_kind_of_cell_reads_as_what_it_is() {
    let (stored, packed) = (|cell| Cell::Stored(at(cell)), |cell| Cell::Packed(at(cell), 1));
    let pieces = [
        Some([stored(5), stored(6), packed(7), packed(3)]),
        None,
        Some([Cell::Zero, Cell::Hole, packed(2), stored(8)]),
        Some([packed(9), Cell::Zero, Cell::Zero, Cell::Zero]),
    ];
    let size = 3 * PIECE + 512;
    let (_dir, disk) = toy(&pieces, size);
    let of_cells = [5, 6, 7, 3, 0, 0, 0, 0, 0, 0, 2, 8, 9];
    let mut expected: Vec<u8> = of_cells.into_iter().flat_map(|byte: u8| [byte; CELL]).collect();
    expected.truncate(size as usize);
    conformance::check(&disk, &expected);
    let extent = |at| disk.extent_at(GuestOffset(at)).map(|extent| (extent.kind, extent.len.0)).unwrap();
    assert_eq!(extent(10), (ExtentKind::Data, PIECE - 10));
    assert_eq!(extent(PIECE), (ExtentKind::Hole, PIECE), "the piece behind it has to be read first");
    assert_eq!(extent(2 * PIECE), (ExtentKind::Zero, CELL as u64));
    assert_eq!(extent(3 * PIECE), (ExtentKind::Data, 512));
}

#[test]
fn a_fault_is_said_only_where_it_is() {
    let bad = [Cell::Stored(at(1)), Cell::Invalid("no 99"), Cell::Stored(at(32)), Cell::Mixed(at(1))];
    let (_dir, disk) = toy(&[Some(bad)], PIECE);
    let mut cell = [0; CELL];
    disk.read_at(GuestOffset(0), &mut cell).unwrap();
    assert_eq!(disk.extent_at(GuestOffset(0)).unwrap().len.0, CELL as u64);
    let mut check = |at, said: &str| {
        let read = disk.read_at(GuestOffset(at), &mut cell).unwrap_err().to_string();
        assert!(read.contains(said), "{read}");
        assert_eq!(read, disk.extent_at(GuestOffset(at)).unwrap_err().to_string());
    };
    check(1024, "toy entry at offset 0x0: expected no 99, found 0x63");
    check(2048, "toy cell at offset 0x8000: expected 1024 bytes there, found a truncated image of 32768 bytes");
    check(3072, "toy cell at offset 0x400: expected a format with bitmaps");
}
