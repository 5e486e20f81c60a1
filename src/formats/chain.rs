//! From the newest layer down to the base, for formats whose layers are single files: VHD, VHDX, VDI.
//!
//! In here: the walk, and that it ends. What a child remembers of its parent, how to find the file and how to know that
//! it is the right one is the format's own business ([`ChainFormat`]).

use super::file::ImageFile;
use super::{CHAIN_DEPTH_MAX, ImageError, Layer, OpenPolicy};

/// A format whose images can have parents.
pub(crate) trait ChainFormat {
    /// What a child remembers of its parent.
    type Link;

    /// Opens one level, its parent not yet looked for.
    fn open_level(file: ImageFile) -> Result<(Layer, Option<Self::Link>), ImageError>;

    /// Opens the file that is, or claims to be, the parent; odd things go to the child's warnings.
    fn find_parent(link: &Self::Link, child: &mut Layer, policy: &OpenPolicy) -> Result<ImageFile, ImageError>;

    /// Compares what the child remembers with what the parent is.
    fn check_identity(link: &Self::Link, child: &mut Layer, parent: &Layer) -> Option<ImageError>;
}

/// Opens all levels, top first, and collects what is wrong. Stops at a level that cannot be opened; without faults the
/// chain is complete.
pub(crate) fn open_chain<F: ChainFormat>(top: ImageFile, policy: &OpenPolicy) -> (Vec<Layer>, Vec<ImageError>) {
    let mut layers: Vec<Layer> = Vec::new();
    let mut faults = Vec::new();
    let mut above: Option<F::Link> = None;
    let mut next = Some(top);
    while let Some(file) = next.take() {
        let (layer, link) = match F::open_level(file) {
            Ok(level) => level,
            Err(err) => {
                faults.push(err);
                break;
            }
        };
        if let (Some(link), Some(child)) = (&above, layers.last_mut()) {
            faults.extend(F::check_identity(link, child, &layer));
        }
        layers.push(layer);
        if let Some(link) = &link {
            match open_parent::<F>(link, &mut layers, policy) {
                Ok(file) => next = Some(file),
                Err(err) => faults.push(err),
            }
        }
        above = link;
    }
    (layers, faults)
}

/// Opens the parent of the last of `layers`, unless that would never end.
fn open_parent<F: ChainFormat>(
    link: &F::Link,
    layers: &mut [Layer],
    policy: &OpenPolicy,
) -> Result<ImageFile, ImageError> {
    let depth = layers.len();
    let child = layers.last_mut().expect("a parent is looked for after its child is in the list");
    let chain = |child: &Layer, what| ImageError::Chain { file: child.path.clone(), what };
    if depth == CHAIN_DEPTH_MAX {
        return Err(chain(child, format!("the chain has more than {CHAIN_DEPTH_MAX} levels")));
    }
    let file = F::find_parent(link, child, policy)?;
    let state = file.state();
    let is_same =
        |layer: &&Layer| layer.files.iter().any(|seen| (seen.device, seen.inode) == (state.device, state.inode));
    if let Some(seen) = layers.iter().find(is_same) {
        let child = layers.last().expect("as above");
        return Err(chain(child, format!("its parent {} is in the chain above it already", seen.path.display())));
    }
    Ok(file)
}

/// Opens the first of `names` that exists; the first name that is not allowed ends the search. `None` if there is no
/// name at all.
pub(crate) fn open_first_named(
    names: &[Vec<u8>],
    child: &mut Layer,
    policy: &OpenPolicy,
) -> Option<Result<ImageFile, ImageError>> {
    let mut first_missing = None;
    for name in names {
        match policy.open_named(&child.path, "parent", name) {
            Ok((file, warning)) => {
                child.warnings.extend(warning);
                return Some(Ok(file));
            }
            Err(missing @ ImageError::Missing { .. }) => {
                first_missing.get_or_insert(missing);
            }
            Err(err) => return Some(Err(err)),
        }
    }
    first_missing.map(Err)
}
