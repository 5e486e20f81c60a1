//! From the newest snapshot down to the base.
//!
//! A child knows only its parent's UUID; the names are in VirtualBox's own registry, which a copied folder does not have.
//! So the parent is looked for among the files around the child: in its folder, in `Snapshots` below it, and (a snapshot's
//! base lies above `Snapshots`) in the folder above, as far as the policy allows. How many files are looked at is
//! bounded. The UUID finds the parent; its modification UUID says whether it was written since.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::image;
use super::layout::{Kind, read, read_identity};
use crate::formats::chain::ChainFormat;
use crate::formats::file::ImageFile;
use crate::formats::{ImageError, Layer, OpenPolicy};

/// Files looked at in search of one parent.
const FILES_LOOKED_AT_MAX: usize = 1024;
/// Names read from one folder.
const NAMES_READ_MAX: usize = 65_536;
/// Where the parent may lie, as seen from the child's folder.
const FOLDERS: [&str; 3] = ["", "..", "Snapshots"];

/// The format, for [`open_chain`](crate::formats::chain::open_chain).
pub(crate) struct Vdi;

/// What a child remembers of its parent.
pub(crate) struct ParentLink {
    uuid: Uuid,
    modification: Uuid,
}

impl ChainFormat for Vdi {
    type Link = ParentLink;

    fn open_level(file: ImageFile) -> Result<(Layer, Option<ParentLink>), ImageError> {
        let file = Arc::new(file);
        let layout = read(&file)?;
        let identity = layout.identity;
        let (variant, link) = match layout.kind {
            Kind::Dynamic => ("vdi dynamic", None),
            Kind::Fixed => ("vdi fixed", None),
            Kind::Differencing => {
                let link = ParentLink { uuid: identity.parent, modification: identity.parent_modification };
                ("vdi differencing", Some(link))
            }
        };
        let mut properties = vec![("vdi.uuid".to_string(), identity.uuid.to_string())];
        if let Some(link) = &link {
            properties.push(("vdi.parent_uuid".to_string(), link.uuid.to_string()));
        }
        let layer = Layer {
            disk: image::open(&file, &layout),
            path: file.path().to_path_buf(),
            files: vec![file.state().clone()],
            variant: variant.to_string(),
            content_id: identity.modification.to_string(),
            parent_content_id: link.as_ref().map(|link| link.modification.to_string()),
            properties,
            in_use: None, // the format has no sign of it
            warnings: Vec::new(),
            notes: Vec::new(),
        };
        Ok((layer, link))
    }

    fn find_parent(link: &ParentLink, child: &mut Layer, policy: &OpenPolicy) -> Result<ImageFile, ImageError> {
        let (mut looked_at, mut stale) = (0, None);
        for folder in FOLDERS {
            for name in names_in(child, folder)? {
                // Links that lead elsewhere, pipes and the like are no candidates; the policy knows.
                let Ok((file, None)) = policy.open_named(&child.path, "parent", name.as_bytes()) else { continue };
                if looked_at == FILES_LOOKED_AT_MAX {
                    child.warnings.push(format!("only {FILES_LOOKED_AT_MAX} files were looked at for its parent"));
                    return stale.ok_or_else(|| missing(link, child));
                }
                looked_at += 1;
                match read_identity(&file) {
                    Ok(found) if found.uuid == link.uuid && found.modification == link.modification => return Ok(file),
                    // A copy that was written to; the right one may still come.
                    Ok(found) if found.uuid == link.uuid => _ = stale.get_or_insert(file),
                    _ => {}
                }
            }
        }
        stale.ok_or_else(|| missing(link, child))
    }

    fn check_identity(link: &ParentLink, child: &mut Layer, parent: &Layer) -> Option<ImageError> {
        (link.modification.to_string() != parent.content_id).then(|| ImageError::ParentMismatch {
            child: child.path.clone(),
            parent: parent.path.clone(),
            expected: parent.content_id.clone(),
            found: link.modification.to_string(),
        })
    }
}

fn missing(link: &ParentLink, child: &Layer) -> ImageError {
    let wanted = PathBuf::from(format!("with UUID {} (looked for in the folders around it)", link.uuid));
    ImageError::Missing { named_by: child.path.clone(), role: "parent", wanted }
}

/// The names in a folder, relative to the child's own: those that end in `.vdi` first, then by name, so that the
/// outcome does not depend on the filesystem. A folder that is not there has none.
fn names_in(child: &Layer, folder: &str) -> Result<Vec<OsString>, ImageError> {
    let own = match child.path.parent() {
        Some(own) if !own.as_os_str().is_empty() => own.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let Ok(entries) = std::fs::read_dir(own.join(folder)) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries.take(NAMES_READ_MAX) {
        let entry = entry.map_err(|source| ImageError::Io { file: own.join(folder), source })?;
        let name = PathBuf::from(folder).join(entry.file_name());
        // `open_named` takes a backslash for a separator; such a name cannot be VirtualBox's.
        if !name.as_os_str().as_bytes().contains(&b'\\') && entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
            let is_vdi = name.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("vdi"));
            names.push((!is_vdi, name.into_os_string()));
        }
    }
    names.sort();
    Ok(names.into_iter().map(|(_, name)| name).collect())
}
