//! One level of a chain: the image, its data file, one of its internal snapshots. The way down to the base is that of
//! [`backing`].

use std::sync::Arc;

use super::entries::Rules;
use super::header;
use super::image;
use super::layout::{self, Compression, Layout};
use super::snapshots::{self, InternalSnapshot, Snapshot};
use super::tables::{Geometry, Tables};
use super::{Selector, lock};
use crate::disk::Disk;
use crate::formats::backing::{self, Level};
use crate::formats::file::ImageFile;
use crate::formats::{ImageError, Layer, OpenPolicy, excerpt};
use crate::units::FileOffset;

/// Longest bitmap directory that is looked at; bitmaps are only listed.
const BITMAP_DIRECTORY_BYTES_MAX: u64 = 1 << 20;
/// Flag of a bitmap that was not closed cleanly.
const BITMAP_IN_USE: u32 = 1 << 0;

/// Opens all levels, top first, and collects what is wrong. With a `selector`, the top level is that internal snapshot of
/// it.
pub(crate) fn open_chain(
    top: ImageFile,
    selector: Option<Selector<'_>>,
    policy: &OpenPolicy,
) -> (Vec<Layer>, Vec<ImageError>) {
    backing::open_chain(open_level(top, selector, policy), policy)
}

/// The internal snapshots of `file`, in the order of its table.
pub(super) fn list_snapshots(file: &ImageFile) -> Result<Vec<InternalSnapshot>, ImageError> {
    let layout = layout::read(file)?;
    Ok(snapshots::read(file, &layout)?.into_iter().map(|snapshot| snapshot.info).collect())
}

/// Opens one level, its backing file not yet looked for.
pub(crate) fn open_level(
    file: ImageFile,
    selector: Option<Selector<'_>>,
    policy: &OpenPolicy,
) -> Result<Level, ImageError> {
    let image = Arc::new(file);
    let mut layout = layout::read(&image)?;
    let mut warnings = std::mem::take(&mut layout.warnings);
    let data = match &layout.data_file {
        None => Arc::clone(&image),
        Some(name) => {
            let (file, warning) = policy.open_named(image.path(), "data file", name)?;
            warnings.extend(warning);
            Arc::new(file)
        }
    };
    let snapshots = snapshots::read(&image, &layout)?;
    let mut notes = Vec::new();
    // Of one file there are several states; which one this is must be part of what it is known by on another day.
    let (geometry, l1_at, content_id) = match selector {
        None => {
            notes.extend(snapshots_note(&snapshots));
            (layout.geometry, layout.l1_at, String::new())
        }
        Some(selector) => {
            let snapshot = select(&image, &snapshots, selector)?;
            (snapshot.geometry, snapshot.l1_at, format!("snapshot {}", snapshot.info.id))
        }
    };
    let disk = open_disk(&image, &data, &layout, (geometry, l1_at))?;
    let mut files = vec![image.state().clone()];
    if layout.data_file.is_some() {
        files.push(data.state().clone());
    }
    let layer = Layer {
        disk,
        path: image.path().to_path_buf(),
        files,
        variant: variant(&layout),
        content_id,
        parent_content_id: None,
        properties: bitmap_properties(&image, &layout, &mut warnings),
        in_use: lock::sign(&image).or_else(|| lock::sign(&data)),
        warnings,
        notes,
    };
    Ok(Level { layer, backing: layout.backing })
}

fn open_disk(
    image: &Arc<ImageFile>,
    data: &Arc<ImageFile>,
    layout: &Layout,
    (geometry, l1_at): (Geometry, FileOffset),
) -> Result<Arc<dyn Disk>, ImageError> {
    let rules = Rules {
        version: layout.version,
        cluster_bits: geometry.cluster_bits,
        is_extended: geometry.is_extended,
        has_data_file: layout.data_file.is_some(),
    };
    let tables = Tables::open(Arc::clone(image), geometry, rules, l1_at)?;
    Ok(image::disk(Arc::clone(data), layout.compression, tables))
}

fn variant(layout: &Layout) -> String {
    let mut words = vec![format!("qcow2 v{}", layout.version)];
    words.extend((layout.compression == Compression::Zstd).then(|| "zstd".to_string()));
    words.extend(layout.geometry.is_extended.then(|| "extended-l2".to_string()));
    words.extend(layout.data_file.is_some().then(|| "data-file".to_string()));
    words.join(" ")
}

/// What an open of the active state leaves out. The state itself is complete without it, so it is no warning: nightly
/// runs must not end with one for every machine that has a snapshot.
fn snapshots_note(snapshots: &[Snapshot]) -> Option<String> {
    const NAMES_MAX: usize = 8;
    let named = snapshots.iter().take(NAMES_MAX);
    let mut names: Vec<_> = named.map(|snapshot| excerpt(snapshot.info.name.as_bytes())).collect();
    if snapshots.len() > NAMES_MAX {
        names.push("…".to_string());
    }
    let count = snapshots.len();
    (count > 0)
        .then(|| format!("it holds {count} internal snapshots, which are not part of this: {}", names.join(", ")))
}

fn select<'s>(file: &ImageFile, snapshots: &'s [Snapshot], selector: Selector<'_>) -> Result<&'s Snapshot, ImageError> {
    let (wanted, field): (_, fn(&InternalSnapshot) -> &str) = match selector {
        Selector::Id(id) => (id, |info| &info.id),
        Selector::Name(name) => (name, |info| &info.name),
    };
    let mut found = snapshots.iter().filter(|snapshot| field(&snapshot.info) == wanted);
    let missing = || ImageError::Missing {
        named_by: file.path().to_path_buf(),
        role: "internal snapshot",
        wanted: wanted.into(),
    };
    let first = found.next().ok_or_else(missing)?;
    match found.count() {
        0 => Ok(first),
        more => Err(file.unsupported(format!("choosing among {} internal snapshots called {wanted}", more + 1))),
    }
}

/// Persistent bitmaps as properties `qcow2.bitmap.NAME`. They are hints of what changed, so damage to them is no fault.
fn bitmap_properties(file: &ImageFile, layout: &Layout, warnings: &mut Vec<String>) -> Vec<(String, String)> {
    let Some((raw, is_valid)) = layout.bitmaps else { return Vec::new() };
    let directory = match raw.directory_len {
        ..=BITMAP_DIRECTORY_BYTES_MAX => {
            let read = file.read_vec("bitmap directory", FileOffset(raw.directory_at), raw.directory_len);
            read.map_err(|err| err.to_string())
        }
        len => Err(format!("{len} bytes are too many")),
    };
    let mut properties = Vec::new();
    let read = directory.and_then(|directory| {
        let mut rest = &directory[..];
        for _ in 0..raw.count {
            let (after, bitmap) = header::bitmap(rest).map_err(|_| "an entry leaves it".to_string())?;
            rest = after;
            let state = match () {
                () if !is_valid => "out of date",
                () if bitmap.flags & BITMAP_IN_USE != 0 => "not closed cleanly",
                () => "sound",
            };
            let name = format!("qcow2.bitmap.{}", String::from_utf8_lossy(bitmap.name));
            properties.push((name, format!("granularity 2^{}, {state}", bitmap.granularity_bits)));
        }
        Ok(())
    });
    if let Err(what) = read {
        warnings.push(format!("its bitmap directory cannot be read: {what}"));
    }
    properties
}
