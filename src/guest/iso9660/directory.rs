//! Walking the records of a directory, and the pieces of a file, which are records that follow each other.

use super::record::{self, Record};
use super::volume::Volume;
use super::{SECTOR_BYTES, corrupt};
use crate::guest::GuestError;

/// Pieces of one file: each has up to 4 GiB, so this is 16 TiB.
const SECTIONS_MAX: usize = 4096;

/// The records from one place to another.
pub(crate) struct Records<'v> {
    volume: &'v Volume,
    at: u64,
    end: u64,
}

impl<'v> Records<'v> {
    /// All of a directory, by its own first record.
    pub fn of(volume: &'v Volume, directory: &Record) -> Result<Records<'v>, GuestError> {
        volume.check("directory", directory.content, directory.size.into())?;
        Ok(Records { volume, at: directory.content, end: directory.content + u64::from(directory.size) })
    }

    /// The next one.
    pub fn next(&mut self) -> Result<Option<Record>, GuestError> {
        while self.at < self.end {
            match record::read(self.volume, self.at)? {
                Some(record) => {
                    self.at = record.next;
                    return Ok(Some(record));
                }
                None => self.at = (self.at / SECTOR_BYTES + 1) * SECTOR_BYTES,
            }
        }
        Ok(None)
    }
}

/// A piece of a file's content, in bytes of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub at: u64,
    pub len: u64,
}

/// The pieces of the file that begins with `first`.
pub(crate) fn sections(volume: &Volume, first: &Record) -> Result<Vec<Section>, GuestError> {
    let section = |record: &Record| Section { at: record.content, len: record.size.into() };
    let mut sections = vec![section(first)];
    let mut last = first.clone();
    let mut records = Records { volume, at: first.next, end: u64::MAX };
    while last.has_more_sections() {
        let (field, at) = ("piece of a file", last.at);
        if sections.len() == SECTIONS_MAX {
            return Err(corrupt(field, at, format!("at most {SECTIONS_MAX} pieces"), "more"));
        }
        if u64::from(last.size) % volume.block_bytes != 0 {
            return Err(corrupt(field, at, "whole blocks, for another piece follows", format!("{} bytes", last.size)));
        }
        let next = records.next()?.filter(|next| next.name == first.name && !next.is_directory());
        let Some(next) = next else { return Err(corrupt(field, at, "another piece behind it", "none")) };
        sections.push(section(&next));
        last = next;
    }
    Ok(sections)
}
