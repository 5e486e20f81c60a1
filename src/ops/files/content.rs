//! Reading a file's content to its end, or to the byte where it is damaged.

use std::ops::ControlFlow;

use super::FilesError;
use crate::disk::ExtentKind;
use crate::guest::GuestError;
use crate::guest::tree::{FileSystem, NodeId, NodeKind};
use crate::ops::Control;

/// Bytes read at once.
pub const PIECE_BYTES: usize = 1 << 20;
/// Bytes read at once where a piece could not be: so much is lost before the damage at most.
const SMALL_BYTES: usize = 4096;

/// Takes content in order; breaks when it wants no more.
pub type TakeBytes<'t> = dyn FnMut(&[u8]) -> Result<ControlFlow<()>, FilesError> + 't;
/// Takes data with its position in the file.
pub type TakeData<'t> = dyn FnMut(u64, &[u8]) -> Result<(), FilesError> + 't;

/// What of a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream<'s> {
    /// Its content.
    Content,
    /// A named stream beside it.
    Named(&'s str),
}

/// A file to read.
#[derive(Clone, Copy)]
pub struct Readable<'f> {
    /// Its filesystem.
    pub filesystem: &'f dyn FileSystem,
    /// The file.
    pub node: NodeId,
    /// What messages call it.
    pub place: &'f str,
}

impl Readable<'_> {
    /// Refuses what has no content, in words that say what it is.
    ///
    /// # Errors
    /// [`FilesError::Directory`], [`FilesError::NoFile`].
    pub fn check_kind(&self) -> Result<(), FilesError> {
        let place = || self.place.to_owned();
        let metadata = self.filesystem.metadata(self.node).map_err(|source| FilesError::node(place(), source))?;
        match metadata.kind {
            NodeKind::File => Ok(()),
            NodeKind::Directory => Err(FilesError::Directory { place: place() }),
            other => Err(FilesError::NoFile { place: place(), found: other.noun() }),
        }
    }

    /// Gives everything in order to `write`, until that breaks; what lies before a damaged place is given too.
    ///
    /// # Errors
    /// [`FilesError::Content`] with the bytes that were good; [`FilesError::Interrupted`]; what `write` fails with.
    pub fn read_all(
        &self,
        stream: Stream<'_>,
        control: Control<'_>,
        write: &mut TakeBytes<'_>,
    ) -> Result<u64, FilesError> {
        let mut buf = vec![0; PIECE_BYTES];
        let (mut at, mut piece) = (0, PIECE_BYTES);
        loop {
            if control.interrupted() {
                return Err(FilesError::Interrupted);
            }
            let buf = &mut buf[..piece];
            let read = match stream {
                Stream::Content => self.filesystem.read_at(self.node, at, buf),
                Stream::Named(name) => self.filesystem.read_stream(self.node, name, at, buf),
            };
            match read {
                Ok(0) => return Ok(at),
                Ok(len) => {
                    if write(&buf[..len])?.is_break() {
                        return Ok(at);
                    }
                    at += len as u64;
                }
                // Again in small pieces, up to the first that fails by itself.
                Err(_) if piece > SMALL_BYTES => piece = SMALL_BYTES,
                Err(source) => return Err(self.broken(at, source)),
            }
        }
    }

    /// Gives the data among the first `size` bytes to `write`, each piece with its position; holes are left out.
    ///
    /// # Errors
    /// As [`Readable::read_all`].
    pub fn read_data(&self, size: u64, control: Control<'_>, write: &mut TakeData<'_>) -> Result<(), FilesError> {
        let mut buf = vec![0; usize::try_from(size).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)];
        self.data_runs(size, &mut |start, end| {
            let mut at = start;
            while at < end {
                if control.interrupted() {
                    return Err(FilesError::Interrupted);
                }
                let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
                let read = self.filesystem.read_at(self.node, at, &mut buf[..len]);
                let read = read.map_err(|source| self.broken(at, source))?;
                if read < len {
                    let what = "its content ends before its size does";
                    return Err(FilesError::Inconsistent { place: self.place.to_owned(), what });
                }
                write(at, &buf[..len])?;
                at += len as u64;
            }
            Ok(())
        })
    }

    /// Tells the runs of data among the first `size` bytes: start and end.
    ///
    /// # Errors
    /// [`FilesError::Content`] if the map of the file is damaged; what `tell` fails with.
    pub fn data_runs(
        &self,
        size: u64,
        tell: &mut dyn FnMut(u64, u64) -> Result<(), FilesError>,
    ) -> Result<(), FilesError> {
        let mut at = 0;
        while at < size {
            let extent = self.filesystem.extent_at(self.node, at).map_err(|source| self.broken(at, source))?;
            // Nothing more is said of the file: it reads as zeros from here.
            let Some(extent) = extent.filter(|extent| extent.len.0 > 0) else { break };
            let end = at.saturating_add(extent.len.0).min(size);
            if extent.kind == ExtentKind::Data {
                tell(at, end)?;
            }
            at = end;
        }
        Ok(())
    }

    fn broken(&self, good: u64, source: GuestError) -> FilesError {
        FilesError::content(self.place.to_owned(), good, source)
    }
}
