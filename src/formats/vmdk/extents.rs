//! Extent lines → one [`Disk`]: each is opened by what it is, and they follow each other in the order of their lines.
//!
//! All extents are opened and checked before the first byte is read: a missing one is an error, not zeros.

use std::collections::HashMap;
use std::sync::Arc;

use super::budget::Budget;
use super::descriptor::{Descriptor, ExtentLine, ExtentSource};
use super::sparse::layout::MapLayout;
use super::{cowd, flat, sesparse, sparse};
use crate::disk::{Disk, DiskError, Extent, ExtentKind, check_inside, check_range};
use crate::formats::file::ImageFile;
use crate::formats::{ImageError, OpenPolicy};
use crate::units::{ByteLen, GuestOffset};

/// The extents of one level, open.
pub(super) struct Extents {
    pub disk: Arc<dyn Disk>,
    /// All files they lie in.
    pub files: Vec<Arc<ImageFile>>,
    pub warnings: Vec<String>,
    /// Why they look in use.
    pub in_use: Option<String>,
}

/// Opens what `descriptor`, found in `file`, lists. `own_map` is the map of `file` itself, if it is a sparse extent.
pub(super) fn open(
    file: &Arc<ImageFile>,
    descriptor: &Descriptor,
    own_map: Option<&MapLayout>,
    policy: &OpenPolicy,
    budget: &mut Budget,
) -> Result<Extents, ImageError> {
    let mut opening = Opening {
        file,
        policy,
        budget,
        has_parent: descriptor.parent.is_some(),
        by_name: HashMap::new(),
        extents: Extents { disk: Arc::new(Concat::default()), files: Vec::new(), warnings: Vec::new(), in_use: None },
    };
    // A file with map and descriptor is its own extent, whatever it was called when the descriptor was written.
    if let (Some(map), [ExtentLine { source: ExtentSource::Sparse { .. }, .. }]) = (own_map, &descriptor.extents[..]) {
        let disk = sparse::image::open(file, map, opening.budget, &mut opening.extents.warnings)?;
        opening.check_size(&descriptor.extents[0], disk.as_ref())?;
        return Ok(Extents { disk, ..opening.extents });
    }
    let mut concat = Concat::default();
    for line in &descriptor.extents {
        let disk = match &line.source {
            ExtentSource::Zeros => None,
            ExtentSource::Flat { name, from } => {
                let file = opening.file(name)?;
                Some(flat::open(file, *from, line.len, opening.has_parent)?)
            }
            ExtentSource::Sparse { name } => {
                let file = opening.file(name)?;
                let disk = opening.sparse(&file)?;
                opening.check_size(line, disk.as_ref())?;
                Some(disk)
            }
        };
        concat.push(line.len, disk);
    }
    let disk = concat.simplified();
    Ok(Extents { disk, ..opening.extents })
}

/// What is shared while the extents of one descriptor are opened.
struct Opening<'a> {
    file: &'a Arc<ImageFile>,
    policy: &'a OpenPolicy,
    budget: &'a mut Budget,
    has_parent: bool,
    by_name: HashMap<Vec<u8>, Arc<ImageFile>>,
    extents: Extents,
}

impl Opening<'_> {
    /// The file of that name, opened once however many extents lie in it.
    fn file(&mut self, name: &[u8]) -> Result<Arc<ImageFile>, ImageError> {
        if let Some(file) = self.by_name.get(name) {
            return Ok(Arc::clone(file));
        }
        let (file, warning) = self.policy.open_named(self.file.path(), "extent", name)?;
        let file = Arc::new(file);
        self.extents.warnings.extend(warning);
        self.extents.files.push(Arc::clone(&file));
        self.by_name.insert(name.to_vec(), Arc::clone(&file));
        Ok(file)
    }

    /// Opens a file with a map by its magic, which is trusted over the extent's type.
    fn sparse(&mut self, file: &Arc<ImageFile>) -> Result<Arc<dyn Disk>, ImageError> {
        let at = crate::units::FileOffset(0);
        let head = file.read_vec("sparse extent header", at, 8)?;
        if head.starts_with(sparse::header::MAGIC) {
            let layout = sparse::image::read_layout(file)?;
            self.note_unclean(file, layout.is_unclean);
            let Some(map) = layout.map else {
                return Err(file.corrupt("capacity", at, "a sparse extent with a map", "only a descriptor").into());
            };
            return sparse::image::open(file, &map, self.budget, &mut self.extents.warnings);
        }
        if head.starts_with(cowd::MAGIC) {
            let (disk, is_unclean) = cowd::open(Arc::clone(file), self.budget)?;
            self.note_unclean(file, is_unclean);
            return Ok(disk);
        }
        if head.starts_with(sesparse::MAGIC) {
            return sesparse::open(Arc::clone(file), self.budget);
        }
        let expected = "the magic of a hosted sparse, COWD or seSparse extent";
        Err(file.corrupt("sparse extent header", at, expected, format!("{head:02x?}")).into())
    }

    fn note_unclean(&mut self, file: &ImageFile, is_unclean: bool) {
        if is_unclean && self.extents.in_use.is_none() {
            self.extents.in_use = Some(unclean_note(file));
        }
    }

    fn check_size(&mut self, line: &ExtentLine, disk: &dyn Disk) -> Result<(), ImageError> {
        let size = disk.size();
        if size < line.len {
            let expected = format!("at most the {size} bytes that the extent has");
            return Err(self.file.corrupt("extent size", line.at, expected, format!("{} bytes", line.len)).into());
        }
        if size > line.len {
            let len = line.len;
            self.extents.warnings.push(format!("an extent has {size} bytes, its descriptor says {len}"));
        }
        Ok(())
    }
}

/// The note for an extent that says of itself that it was not closed.
pub(super) fn unclean_note(file: &ImageFile) -> String {
    format!("{} was not closed cleanly: it is open in a running machine, or its host crashed", file.path().display())
}

/// Extents one behind the other.
#[derive(Default)]
struct Concat {
    parts: Vec<Part>,
    size: u64,
}

struct Part {
    /// Where it begins on the disk.
    start: u64,
    len: u64,
    /// `None`: zeros that hide a parent.
    disk: Option<Arc<dyn Disk>>,
}

impl Concat {
    /// Appends `len` bytes; `disk` has at least as many. The sum is known to stay below 2^63.
    fn push(&mut self, len: ByteLen, disk: Option<Arc<dyn Disk>>) {
        if len.0 > 0 {
            self.parts.push(Part { start: self.size, len: len.0, disk });
            self.size += len.0;
        }
    }

    /// The only extent itself, if there is only one.
    fn simplified(self) -> Arc<dyn Disk> {
        match &self.parts[..] {
            [Part { disk: Some(disk), len, .. }] if disk.size().0 == *len => Arc::clone(disk),
            _ => Arc::new(self),
        }
    }

    /// The part that covers `at`, which is inside the disk.
    fn part_at(&self, at: u64) -> &Part {
        &self.parts[self.parts.partition_point(|part| part.start <= at) - 1]
    }
}

impl Disk for Concat {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_at(&self, at: GuestOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        check_range(self.size(), at, buf.len())?;
        let mut at = at.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let part = self.part_at(at);
            let within = at - part.start;
            let len = rest.len().min(usize::try_from(part.len - within).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(len);
            match &part.disk {
                Some(disk) => disk.read_at(GuestOffset(within), now)?,
                None => now.fill(0),
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset) -> Result<Extent, DiskError> {
        check_inside(self.size(), at)?;
        let part = self.part_at(at.0);
        let within = at.0 - part.start;
        let left = ByteLen(part.len - within);
        match &part.disk {
            Some(disk) => {
                let extent = disk.extent_at(GuestOffset(within))?;
                Ok(Extent { len: extent.len.min(left), ..extent })
            }
            None => Ok(Extent { kind: ExtentKind::Zero, len: left }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, conformance};

    #[test]
    fn parts_follow_each_other_and_zeros_hide_a_parent() {
        let mut concat = Concat::default();
        concat.push(ByteLen(512), Some(Arc::new(MemoryDisk(vec![1; 512]))));
        concat.push(ByteLen(0), None);
        concat.push(ByteLen(1024), None);
        concat.push(ByteLen(512), Some(Arc::new(MemoryDisk(vec![3; 4096]))));
        let expected: Vec<u8> = [1u8, 0, 0, 3].iter().flat_map(|byte| [*byte; 512]).collect();
        conformance::check(&concat, &expected);
        let extent = concat.extent_at(GuestOffset(1000)).unwrap();
        assert_eq!(extent, Extent { kind: ExtentKind::Zero, len: ByteLen(536) });
        conformance::check(&Concat::default(), &[]);
    }
}
