//! Parallels: the `.hds` of a `.hdd` bundle, its "expanding" disks. One table, then blocks. Everything little-endian.
//!
//! - `header` what lies in the file (nom) → `layout` checked → `image` the [`Disk`](crate::disk::Disk)
//!
//! A snapshot of Parallels is a second image whose holes mean "ask the parent", and only the bundle's
//! `DiskDescriptor.xml` knows. So an image beside which a descriptor lists several is refused: alone it would read zeros
//! where its parent has data.
//!
//! Source: QEMU docs/interop/parallels.rst, block/parallels.c. qemu-img is the judge in the tests.

pub(crate) mod header;
mod image;
mod layout;

use std::sync::Arc;

use self::layout::Layout;
use super::file::ImageFile;
use super::{ImageError, Layer, OpenPolicy};
use crate::units::FileOffset;

/// What a bundle calls its description.
const DESCRIPTOR: &[u8] = b"DiskDescriptor.xml";
/// As much of it as is looked at; real ones have a few KiB.
const DESCRIPTOR_BYTES_MAX: u64 = 1 << 20;

/// Opens the only layer of such an image.
pub(crate) fn open(file: ImageFile, policy: &OpenPolicy) -> Result<Layer, ImageError> {
    let file = Arc::new(file);
    let layout = layout::read(&file)?;
    check_bundle(&file, policy)?;
    let (path, files) = (file.path().to_path_buf(), vec![file.state().clone()]);
    let Layout { variant, is_in_use, .. } = layout;
    let in_use = is_in_use.then(|| {
        format!("{} was not closed cleanly: it is open in a running machine, or its host crashed", path.display())
    });
    Ok(Layer {
        disk: image::open(&file, &layout),
        path,
        files,
        variant: variant.to_string(),
        content_id: String::new(),
        parent_content_id: None,
        properties: Vec::new(),
        in_use,
        warnings: Vec::new(),
        notes: Vec::new(),
    })
}

/// Refuses an image of a bundle that has snapshots.
fn check_bundle(file: &ImageFile, policy: &OpenPolicy) -> Result<(), ImageError> {
    let descriptor = match policy.open_named(file.path(), "disk descriptor", DESCRIPTOR) {
        Ok((descriptor, _)) => descriptor,
        Err(ImageError::Missing { .. }) => return Ok(()), // an image on its own
        Err(fault) => return Err(fault),
    };
    let text = descriptor.read_vec("disk descriptor", FileOffset(0), descriptor.len().min(DESCRIPTOR_BYTES_MAX))?;
    let images = text.windows(b"<Image>".len()).filter(|tag| tag.eq_ignore_ascii_case(b"<Image>")).count();
    match images {
        0 | 1 => Ok(()),
        many => Err(file.unsupported(format!(
            "one of the {many} images that {} lists (a Parallels disk with snapshots; delete or merge them)",
            descriptor.path().display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_a_bundle_with_snapshots_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.hds");
        std::fs::write(&path, "x").unwrap();
        let policy = OpenPolicy::named_by_user(&path).unwrap();
        let file = policy.open_top(&path).unwrap();
        let check = |text: Option<&str>, said: Option<&str>| {
            text.iter().for_each(|text| std::fs::write(dir.path().join("DiskDescriptor.xml"), text).unwrap());
            match (check_bundle(&file, &policy), said) {
                (Ok(()), None) => {}
                (Err(fault), Some(said)) => assert!(fault.to_string().contains(said), "{fault}"),
                (outcome, _) => panic!("{text:?}: {outcome:?}"),
            }
        };
        check(None, None);
        check(Some("<Storage><Image><File>disk.hds</File></Image></Storage>"), None);
        check(Some("<Image>a</Image>\n<image>b</image>"), Some("one of the 2 images that"));
    }
}
