//! QED, QEMU's enhanced disk format: a table of tables of clusters, and a backing file. No longer made, still found.
//! Everything little-endian.
//!
//! - `header` what lies in the file (nom) → `layout` checked → `image` the [`Disk`](crate::disk::Disk)
//! - the way down to the base is that of [`backing`](super::backing)
//!
//! Source: QEMU docs/interop/qed_spec.txt, block/qed.c. qemu-img is the judge in the tests.

pub(crate) mod header;
mod image;
mod layout;

use std::sync::Arc;

use self::layout::Layout;
use super::backing::Level;
use super::file::ImageFile;
use super::{ImageError, Layer};

/// Opens one level, its backing file not yet looked for.
pub(crate) fn open_level(file: ImageFile) -> Result<Level, ImageError> {
    let file = Arc::new(file);
    let Layout { map, backing, needs_check } = layout::read(&file)?;
    let (path, files) = (file.path().to_path_buf(), vec![file.state().clone()]);
    let in_use = needs_check.then(|| {
        format!("{} was not closed cleanly: it is open in a running machine, or its host crashed", path.display())
    });
    let layer = Layer {
        disk: image::open(&file, map)?,
        path,
        files,
        variant: "qed".to_string(),
        content_id: String::new(),
        parent_content_id: None,
        properties: Vec::new(),
        in_use,
        warnings: Vec::new(),
        notes: Vec::new(),
    };
    Ok(Level { layer, backing })
}
