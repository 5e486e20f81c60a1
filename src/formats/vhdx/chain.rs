//! From the newest checkpoint (`.avhdx`) down to the base.
//!
//! A child remembers the "data write" GUID of its parent, which the parent changes at the first write after each opening.
//! Another GUID therefore means that the parent was written under the child.

use std::sync::Arc;

use super::image;
use super::layout::{read_header, read_regions};
use super::log::Replayed;
use super::metadata::{self, ParentLocator};
use crate::formats::chain::{ChainFormat, open_first_named};
use crate::formats::file::{Bytes, ImageFile};
use crate::formats::{ImageError, Layer, OpenPolicy};

/// The format, for [`open_chain`](crate::formats::chain::open_chain).
pub(crate) struct Vhdx;

impl ChainFormat for Vhdx {
    type Link = ParentLocator;

    fn open_level(file: ImageFile) -> Result<(Layer, Option<ParentLocator>), ImageError> {
        let mut warnings = Vec::new();
        let (path, files) = (file.path().to_path_buf(), vec![file.state().clone()]);
        let header = read_header(&file, &mut warnings)?;
        let bytes = match header.log {
            Some(log) => Replayed::new(file, log)?,
            None => Replayed::unchanged(file),
        };
        if bytes.is_changed() {
            warnings.push("its log was not empty; it is read as if the log had been replayed".to_string());
        }
        let in_use = header.log.map(|_| {
            format!("{} was not closed cleanly: it is open in a running machine, or its host crashed", path.display())
        });
        let regions = read_regions(&bytes, &mut warnings)?;
        let metadata = metadata::read(&bytes, &regions)?;
        let variant = match (&metadata.parent, metadata.is_fixed) {
            (Some(_), _) => "vhdx differencing",
            (None, true) => "vhdx fixed",
            (None, false) => "vhdx dynamic",
        };
        let bytes: Arc<dyn Bytes> = Arc::new(bytes);
        let disk = image::open(bytes, regions.table, &metadata);
        let parent_content_id = metadata.parent.as_ref().and_then(|link| link.linkage.first()).map(ToString::to_string);
        let layer = Layer {
            disk,
            path,
            files,
            variant: variant.to_string(),
            content_id: header.data_write_guid.to_string(),
            parent_content_id,
            properties: metadata.properties,
            in_use,
            warnings,
            notes: Vec::new(),
        };
        Ok((layer, metadata.parent))
    }

    fn find_parent(link: &ParentLocator, child: &mut Layer, policy: &OpenPolicy) -> Result<ImageFile, ImageError> {
        open_first_named(&link.names, child, policy).unwrap_or_else(|| {
            let wanted = "(no name in the parent locator)".into();
            Err(ImageError::Missing { named_by: child.path.clone(), role: "parent", wanted })
        })
    }

    fn check_identity(link: &ParentLocator, child: &mut Layer, parent: &Layer) -> Option<ImageError> {
        let linkage: Vec<String> = link.linkage.iter().map(ToString::to_string).collect();
        (!linkage.contains(&parent.content_id)).then(|| ImageError::ParentMismatch {
            child: child.path.clone(),
            parent: parent.path.clone(),
            expected: parent.content_id.clone(),
            found: linkage.join(" or "),
        })
    }
}
