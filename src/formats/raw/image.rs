//! A run of a file as a [`Disk`]: a whole raw image or block device, or one flat extent of a VMDK.
//!
//! Holes come from `SEEK_DATA`/`SEEK_HOLE`. Such a map is not stable (an unwritten extent turns into data once its
//! zero pages are cached), so it serves to skip reading and never to compare.

use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::formats::file::ImageFile;
use crate::formats::{ImageError, Layer};
use crate::units::{ByteLen, FileOffset, GuestOffset, SECTOR_BYTES};

/// Bytes of a file as a disk; the disk may be longer than what is stored, the rest is zeros.
pub(crate) struct FileRun {
    file: Arc<ImageFile>,
    start: u64,
    stored: u64,
    size: u64,
    /// What a hole of the file is to a layer above or below: nothing (base) or zeros (a flat extent stores everything).
    hole: ExtentKind,
    /// The last answer of the filesystem, as file offsets: extents are asked for in order.
    last: Mutex<Option<Run>>,
}

/// A run of the file, from `start` up to `end`.
#[derive(Clone, Copy)]
struct Run {
    start: u64,
    end: u64,
    is_data: bool,
}

impl FileRun {
    /// The `stored` bytes from `start`, which must lie in the file, as a disk of `size` ≥ `stored` bytes.
    pub(crate) fn new(
        file: Arc<ImageFile>,
        start: FileOffset,
        stored: u64,
        size: u64,
        hole: ExtentKind,
    ) -> Result<FileRun, DiskError> {
        file.check_holds("flat extent", start, stored)?;
        Ok(FileRun { file, start: start.0, stored, size, hole, last: Mutex::new(None) })
    }

    /// The run of the file that covers file offset `at`.
    fn run_at(&self, at: u64) -> Result<Run, DiskError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = *last
            && (run.start..run.end).contains(&at)
        {
            return Ok(run);
        }
        let run = self.ask(at).map_err(|err| DiskError::Read {
            file: self.file.path().to_path_buf(),
            at: FileOffset(at),
            len: 0,
            source: err.into(),
        })?;
        *last = Some(run);
        Ok(run)
    }

    fn ask(&self, at: u64) -> Result<Run, Errno> {
        let end = self.start + self.stored;
        if self.file.is_device() {
            return Ok(Run { start: at, end, is_data: true });
        }
        // The kernel counts from the beginning of the file, which may be an archive around this image.
        let seek = |to: fn(u64) -> SeekFrom| {
            let found = rustix::fs::seek(self.file.as_file(), to(self.file.start() + at))?;
            Ok(found.saturating_sub(self.file.start()))
        };
        match seek(SeekFrom::Data) {
            Ok(data) if data > at => Ok(Run { start: at, end: data.min(end), is_data: false }),
            Ok(_) => {
                let hole = seek(SeekFrom::Hole)?;
                // A hole right here means that the file changes under us: one byte of progress is enough.
                Ok(Run { start: at, end: hole.clamp(at + 1, end), is_data: true })
            }
            Err(Errno::NXIO) => Ok(Run { start: at, end, is_data: false }), // no data up to the end
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Run { start: at, end, is_data: true }), // no maps here
            Err(err) => Err(err),
        }
    }
}

impl Disk for FileRun {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        let stored = usize::try_from(self.stored.saturating_sub(at.0)).unwrap_or(usize::MAX).min(buf.len());
        let (stored, beyond) = buf.split_at_mut(stored);
        beyond.fill(0);
        if stored.is_empty() {
            return Ok(());
        }
        self.file.read("data", FileOffset(self.start + at.0), stored)
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        let left = check_inside(self.size(), at)?;
        if at.0 >= self.stored {
            return Ok(Extent { kind: self.hole, len: left });
        }
        let run = self.run_at(self.start + at.0)?;
        let kind = if run.is_data { ExtentKind::Data } else { self.hole };
        Ok(Extent { kind, len: ByteLen(run.end - self.start - at.0) })
    }
}

/// A raw image as the only layer of its chain.
pub(crate) fn open(file: ImageFile) -> Result<Layer, ImageError> {
    let len = file.len();
    let path = file.path().to_path_buf();
    let size = len
        .checked_next_multiple_of(SECTOR_BYTES)
        .ok_or_else(|| file.corrupt("file length", FileOffset(0), "less than 2^64 bytes", len))?;
    let mut warnings = Vec::new();
    if size != len {
        warnings.push(format!(
            "its {len} bytes are not whole sectors: the disk has {size} bytes, the last {} of them zeros",
            size - len
        ));
    }
    let variant = if file.is_device() { "raw block device" } else { "raw" };
    let files = vec![file.state().clone()];
    let disk = FileRun::new(Arc::new(file), FileOffset(0), len, size, ExtentKind::Hole)?;
    Ok(Layer {
        disk: Arc::new(disk),
        path,
        files,
        variant: variant.to_string(),
        content_id: String::new(),
        parent_content_id: None,
        properties: Vec::new(),
        in_use: None,
        warnings,
        notes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::conformance;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn image(len: u64, writes: &[(u64, &[u8])]) -> (tempfile::TempDir, ImageFile, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let file = File::create(&path).unwrap();
        file.set_len(len).unwrap();
        for (at, bytes) in writes {
            file.write_all_at(bytes, *at).unwrap();
        }
        let content = std::fs::read(&path).unwrap();
        let image = ImageFile::new(&path, File::open(&path).unwrap()).unwrap();
        (dir, image, content)
    }

    #[test]
    fn holes_and_data_are_told_apart() {
        let (_dir, file, content) = image(4 << 20, &[(1 << 20, &[7; 65536]), (3 << 20, &[9; 4096])]);
        let layer = open(file).unwrap();
        conformance::check(layer.disk.as_ref(), &content);
        let hole = layer.disk.extent_at(GuestOffset(0)).unwrap();
        assert_eq!(hole, Extent { kind: ExtentKind::Hole, len: ByteLen(1 << 20) });
        let data = layer.disk.extent_at(GuestOffset(1 << 20)).unwrap();
        assert_eq!(data, Extent { kind: ExtentKind::Data, len: ByteLen(65536) });
        assert!(layer.warnings.is_empty());
    }

    #[test]
    fn half_a_sector_is_padded_and_said() {
        for (len, size) in [(0u64, 0), (1, 512), (511, 512), (512, 512), (513, 1024)] {
            let (_dir, file, mut content) = image(len, &[]);
            content.resize(size, 0);
            let layer = open(file).unwrap();
            conformance::check(layer.disk.as_ref(), &content);
            assert_eq!(layer.warnings.len(), usize::from(len != size as u64), "{len}");
        }
    }

    #[test]
    fn a_flat_extent_starts_and_ends_inside_its_file() {
        let (_dir, file, content) = image(1 << 20, &[(0, &[1; 8192]), (65536, &[2; 8192])]);
        let file = Arc::new(file);
        let run = |start, len| FileRun::new(Arc::clone(&file), FileOffset(start), len, len, ExtentKind::Zero);
        conformance::check(&run(4096, 131_072).unwrap(), &content[4096..4096 + 131_072]);
        conformance::check(&run(0, 1 << 20).unwrap(), &content);
        assert_eq!(run(8192, 512).unwrap().extent_at(GuestOffset(0)).unwrap().kind, ExtentKind::Zero);
        for (start, len) in [(512, 1 << 20), (1 << 20, 512), (u64::MAX, 512)] {
            assert!(run(start, len).err().unwrap().to_string().contains("truncated image"));
        }
    }
}
