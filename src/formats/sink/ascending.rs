//! Images that are written front to back, their cells (grains, clusters) compressed on several threads and stored in
//! order, each table behind the cells it leads to.
//!
//! In here: the order, the threads, and when a table is left. Not in here: how a cell is packed, what a table is; that is
//! [`TableWriter`]. One call at a time: a call's cells are cut into a share for each thread, and the shares come back in
//! their order, so what is stored does not depend on the number of threads.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::new_file::NewFile;
use super::{DiskSink, TargetError, WriteOrder, check_blocks, check_inside, failed, is_zero};
use crate::formats::ImageError;
use crate::units::{ByteLen, GuestOffset};

/// Threads that compress; more would wait for the medium.
const WORKERS_MAX: usize = 8;
/// Disk compressed at once by one thread. All threads together hold at most about this, times [`WORKERS_MAX`].
const SHARE_BYTES: usize = 2 << 20;

/// A numbered cell of the disk; only the disk's last may be shorter than a cell.
pub(in crate::formats) type Numbered<'a> = (u64, &'a [u8]);

/// A format that is written front to back.
pub(in crate::formats) trait TableWriter: Send {
    /// Size of a cell in bytes.
    const CELL: usize;
    /// Bytes of the disk that a table leads to: whole cells.
    const TABLE_COVERS: u64;
    /// What comes out of some cells.
    type Share<'a>: Send;

    /// The file under construction.
    fn file(&self) -> &NewFile;

    /// Packs cells, none of them all zeros; several threads do so at once.
    fn pack<'a>(cells: &[Numbered<'a>]) -> io::Result<Self::Share<'a>>;

    /// Stores packed cells, which all belong to the current table.
    fn put(&mut self, shares: Vec<Self::Share<'_>>) -> Result<(), TargetError>;

    /// Stores table number `table`, if a cell is in it, and begins a new one.
    fn leave(&mut self, table: usize) -> Result<(), TargetError>;

    /// When all tables are left: writes what the format needs at the end, and gives the file its name.
    fn close(self) -> Result<PathBuf, TargetError>;
}

/// An image under construction.
#[derive(Debug)]
pub(in crate::formats) struct AscendingSink<W> {
    target: PathBuf,
    size: ByteLen,
    workers: usize,
    warnings: Vec<String>,
    progress: Mutex<Progress<W>>,
}

/// How far it has come.
#[derive(Debug)]
struct Progress<W> {
    writer: W,
    /// Guest offset below which nothing can be written any more.
    passed: u64,
    /// Which table is being filled.
    table: usize,
}

impl<W: TableWriter> AscendingSink<W> {
    /// A disk of `size` bytes, of which nothing is written yet; `warnings`: what of the source could not be kept.
    pub fn new(writer: W, size: ByteLen, warnings: Vec<String>) -> AscendingSink<W> {
        let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let target = writer.file().target().to_owned();
        AscendingSink {
            target,
            size,
            workers,
            warnings,
            progress: Mutex::new(Progress { writer, passed: 0, table: 0 }),
        }
    }
}

impl<W: TableWriter> Progress<W> {
    fn write_at(&mut self, at: u64, data: &[u8], workers: usize) -> Result<(), TargetError> {
        let mut rest = data;
        let mut at = at;
        while !rest.is_empty() {
            let table = usize::try_from(at / W::TABLE_COVERS).expect("a table of a disk whose directory is in memory");
            if table != self.table {
                self.writer.leave(self.table)?;
                self.table = table;
            }
            let to_table_end = usize::try_from(W::TABLE_COVERS - at % W::TABLE_COVERS).unwrap_or(usize::MAX);
            let part;
            (part, rest) = rest.split_at(rest.len().min(to_table_end).min(SHARE_BYTES * workers));
            self.put(at, part, workers)?;
            at += part.len() as u64;
            self.passed = at;
        }
        Ok(())
    }

    /// Packs and stores cells that all belong to the current table.
    fn put(&mut self, at: u64, data: &[u8], workers: usize) -> Result<(), TargetError> {
        let numbered = (at / W::CELL as u64..).zip(data.chunks(W::CELL));
        let cells: Vec<_> = numbered.filter(|(_, cell)| !is_zero(cell)).collect();
        if cells.is_empty() {
            return Ok(());
        }
        let shares = pack_on(workers, &cells, W::pack)
            .inspect_err(|_| self.writer.file().mark_broken())
            .map_err(failed("compress for", self.writer.file().target()))?;
        self.writer.put(shares)
    }
}

/// Packs on up to `workers` threads, this one included; shares come back in order.
fn pack_on<'c, 'a, S: Send>(
    workers: usize,
    cells: &'c [Numbered<'a>],
    pack: impl Fn(&'c [Numbered<'a>]) -> io::Result<S> + Sync,
) -> io::Result<Vec<S>> {
    let mut parts = cells.chunks(cells.len().div_ceil(workers).max(1));
    let own = parts.next().unwrap_or_default();
    let pack = &pack;
    thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(move || pack(part))).collect();
        let mut shares = vec![pack(own)?];
        for other in others {
            shares.push(other.join().expect("compressing does not panic")?);
        }
        Ok(shares)
    })
}

impl<W: TableWriter> DiskSink for AscendingSink<W> {
    fn order(&self) -> WriteOrder {
        WriteOrder::Ascending
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn write_at(&self, at: GuestOffset, data: &[u8]) -> Result<(), ImageError> {
        let len = data.len() as u64;
        check_blocks(&self.target, self.size, at, len, W::CELL as u64)?;
        // A panic in another call would have left a piece half written; the order is then refused or the file broken.
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if at.0 < progress.passed {
            let expected = format!("ascending offsets, from {:#x} on", progress.passed);
            return Err(TargetError::Call { file: self.target.clone(), at, len, expected }.into());
        }
        Ok(progress.write_at(at.0, data, self.workers)?)
    }

    fn write_zeros(&self, at: GuestOffset, len: u64) -> Result<(), ImageError> {
        // The file is new: what nobody writes reads as zeros already.
        Ok(check_inside(&self.target, self.size, at, len)?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<PathBuf>, ImageError> {
        let Progress { mut writer, table, .. } = self.progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        writer.file().check_whole()?;
        writer.leave(table)?;
        Ok(vec![writer.close()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::sink::Overwrite;
    use crate::units::FileOffset;

    /// Cells of 4 bytes, tables of 4 cells; what was put and left goes into a file as text.
    #[derive(Debug)]
    struct Log(NewFile, String);

    impl TableWriter for Log {
        const CELL: usize = 4;
        const TABLE_COVERS: u64 = 16;
        type Share<'a> = String;

        fn file(&self) -> &NewFile {
            &self.0
        }
        fn pack(cells: &[Numbered<'_>]) -> io::Result<String> {
            match cells.iter().any(|(_, cell)| cell[0] == 255) {
                true => Err(io::Error::other("255 does not compress")),
                false => Ok(cells.iter().map(|(number, cell)| format!("{number}={} ", cell[0])).collect()),
            }
        }
        fn put(&mut self, shares: Vec<String>) -> Result<(), TargetError> {
            self.1.extend(shares);
            Ok(())
        }
        fn leave(&mut self, table: usize) -> Result<(), TargetError> {
            self.1 += &format!("[{table}] ");
            Ok(())
        }
        fn close(self) -> Result<PathBuf, TargetError> {
            self.0.write_all_at(FileOffset(0), self.1.as_bytes())?;
            self.0.publish()
        }
    }

    fn sink(path: &std::path::Path, workers: usize) -> Box<AscendingSink<Log>> {
        let log = Log(NewFile::create(path, Overwrite::Refuse).unwrap(), String::new());
        Box::new(AscendingSink { workers, ..AscendingSink::new(log, ByteLen(70), Vec::new()) })
    }

    #[test]
    fn cells_come_in_order_and_tables_are_left_behind_them_whatever_the_workers() {
        let dir = tempfile::tempdir().unwrap();
        for workers in [1, 2, 3, 8] {
            let path = dir.path().join(workers.to_string());
            let sink = sink(&path, workers);
            let data: Vec<u8> = (1..=7u8).flat_map(|byte| [if byte == 3 { 0 } else { byte }; 4]).collect();
            sink.write_at(GuestOffset(4), &data).unwrap();
            sink.write_at(GuestOffset(64), &[9; 6]).unwrap();
            sink.finish().unwrap();
            let said = std::fs::read_to_string(&path).unwrap();
            assert_eq!(said, "1=1 2=2 [0] 4=4 5=5 6=6 7=7 [1] 16=9 17=9 [4] ", "{workers}");
        }
    }

    #[test]
    fn what_was_passed_or_failed_cannot_be_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let going_back = sink(&path, 2);
        going_back.write_at(GuestOffset(8), &[1; 4]).unwrap();
        for at in [0, 8] {
            let outcome = going_back.write_at(GuestOffset(at), &[1; 4]);
            assert!(matches!(outcome, Err(ImageError::Target(TargetError::Call { .. }))), "{outcome:?}");
        }
        drop(going_back);
        let failing = sink(&path, 2);
        assert!(failing.write_at(GuestOffset(0), &[255; 4]).unwrap_err().to_string().contains("cannot compress for"));
        assert!(matches!(failing.finish(), Err(ImageError::Target(TargetError::Incomplete { .. }))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
