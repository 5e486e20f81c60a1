//! From the newest redo log down to the base.
//!
//! A child belongs to its parent if it remembers the parent's CID; another CID means that the parent was written after
//! the snapshot, and the child's holes would show data that was never theirs. Names only help to find the parent.

use std::sync::Arc;

use super::budget::Budget;
use super::descriptor::{self, Descriptor, ParentLink, SEE_LONG_ID};
use super::extents::{self, Extents};
use super::{lock, sparse};
use crate::formats::file::ImageFile;
use crate::formats::{CHAIN_DEPTH_MAX, ImageError, Layer, OpenPolicy};
use crate::units::FileOffset;

/// Opens all levels, top first, and collects what is wrong. Stops at a level that cannot be opened; without faults the
/// chain is complete.
pub(crate) fn open_chain(top: ImageFile, policy: &OpenPolicy) -> (Vec<Layer>, Vec<ImageError>) {
    let mut layers: Vec<Layer> = Vec::new();
    let mut faults = Vec::new();
    let mut child: Option<ParentLink> = None;
    let mut budget = Budget::new();
    let mut next = Some(top);
    while let Some(file) = next.take() {
        let level = match open_level(file, policy, &mut budget) {
            Ok(level) => level,
            Err(err) => {
                faults.push(err);
                break;
            }
        };
        if let (Some(link), Some(below)) = (&child, layers.last_mut()) {
            faults.extend(check_identity(link, below, &level));
        }
        layers.push(level.layer);
        if let Some(link) = &level.parent {
            match open_parent(link, &mut layers, policy) {
                Ok(file) => next = Some(file),
                Err(err) => faults.push(err),
            }
        }
        child = level.parent;
    }
    (layers, faults)
}

/// One level of the chain, its parent not yet looked for.
struct Level {
    layer: Layer,
    /// Its CID as the descriptor has it.
    short_id: String,
    parent: Option<ParentLink>,
}

/// Compares what the child remembers with what the parent is.
fn check_identity(link: &ParentLink, child: &mut Layer, parent: &Level) -> Option<ImageError> {
    if link.content_id != parent.layer.content_id && link.content_id != parent.short_id {
        return Some(ImageError::ParentMismatch {
            child: child.path.clone(),
            parent: parent.layer.path.clone(),
            expected: parent.layer.content_id.clone(),
            found: link.content_id.clone(),
        });
    }
    if link.content_id == SEE_LONG_ID {
        child.warnings.push(format!("its parent {} has no CID to compare", parent.layer.path.display()));
    }
    None
}

/// Opens the parent of the last of `layers`, unless that would never end.
fn open_parent(link: &ParentLink, layers: &mut [Layer], policy: &OpenPolicy) -> Result<ImageFile, ImageError> {
    let depth = layers.len();
    let child = layers.last_mut().expect("a parent is looked for after its child is in the list");
    if depth == CHAIN_DEPTH_MAX {
        let what = format!("the chain has more than {CHAIN_DEPTH_MAX} levels");
        return Err(ImageError::Chain { file: child.path.clone(), what });
    }
    let (file, warning) = policy.open_named(&child.path, "parent", &link.hint)?;
    child.warnings.extend(warning);
    let state = file.state();
    let is_same = |layer: &&Layer| {
        // A level is named by its first file; the others are extents, which a parent may not be either.
        layer.files.iter().any(|seen| (seen.device, seen.inode) == (state.device, state.inode))
    };
    if let Some(seen) = layers.iter().find(is_same) {
        let child = layers.last().expect("as above");
        let what = format!("its parent {} is in the chain above it already", seen.path.display());
        return Err(ImageError::Chain { file: child.path.clone(), what });
    }
    Ok(file)
}

fn open_level(file: ImageFile, policy: &OpenPolicy, budget: &mut Budget) -> Result<Level, ImageError> {
    let file = Arc::new(file);
    let (descriptor, map, is_unclean) = read_descriptor(&file)?;
    let opened = extents::open(&file, &descriptor, map.as_ref(), policy, budget)?;
    Ok(level_of(&file, descriptor, opened, is_unclean))
}

/// The descriptor in `file`, the map beside it, and whether the file says that it was not closed.
fn read_descriptor(file: &ImageFile) -> Result<(Descriptor, Option<sparse::layout::MapLayout>, bool), ImageError> {
    let head_len = file.len().min(512);
    let head = file.read_vec("VMDK header", FileOffset(0), head_len)?;
    if descriptor::is_descriptor(&head) {
        return Ok((descriptor::read_file(file)?, None, false));
    }
    if !head.starts_with(sparse::header::MAGIC) {
        let found = format!("{:02x?}", head.get(..8).unwrap_or(&head));
        return Err(file.corrupt("VMDK header", FileOffset(0), "a descriptor or the magic KDMV", found).into());
    }
    let layout = sparse::image::read_layout(file)?;
    let Some((at, len)) = layout.descriptor else {
        return Err(file.unsupported("an extent without its descriptor (open the .vmdk that names it; alone, it)"));
    };
    Ok((descriptor::read_embedded(file, at, len)?, layout.map, layout.is_unclean))
}

fn level_of(file: &ImageFile, descriptor: Descriptor, opened: Extents, is_unclean: bool) -> Level {
    let mut files = vec![file.state().clone()];
    for extent in &opened.files {
        let state = extent.state();
        if !files.iter().any(|seen| (seen.device, seen.inode) == (state.device, state.inode)) {
            files.push(state.clone());
        }
    }
    let own_note = is_unclean.then(|| extents::unclean_note(file));
    let in_use = files.iter().find_map(lock::sign).or(own_note).or(opened.in_use);
    let create_type = if descriptor.create_type.is_empty() { "unnamed" } else { &descriptor.create_type };
    let layer = Layer {
        disk: opened.disk,
        path: file.path().to_path_buf(),
        files,
        variant: format!("vmdk {create_type}"),
        content_id: descriptor.content_id,
        parent_content_id: descriptor.parent.as_ref().map(|link| link.content_id.clone()),
        properties: descriptor.ddb,
        in_use,
        warnings: opened.warnings,
        notes: Vec::new(),
    };
    Level { layer, short_id: descriptor.short_id, parent: descriptor.parent }
}
