//! From the newest differencing VHD (`.avhd`) down to the base.
//!
//! A child has the UUID of its parent and up to eight names for it, in the words of several systems. The names only help
//! to find the file; the UUID decides. The parent's time stamp, also remembered, changes when a file is copied, so it is
//! not compared.

use std::sync::Arc;

use uuid::Uuid;

use super::header::RawLocator;
use super::image;
use super::layout::{Dynamic, Kind, read_dynamic, read_footer};
use crate::formats::chain::{ChainFormat, open_first_named};
use crate::formats::file::ImageFile;
use crate::formats::{ImageError, Layer, OpenPolicy};
use crate::units::FileOffset;

/// Longest name of a parent: Windows ends at 32767 characters.
const LOCATOR_BYTES_MAX: u32 = 64 << 10;

/// The format, for [`open_chain`](crate::formats::chain::open_chain).
pub(crate) struct Vhd;

/// What a differencing disk remembers of its parent.
pub(crate) struct ParentLink {
    uuid: Uuid,
    /// Best first.
    names: Vec<Vec<u8>>,
}

impl ChainFormat for Vhd {
    type Link = ParentLink;

    fn open_level(file: ImageFile) -> Result<(Layer, Option<ParentLink>), ImageError> {
        let file = Arc::new(file);
        let mut warnings = Vec::new();
        let footer = read_footer(&file, &mut warnings)?;
        if footer.is_suspended {
            warnings.push("its machine is suspended: the state of its memory is not in the disk".to_string());
        }
        let mut link = None;
        let (variant, disk) = match footer.kind {
            Kind::Fixed => {
                let beyond = footer.data_end.saturating_sub(footer.size);
                if beyond > 0 {
                    warnings
                        .push(format!("{beyond} bytes between the end of the disk and the footer are not part of it"));
                }
                ("vhd fixed", image::open_fixed(&file, &footer)?)
            }
            Kind::Dynamic => ("vhd dynamic", image::open_blocks(&file, &read_dynamic(&file, &footer)?)),
            Kind::Differencing => {
                let dynamic = read_dynamic(&file, &footer)?;
                link = Some(ParentLink { uuid: dynamic.parent_uuid, names: parent_names(&file, &dynamic)? });
                ("vhd differencing", image::open_blocks(&file, &dynamic))
            }
        };
        let layer = Layer {
            disk,
            path: file.path().to_path_buf(),
            files: vec![file.state().clone()],
            variant: variant.to_string(),
            content_id: footer.uuid.to_string(),
            parent_content_id: link.as_ref().map(|link| link.uuid.to_string()),
            properties: footer.properties,
            in_use: None, // the format has no sign of it
            warnings,
            notes: Vec::new(),
        };
        Ok((layer, link))
    }

    fn find_parent(link: &ParentLink, child: &mut Layer, policy: &OpenPolicy) -> Result<ImageFile, ImageError> {
        open_first_named(&link.names, child, policy).unwrap_or_else(|| {
            let wanted = format!("(no name, UUID {})", link.uuid).into();
            Err(ImageError::Missing { named_by: child.path.clone(), role: "parent", wanted })
        })
    }

    fn check_identity(link: &ParentLink, child: &mut Layer, parent: &Layer) -> Option<ImageError> {
        (link.uuid.to_string() != parent.content_id).then(|| ImageError::ParentMismatch {
            child: child.path.clone(),
            parent: parent.path.clone(),
            expected: parent.content_id.clone(),
            found: link.uuid.to_string(),
        })
    }
}

/// The parent's names: relative before absolute, the writer's own system before others.
fn parent_names(file: &ImageFile, dynamic: &Dynamic) -> Result<Vec<Vec<u8>>, ImageError> {
    let mut names = Vec::new();
    for code in [b"W2ru", b"W2ku", b"MacX"] {
        for locator in dynamic.locators.iter().filter(|locator| locator.code == *code && locator.len > 0) {
            names.push(locator_name(file, locator)?);
        }
    }
    // The name in the header is a path or only a file name; it serves where the locators are of a kind we cannot read.
    let name = String::from_utf16_lossy(&dynamic.parent_name);
    names.push(name.trim_end_matches('\0').as_bytes().to_vec());
    names.retain(|name| !name.is_empty());
    Ok(names)
}

fn locator_name(file: &ImageFile, locator: &RawLocator) -> Result<Vec<u8>, ImageError> {
    let at = FileOffset(locator.at);
    if locator.len > LOCATOR_BYTES_MAX {
        let expected = format!("at most {LOCATOR_BYTES_MAX} bytes");
        return Err(file.corrupt("parent locator", at, expected, locator.len).into());
    }
    let bytes = file.read_vec("parent locator", at, locator.len.into())?;
    if &locator.code == b"MacX" {
        return Ok(from_file_url(&bytes));
    }
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let name = String::from_utf16(&units)
        .map_err(|_| file.corrupt("parent locator", at, "a name in UTF-16", format!("{:02x?}", head(&bytes))))?;
    Ok(name.trim_end_matches('\0').as_bytes().to_vec())
}

fn head(bytes: &[u8]) -> &[u8] {
    bytes.get(..16).unwrap_or(bytes)
}

/// The path of a `file://` URL; anything else stays as it is and is refused as a name later.
fn from_file_url(url: &[u8]) -> Vec<u8> {
    let end = url.iter().position(|byte| *byte == 0).unwrap_or(url.len());
    let url = &url[..end];
    let Some(path) = url.strip_prefix(b"file://") else { return url.to_vec() };
    let path = if path.starts_with(b"localhost/") { &path[b"localhost".len()..] } else { path };
    let mut name = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                name.push(high << 4 | low);
                rest = &rest[3..];
            }
            None => {
                name.push(*first);
                rest = tail;
            }
        }
    }
    name
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_urls_become_paths_and_nothing_else_does() {
        let check = |url: &str, expected: &str| {
            assert_eq!(String::from_utf8_lossy(&from_file_url(url.as_bytes())), expected);
        };
        check("file:///vm/base.vhd", "/vm/base.vhd");
        check("file://localhost/vm/base.vhd", "/vm/base.vhd");
        check("file://./base.vhd", "./base.vhd");
        check("file://a%20b%2", "a b%2");
        check("file://%zz%41\0rest", "%zzA");
        check("http://host/base.vhd", "http://host/base.vhd");
        check("", "");
    }
}
