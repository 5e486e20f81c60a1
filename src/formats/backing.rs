//! From the newest overlay down to the base, for formats that name their backing file and say in which format it is:
//! qcow2 and QED.
//!
//! Such a file keeps no identity of its backing file, so nothing can be compared: whether the backing file was written
//! after the overlay was made cannot be seen here.
//!
//! A backing file is read as raw only if the header says so. A guest can write any magic to the beginning of a raw disk,
//! and a raw file taken for an image could name further files.

use super::detect::{self, Format};
use super::file::ImageFile;
use super::{CHAIN_DEPTH_MAX, ImageError, Layer, OpenPolicy, excerpt, open_file, qcow2, qed};
use crate::units::FileOffset;

/// The backing file as an overlay names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    pub name: Vec<u8>,
    /// QEMU's name of its format, if the overlay says it.
    pub format: Option<Vec<u8>>,
}

/// One level of the chain, its backing file not yet looked for.
pub(crate) struct Level {
    pub layer: Layer,
    pub backing: Option<Backing>,
}

/// Opens all levels below `top`, and collects what is wrong. Stops at a level that cannot be opened; without faults the
/// chain is complete.
pub(crate) fn open_chain(top: Result<Level, ImageError>, policy: &OpenPolicy) -> (Vec<Layer>, Vec<ImageError>) {
    let mut layers: Vec<Layer> = Vec::new();
    let mut next = top;
    loop {
        let level = match next {
            Ok(level) => level,
            Err(fault) => return (layers, vec![fault]),
        };
        layers.push(level.layer);
        let Some(backing) = level.backing else { return (layers, Vec::new()) };
        next = match open_backing(&backing, &mut layers, policy) {
            Ok((Format::Qcow2, file)) => qcow2::chain::open_level(file, None, policy),
            Ok((Format::Qed, file)) => qed::open_level(file),
            Ok((format, file)) => {
                // Other formats know the way down from here; they never come back to these.
                let (below, mut faults) = open_file(file, format, policy);
                layers.extend(below);
                if layers.len() > CHAIN_DEPTH_MAX {
                    faults.push(too_deep(&layers[0]));
                }
                return (layers, faults);
            }
            Err(fault) => Err(fault),
        };
    }
}

fn too_deep(top: &Layer) -> ImageError {
    let what = format!("the chain has more than {CHAIN_DEPTH_MAX} levels");
    ImageError::Chain { file: top.path.clone(), what }
}

/// Opens the backing file of the last of `layers`, unless that would never end, and finds out its format.
fn open_backing(
    backing: &Backing,
    layers: &mut [Layer],
    policy: &OpenPolicy,
) -> Result<(Format, ImageFile), ImageError> {
    let depth = layers.len();
    let child = layers.last_mut().expect("a backing file is looked for after its overlay is in the list");
    if depth == CHAIN_DEPTH_MAX {
        return Err(too_deep(&layers[0]));
    }
    let (file, warning) = policy.open_named(&child.path, "backing file", &backing.name)?;
    child.warnings.extend(warning);
    let state = file.state();
    let is_same = |layer: &&Layer| layer.files.iter().any(|f| (f.device, f.inode) == (state.device, state.inode));
    if let Some(seen) = layers.iter().find(is_same) {
        let child = &layers[depth - 1];
        let what = format!("its backing file {} is in the chain above it already", seen.path.display());
        return Err(ImageError::Chain { file: child.path.clone(), what });
    }
    let format = format_of(&file, backing.format.as_deref(), &mut layers[depth - 1])?;
    Ok((format, file))
}

/// In which format a backing file is: what its overlay says, and what the file itself shows.
fn format_of(file: &ImageFile, said: Option<&[u8]>, child: &mut Layer) -> Result<Format, ImageError> {
    if said == Some(Format::Raw.driver().as_bytes()) {
        return Ok(Format::Raw);
    }
    let seen = detect::detect(file)?;
    match said {
        Some(said) if said == seen.driver().as_bytes() => Ok(seen),
        Some(said) => {
            let expected = format!("an image in the format {}, as its overlay says", excerpt(said));
            Err(file.corrupt("backing file", FileOffset(0), expected, seen.driver()).into())
        }
        None if seen == Format::Raw => {
            let feature = "a raw backing file whose overlay does not say that it is raw (qemu-img rebase -u -F raw)";
            Err(file.unsupported(feature))
        }
        None => {
            child.warnings.push(format!(
                "it does not say in which format its backing file is; {} is taken as {}, by its content",
                file.path().display(),
                seen.driver()
            ));
            Ok(seen)
        }
    }
}
