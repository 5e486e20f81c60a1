//! One open file of an image: its bytes at an offset, and what it was when it was opened.
//!
//! In here: reading with offset and file in every error, and telling "the image is cut short" from "somebody changed the
//! file" from "the medium failed"; and `Bytes`, for what stands between a file and its readers. Not in here: which files
//! may be opened (`policy`), what their bytes mean.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{FileState, ImageError};
use crate::archive;
use crate::disk::DiskError;
use crate::uncached::Uncached;
use crate::units::{ByteLen, FileOffset};

/// An open image file or block device, read only; or a member of an archive, read where it lies in it.
pub struct ImageFile {
    file: File,
    /// The name it was opened by; a member's goes on behind that of its archive.
    path: PathBuf,
    /// The whole file, the archive of a member.
    state: FileState,
    is_device: bool,
    /// If it is to be read once.
    uncached: Option<Uncached>,
    /// Where the image begins in the file, and how long it is.
    start: u64,
    len: u64,
}

impl FileState {
    /// What the file behind `path` is now; symlinks are followed.
    ///
    /// # Errors
    /// What the system says.
    pub fn of_path(path: &Path) -> io::Result<FileState> {
        let meta = std::fs::metadata(path)?;
        let len = if meta.file_type().is_block_device() { device_len(&File::open(path)?)? } else { meta.len() };
        Ok(FileState::from_metadata(path, &meta, len))
    }

    /// What the open `file`, called `path`, is now.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(path: &Path, file: &File) -> io::Result<FileState> {
        let meta = file.metadata()?;
        let len = if meta.file_type().is_block_device() { device_len(file)? } else { meta.len() };
        Ok(FileState::from_metadata(path, &meta, len))
    }

    fn from_metadata(path: &Path, meta: &Metadata, len: u64) -> FileState {
        let nanoseconds = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        FileState {
            path: path.to_path_buf(),
            len,
            device: meta.dev(),
            inode: meta.ino(),
            modified_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// A block device's size is not in its metadata; its end is where seeking to the end arrives.
fn device_len(mut device: &File) -> io::Result<u64> {
    device.seek(SeekFrom::End(0))
}

impl ImageFile {
    /// Takes over an open file; remembers what it is now.
    ///
    /// # Errors
    /// What the system says about its metadata.
    pub(crate) fn new(path: &Path, file: File) -> io::Result<ImageFile> {
        let meta = file.metadata()?;
        let is_device = meta.file_type().is_block_device();
        let len = if is_device { device_len(&file)? } else { meta.len() };
        let state = FileState::from_metadata(path, &meta, len);
        Ok(ImageFile { file, path: path.to_path_buf(), state, is_device, uncached: None, start: 0, len })
    }

    /// The same, read for good: what is read of it does not fill the page cache.
    pub(crate) fn read_once(self) -> ImageFile {
        ImageFile { uncached: Some(Uncached::default()), ..self }
    }

    /// The member of that name, if this is an archive.
    ///
    /// # Errors
    /// [`ImageError::Archive`].
    pub(crate) fn member(self, name: &str) -> Result<ImageFile, ImageError> {
        let member = archive::member_of(&self.file, self.len, &self.path, name)?;
        Ok(ImageFile { path: self.path.join(&member.name), start: member.at, len: member.len, ..self })
    }

    /// The name it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it is a block device rather than a regular file.
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// What it was when it was opened; of a member, what its archive was.
    pub fn state(&self) -> &FileState {
        &self.state
    }

    /// The open file itself, for system calls that need it; the image begins there at [`ImageFile::start`].
    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }

    /// Where the image begins in the open file: 0, unless it is a member of an archive.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Fills `buf` from offset `at`; `field` says what is being read, should the file be too short for it.
    ///
    /// # Errors
    /// `Corrupt` if the image claims bytes past its end, `Changed` if the file has shrunk, `Read` if the medium fails.
    pub(crate) fn read(&self, field: &'static str, at: FileOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let len = buf.len() as u64;
        self.check_holds(field, at, len)?;
        // Inside the file by the check: a member lies in its archive whole.
        let from = self.start + at.0;
        let outcome = match &self.uncached {
            Some(uncached) => uncached.read_exact_at(&self.file, buf, from),
            None => self.file.read_exact_at(buf, from),
        };
        outcome.map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => DiskError::Changed {
                file: self.path_buf(),
                what: format!("it had {} bytes when it was opened and now ends before {}", self.len(), at.0 + len),
            },
            _ => DiskError::Read { file: self.path_buf(), at, len, source },
        })
    }

    /// Reads `len` bytes into a new buffer; nothing is allocated before the file is known to hold them.
    ///
    /// # Errors
    /// As [`ImageFile::read`].
    pub(crate) fn read_vec(&self, field: &'static str, at: FileOffset, len: u64) -> Result<Vec<u8>, DiskError> {
        self.check_holds(field, at, len)?;
        let len = usize::try_from(len)
            .map_err(|_| self.corrupt(field, at, "a table that fits into memory", format_args!("{len} bytes")))?;
        let mut buf = vec![0; len];
        self.read(field, at, &mut buf)?;
        Ok(buf)
    }

    /// Refuses a range that leaves the file.
    ///
    /// # Errors
    /// `Corrupt`, as a truncated image.
    pub(crate) fn check_holds(&self, field: &'static str, at: FileOffset, len: u64) -> Result<(), DiskError> {
        match at.checked_add(ByteLen(len)) {
            Some(end) if end.0 <= self.len() => Ok(()),
            _ => Err(self.truncated(field, at, len)),
        }
    }

    /// The error for an image that ends before something it claims to hold.
    pub(crate) fn truncated(&self, field: &'static str, at: FileOffset, len: u64) -> DiskError {
        self.corrupt(
            field,
            at,
            format_args!("{len} bytes there"),
            format_args!("a truncated image of {} bytes", self.len()),
        )
    }

    /// The error for something wrong at `at`.
    pub(crate) fn corrupt(
        &self,
        field: &'static str,
        at: FileOffset,
        expected: impl ToString,
        found: impl ToString,
    ) -> DiskError {
        let (expected, found) = (expected.to_string(), found.to_string());
        DiskError::Corrupt { file: self.path_buf(), field, at, expected, found }
    }

    /// The error for something this version cannot read.
    pub(crate) fn unsupported(&self, feature: impl Into<String>) -> ImageError {
        ImageError::Unsupported { file: self.path_buf(), feature: feature.into() }
    }

    fn path_buf(&self) -> PathBuf {
        self.path.clone()
    }
}

/// The bytes of an image file, as its structures are to be read: the file itself, or the file under its own log.
pub(crate) trait Bytes: Send + Sync {
    /// The file, to name it in errors.
    fn file(&self) -> &ImageFile;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// As [`ImageFile::read`].
    fn read(&self, field: &'static str, at: FileOffset, buf: &mut [u8]) -> Result<(), DiskError>;

    /// Refuses a range that leaves the file.
    fn check_holds(&self, field: &'static str, at: FileOffset, len: u64) -> Result<(), DiskError> {
        match at.checked_add(ByteLen(len)) {
            Some(end) if end.0 <= self.len() => Ok(()),
            _ => Err(self.file().truncated(field, at, len)),
        }
    }

    /// Reads `len` bytes into a new buffer; nothing is allocated before the file is known to hold them.
    fn read_vec(&self, field: &'static str, at: FileOffset, len: u64) -> Result<Vec<u8>, DiskError> {
        self.check_holds(field, at, len)?;
        let len = usize::try_from(len).map_err(|_| self.file().truncated(field, at, len))?;
        let mut buf = vec![0; len];
        self.read(field, at, &mut buf)?;
        Ok(buf)
    }
}

impl Bytes for ImageFile {
    fn file(&self) -> &ImageFile {
        self
    }

    fn len(&self) -> u64 {
        ImageFile::len(self)
    }

    fn read(&self, field: &'static str, at: FileOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        ImageFile::read(self, field, at, buf)
    }
}

/// What fails while an image is being opened is the same as what fails while it is read.
impl From<DiskError> for ImageError {
    fn from(err: DiskError) -> ImageError {
        let (file, source) = match err {
            DiskError::Corrupt { file, field, at, expected, found } => {
                return ImageError::Corrupt { file, field, at, expected, found };
            }
            DiskError::Read { file, source, .. } => (file, source),
            DiskError::Changed { ref file, .. } => (file.clone(), io::Error::other(err)),
            // Neither arises from a file; kept whole, so that nothing is lost if one ever does.
            DiskError::PastEnd { .. } | DiskError::Backing(_) => (PathBuf::new(), io::Error::other(err)),
        };
        ImageError::Io { file, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: &[u8]) -> (tempfile::TempDir, ImageFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, bytes).unwrap();
        let file = ImageFile::new(&path, File::open(&path).unwrap()).unwrap();
        (dir, file)
    }

    #[test]
    fn a_range_past_the_end_is_refused_before_anything_is_allocated() {
        let (_dir, file) = file_of(&[7; 600]);
        assert_eq!(file.read_vec("table", FileOffset(88), 512).unwrap(), [7; 512]);
        for (at, len) in [(89, 512), (600, 1), (0, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
            let err = file.read_vec("table", FileOffset(at), len).unwrap_err().to_string();
            assert!(err.contains("a truncated image of 600 bytes"), "{err}");
        }
    }

    #[test]
    fn a_file_that_shrinks_is_told_from_a_truncated_image() {
        let (_dir, file) = file_of(&[7; 600]);
        File::options().write(true).open(file.path()).unwrap().set_len(100).unwrap();
        let err = file.read_vec("table", FileOffset(0), 512).unwrap_err();
        assert!(matches!(err, DiskError::Changed { .. }), "{err}");
        let now = FileState::of_path(file.path()).unwrap();
        assert_eq!((now.len, now.inode), (100, file.state().inode));
        assert_ne!(&now, file.state());
    }
}
