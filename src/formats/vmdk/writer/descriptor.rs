//! The text that describes a VMDK to its hypervisor: content id, the extents, and the disk database.
//!
//! Properties come from the image that was backed up, so they are untrusted: what could not stand in a descriptor line
//! is left out and named. Pure; only [`fresh_content_id`] asks for randomness.
//!
//! Source: VMware, Virtual Disk Format 5.0, "The Descriptor".

use std::fmt::Write;
use std::io;
use std::path::Path;

use crate::units::SECTOR_BYTES;

/// What VMware gives an embedded descriptor (10 KiB): the least we reserve too.
const SECTORS_MIN: u32 = 20;
/// Properties kept, and bytes of one; real descriptors have about ten short lines.
const PROPERTIES_MAX: usize = 256;
const PROPERTY_BYTES_MAX: usize = 1024;

/// A random id for the content; 32 hex digits, the last 8 of which are the CID.
pub(super) fn fresh_content_id() -> io::Result<String> {
    loop {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(io::Error::from)?;
        let id: String = random.iter().map(|b| format!("{b:02x}")).collect();
        // Two CIDs have meanings: no parent, and "look at ddb.longContentID".
        if !id.ends_with("ffffffff") && !id.ends_with("fffffffe") {
            return Ok(id);
        }
    }
}

/// An id for content that stays as it is: the same at every look, made of what names it.
pub(super) fn lasting_content_id(named: &[u8]) -> String {
    let mut id = blake3::hash(named).to_hex()[..32].to_owned();
    // See above.
    if id.ends_with("ffffffff") || id.ends_with("fffffffe") {
        id.replace_range(24.., "00000000");
    }
    id
}

/// What the descriptor of a new image says.
pub(super) struct Descriptor<'a> {
    /// `monolithicSparse`, `streamOptimized` …
    pub create_type: &'a str,
    /// One behind the other they are the disk.
    pub extents: Vec<Extent>,
    /// From [`fresh_content_id`].
    pub content_id: &'a str,
    /// The `ddb.*` lines of the source, in order.
    pub properties: &'a [(String, String)],
}

/// An extent line.
pub(super) struct Extent {
    pub sectors: u64,
    pub kind: Kind,
    /// The file's name without its folder, as [`extent_name`] or [`exact_name`] gives it.
    pub name: String,
}

/// What an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sparse,
    /// From the beginning of its file.
    Flat,
}

impl Descriptor<'_> {
    /// For the only extent's own file: the text, padded with NUL to whole sectors; and what had to be left out, as
    /// sentences.
    pub fn embedded(&self) -> (Vec<u8>, Vec<String>) {
        let (text, left_out) = self.encode();
        let sectors = text.len().div_ceil(SECTOR_BYTES as usize).max(SECTORS_MIN as usize);
        let mut bytes = text.into_bytes();
        bytes.resize(sectors * SECTOR_BYTES as usize, 0);
        (bytes, left_out)
    }

    /// The text; and what had to be left out, as sentences.
    pub fn encode(&self) -> (String, Vec<String>) {
        let (properties, left_out) = usable(self.properties);
        let mut text = String::from("# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\n");
        let cid = &self.content_id[self.content_id.len().saturating_sub(8)..];
        let _ = write!(text, "CID={cid}\nparentCID=ffffffff\ncreateType=\"{}\"\n\n", self.create_type);
        text.push_str("# Extent description\n");
        for Extent { sectors, kind, name } in &self.extents {
            let _ = match kind {
                Kind::Sparse => writeln!(text, "RW {sectors} SPARSE \"{name}\""),
                Kind::Flat => writeln!(text, "RW {sectors} FLAT \"{name}\" 0"),
            };
        }
        text.push('\n');
        text.push_str("# The Disk Data Base\n#DDB\n\n");
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(text, "{key} = \"{value}\"");
        };
        let has = |key: &str| properties.iter().any(|(present, _)| present.eq_ignore_ascii_case(key));
        if !has("ddb.adapterType") {
            line("ddb.adapterType", "lsilogic");
        }
        let ide = properties.contains(&("ddb.adapterType", "ide"));
        let given = Geometry::KEYS.map(has);
        if given != [true; 3] {
            // A part of a geometry together with a part of ours would describe no disk at all.
            let numbers = Geometry::of(self.extents.iter().map(|extent| extent.sectors).sum(), ide).numbers();
            Geometry::KEYS.iter().zip(numbers).for_each(|(key, number)| line(key, &number.to_string()));
        }
        if !has("ddb.virtualHWVersion") {
            line("ddb.virtualHWVersion", "4");
        }
        line("ddb.longContentID", self.content_id);
        let kept = properties.iter().filter(|(key, _)| given == [true; 3] || !Geometry::is_key(key));
        kept.for_each(|(key, value)| line(key, value));
        (text, left_out)
    }
}

/// The properties that can be written as they are, without those that would be wrong in a new image.
fn usable(properties: &[(String, String)]) -> (Vec<(&str, &str)>, Vec<String>) {
    let mut kept = Vec::new();
    let mut left_out = Vec::new();
    for (key, value) in properties {
        if is_of_old_content(key) {
            continue;
        }
        let sound = key.starts_with("ddb.")
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !value.contains(|c: char| c.is_control() || c == '"')
            && key.len() + value.len() <= PROPERTY_BYTES_MAX;
        let number_expected = Geometry::is_key(key);
        if sound && kept.len() < PROPERTIES_MAX && (!number_expected || value.parse::<u32>().is_ok_and(|n| n > 0)) {
            kept.push((key.as_str(), value.as_str()));
        } else if left_out.len() < PROPERTIES_MAX {
            let name: String = key.chars().take(64).collect();
            left_out.push(format!("descriptor property {name:?} of the source cannot be written and is left out"));
        }
    }
    (kept, left_out)
}

/// Identities of the old content: a restored image has its own, and is nobody's child.
fn is_of_old_content(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key == "ddb.longcontentid" || key.starts_with("ddb.nativeparent")
}

/// The name as the extent line can carry it. For an embedded descriptor it is information: the extent is this file.
pub(super) fn extent_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.chars().map(|c| if c.is_control() || c == '"' { '_' } else { c }).collect()
}

/// The name as the extent line must carry it: the extent is found by it. `None` if it cannot.
pub(super) fn exact_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    (extent_name(file) == name && !name.contains('\\')).then(|| name.to_owned())
}

/// Cylinders, heads, sectors: what a BIOS is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Geometry {
    cylinders: u64,
    heads: u64,
    sectors: u64,
}

impl Geometry {
    const KEYS: [&str; 3] = ["ddb.geometry.cylinders", "ddb.geometry.heads", "ddb.geometry.sectors"];

    fn is_key(key: &str) -> bool {
        Geometry::KEYS.iter().any(|known| known.eq_ignore_ascii_case(key))
    }

    /// As VMware chooses it: IDE by the ATA limits, SCSI growing with the disk.
    fn of(capacity_sectors: u64, ide: bool) -> Geometry {
        const GIB_SECTORS: u64 = (1 << 30) / SECTOR_BYTES;
        let (heads, sectors, cylinders_max) = match capacity_sectors {
            _ if ide => (16, 63, 16_383),
            ..GIB_SECTORS => (64, 32, 65_535),
            c if c < 2 * GIB_SECTORS => (128, 32, 65_535),
            _ => (255, 63, 65_535),
        };
        let cylinders = (capacity_sectors / (heads * sectors)).clamp(1, cylinders_max);
        Geometry { cylinders, heads, sectors }
    }

    fn numbers(self) -> [u64; 3] {
        [self.cylinders, self.heads, self.sectors]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn encoded(properties: &[(&str, &str)]) -> (String, Vec<String>) {
        let properties: Vec<_> = properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let name = extent_name(Path::new("/some/where/web \"1\".vmdk"));
        let extents = vec![Extent { sectors: 1 << 21, kind: Kind::Sparse, name }];
        let (bytes, left_out) =
            Descriptor { create_type: "monolithicSparse", extents, content_id: ID, properties: &properties }.embedded();
        assert!(bytes.len().is_multiple_of(512) && bytes.len() >= 20 * 512);
        (String::from_utf8(bytes).unwrap().trim_end_matches('\0').to_owned(), left_out)
    }

    #[test]
    fn without_properties_all_defaults_are_there() {
        let expected = r#"# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=89abcdef
parentCID=ffffffff
createType="monolithicSparse"

# Extent description
RW 2097152 SPARSE "web _1_.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "512"
ddb.geometry.heads = "128"
ddb.geometry.sectors = "32"
ddb.virtualHWVersion = "4"
ddb.longContentID = "0123456789abcdef0123456789abcdef"
"#;
        assert_eq!(encoded(&[]), (expected.to_owned(), vec![]));
    }

    #[test]
    fn properties_of_the_source_win_over_defaults() {
        let (text, left_out) = encoded(&[
            ("ddb.adapterType", "ide"),
            ("ddb.geometry.cylinders", "7"),
            ("ddb.geometry.heads", "16"),
            ("ddb.geometry.sectors", "63"),
            ("ddb.uuid", "60 00 C2 9a"),
            ("ddb.virtualHWVersion", "19"),
            ("ddb.longContentID", "ffffffffffffffffffffffffffffffff"),
        ]);
        let (_, database) = text.split_once("#DDB\n\n").unwrap();
        let expected = "ddb.longContentID = \"0123456789abcdef0123456789abcdef\"\nddb.adapterType = \"ide\"\n\
            ddb.geometry.cylinders = \"7\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n\
            ddb.uuid = \"60 00 C2 9a\"\nddb.virtualHWVersion = \"19\"\n";
        assert_eq!((database, left_out), (expected, vec![]));
    }

    #[test]
    fn half_a_geometry_is_replaced() {
        let (text, _) =
            encoded(&[("ddb.geometry.heads", "3"), ("ddb.geometry.sectors", "x"), ("ddb.adapterType", "ide")]);
        assert!(text.contains("ddb.geometry.cylinders = \"2080\"\n"), "{text}");
        assert!(text.contains("ddb.geometry.heads = \"16\"\n") && !text.contains("heads = \"3\""), "{text}");
    }

    #[test]
    fn what_could_break_out_of_its_line_is_left_out_and_named() {
        let long = "x".repeat(PROPERTY_BYTES_MAX);
        let (text, left_out) = encoded(&[
            ("ddb.uuid", "a\"\nRW 1 FLAT \"/etc/shadow\" 0"),
            ("ddb.comment\nparentCID", "1"),
            ("parentFileNameHint", "x.vmdk"),
            ("ddb.comment", &long),
            ("ddb.toolsVersion", "11"),
        ]);
        assert_eq!(left_out.len(), 4, "{left_out:?}");
        assert!(left_out[0].contains("ddb.uuid"));
        assert!(text.ends_with("ddb.toolsVersion = \"11\"\n"));
        assert_eq!(text, encoded(&[("ddb.toolsVersion", "11")]).0);
    }

    #[test]
    fn many_properties_are_bounded_and_fit() {
        let many: Vec<_> = (0..1000).map(|n| (format!("ddb.n{n}"), "v".repeat(1000))).collect();
        let many: Vec<_> = many.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let (text, left_out) = encoded(&many);
        assert!(text.contains("ddb.n255 ") && !text.contains("ddb.n256 "));
        assert_eq!(left_out.len(), PROPERTIES_MAX);
    }

    #[test]
    fn geometry_follows_size_and_adapter() {
        #[track_caller]
        fn check(sectors: u64, ide: bool, expected: [u64; 3]) {
            assert_eq!(Geometry::of(sectors, ide).numbers(), expected);
        }
        check(1, false, [1, 64, 32]);
        check((1 << 21) - 1, false, [1023, 64, 32]);
        check(1 << 21, false, [512, 128, 32]);
        check(1 << 22, false, [261, 255, 63]);
        check(1 << 32, false, [65_535, 255, 63]);
        check(1, true, [1, 16, 63]);
        check(1 << 32, true, [16_383, 16, 63]);
    }

    #[test]
    fn extents_follow_each_other_and_make_the_geometry() {
        let extents = ["a-s001.vmdk", "a-s002.vmdk"];
        let extents = extents.map(|name| Extent { sectors: 1 << 20, kind: Kind::Sparse, name: name.to_owned() }).into();
        let (text, _) =
            Descriptor { create_type: "twoGbMaxExtentSparse", extents, content_id: ID, properties: &[] }.encode();
        let lines = "# Extent description\nRW 1048576 SPARSE \"a-s001.vmdk\"\nRW 1048576 SPARSE \"a-s002.vmdk\"\n\n#";
        assert!(text.contains(lines), "{text}");
        assert!(text.contains("ddb.geometry.cylinders = \"512\"\n"), "{text}");
        assert!(!text.contains('\0'));
    }

    #[test]
    fn names_that_a_line_cannot_carry_are_told() {
        assert_eq!(exact_name(Path::new("/x/web 1-flat.vmdk")).as_deref(), Some("web 1-flat.vmdk"));
        for bad in ["/", "/x/a\"b", "/x/a\nb", "/x/a\\b"] {
            assert_eq!(exact_name(Path::new(bad)), None, "{bad:?}");
        }
        let bytes = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\xff");
        assert_eq!(exact_name(Path::new(bytes)), None);
    }

    #[test]
    fn content_ids_are_fresh() {
        let (a, b) = (fresh_content_id().unwrap(), fresh_content_id().unwrap());
        assert_ne!(a, b);
        assert!(a.len() == 32 && a.bytes().all(|c| c.is_ascii_hexdigit()));
    }
}
