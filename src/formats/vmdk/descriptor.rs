//! The VMDK descriptor: a text that lists extents, names the parent, and keeps the disk database.
//!
//! It is a file of its own or embedded in a sparse extent, padded with NULs. Real descriptors vary in key case, blanks
//! and line ends, and carry keys nobody documented: unknown lines are kept out of the way, but a line that begins like
//! an extent and does not parse is an error, because skipping an extent would shift all data behind it.
//!
//! Source: VMware "Virtual Disk Format 5.0", "The Descriptor File".

use nom::branch::alt;
use nom::bytes::complete::{tag_no_case, take_till, take_while1};
use nom::character::complete::{char, space0, space1, u64 as decimal};
use nom::combinator::opt;
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

use crate::disk::DiskError;
use crate::formats::file::ImageFile;
use crate::formats::{ImageError, excerpt};
use crate::units::{ByteLen, FileOffset};

/// Longest descriptor we read. At 10 bytes for the shortest extent line it also bounds the extents, to about 100 000.
pub(crate) const DESCRIPTOR_BYTES_MAX: u64 = 1 << 20;
/// What every descriptor begins with.
const FIRST_LINE: &[u8] = b"# Disk DescriptorFile";
/// `parentCID` of a disk without a parent.
const NO_PARENT: &str = "ffffffff";
/// A CID that says: look at the last eight digits of `ddb.longContentID`.
pub(crate) const SEE_LONG_ID: &str = "fffffffe";

/// A descriptor that makes sense.
#[derive(Debug)]
pub(crate) struct Descriptor {
    /// Identity of the content: 8 lower-case hex digits.
    pub content_id: String,
    /// The CID as it stands there; differs from `content_id` only where it says to look at the long one.
    pub short_id: String,
    /// The redo log's parent; `None` for a base.
    pub parent: Option<ParentLink>,
    /// As it stands there; extents are trusted over it.
    pub create_type: String,
    /// In the order of the disk; together less than 2^63 bytes.
    pub extents: Vec<ExtentLine>,
    /// The `ddb.*` lines, in order.
    pub ddb: Vec<(String, String)>,
}

/// What a redo log says about its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentLink {
    /// The CID the parent had when the redo log was made.
    pub content_id: String,
    /// The parent's file name, as bytes of the descriptor's encoding.
    pub hint: Vec<u8>,
}

/// One extent of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtentLine {
    /// Where its line begins in the file.
    pub at: FileOffset,
    /// Its length.
    pub len: ByteLen,
    /// What holds its bytes.
    pub source: ExtentSource,
}

/// What holds an extent's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExtentSource {
    /// Nothing: zeros.
    Zeros,
    /// A run of a file, from an offset.
    Flat { name: Vec<u8>, from: FileOffset },
    /// A file with a map; its magic says which kind.
    Sparse { name: Vec<u8> },
}

/// A descriptor as its lines say it, nothing checked yet.
#[derive(Default)]
struct RawDescriptor {
    pairs: Vec<RawPair>,
    extents: Vec<RawExtent>,
    /// Lines that begin like an extent and are none.
    broken_extents: Vec<FileOffset>,
}

struct RawPair {
    at: FileOffset,
    key: String,
    value: Vec<u8>,
}

struct RawExtent {
    at: FileOffset,
    access: String,
    sectors: u64,
    kind: String,
    name: Option<Vec<u8>>,
    from_sector: Option<u64>,
}

/// Whether a file that begins with `head` is a descriptor.
pub(crate) fn is_descriptor(head: &[u8]) -> bool {
    skip_padding(head).get(..FIRST_LINE.len()).is_some_and(|line| line.eq_ignore_ascii_case(FIRST_LINE))
}

/// Reads a descriptor that is a file of its own.
pub(crate) fn read_file(file: &ImageFile) -> Result<Descriptor, ImageError> {
    read_embedded(file, FileOffset(0), file.len())
}

/// Reads the descriptor that lies `len` bytes long at `at`.
pub(crate) fn read_embedded(file: &ImageFile, at: FileOffset, len: u64) -> Result<Descriptor, ImageError> {
    if len > DESCRIPTOR_BYTES_MAX {
        let expected = format!("at most {DESCRIPTOR_BYTES_MAX} bytes");
        return Err(file.corrupt("descriptor", at, expected, format!("{len} bytes")).into());
    }
    let text = file.read_vec("descriptor", at, len)?;
    if !is_descriptor(&text) {
        let found = String::from_utf8_lossy(text.get(..FIRST_LINE.len()).unwrap_or(&text)).into_owned();
        return Err(file.corrupt("descriptor", at, "`# Disk DescriptorFile`", format!("{found:?}")).into());
    }
    parse(&text, at).validate(file, at)
}

fn skip_padding(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let start = text.iter().position(|b| !b.is_ascii_whitespace() && *b != 0).unwrap_or(text.len());
    &text[start..]
}

/// Takes the text apart; `base` is where it lies in the file.
fn parse(text: &[u8], base: FileOffset) -> RawDescriptor {
    let mut raw = RawDescriptor::default();
    let mut rest = skip_padding(text);
    // What follows the first NUL is padding, or the leftover of a longer descriptor.
    rest = rest.split(|b| *b == 0).next().unwrap_or(rest);
    let mut at = FileOffset(base.0.saturating_add((text.len() - skip_padding(text).len()) as u64));
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |i| i + 1);
        let (line, later) = rest.split_at(end);
        raw.add_line(line.trim_ascii(), at);
        at = FileOffset(at.0.saturating_add(end as u64));
        rest = later;
    }
    raw
}

impl RawDescriptor {
    fn add_line(&mut self, line: &[u8], at: FileOffset) {
        if line.is_empty() || line.starts_with(b"#") {
            return;
        }
        if let Ok((_, extent)) = extent_line(line) {
            self.extents.push(RawExtent { at, ..extent });
        } else if access(line).is_ok() {
            self.broken_extents.push(at);
        } else if let Ok((_, (key, value))) = pair_line(line) {
            self.pairs.push(RawPair { at, key: lossy(key), value: value.to_vec() });
        }
    }

    /// The value of `key`, in any case; the last one counts.
    fn value(&self, key: &str) -> Option<&RawPair> {
        self.pairs.iter().rev().find(|pair| pair.key.eq_ignore_ascii_case(key))
    }

    fn validate(self, file: &ImageFile, base: FileOffset) -> Result<Descriptor, ImageError> {
        if let Some(at) = self.broken_extents.first() {
            return Err(file
                .corrupt("extent line", *at, "ACCESS SECTORS TYPE [\"FILE\" [OFFSET]]", "something else")
                .into());
        }
        // An encrypted disk keeps its real descriptor as a blob behind these keys.
        if self.pairs.iter().any(|pair| pair.key.to_ascii_lowercase().starts_with("encryption.")) {
            return Err(file.unsupported("an encrypted VMDK"));
        }
        let version = self.value("version").map_or_else(|| "1".to_string(), |pair| lossy(&pair.value));
        if !matches!(version.as_str(), "1" | "2" | "3") {
            return Err(file.unsupported(format!("VMDK descriptor version {}", excerpt(version.as_bytes()))));
        }
        let create_type = self.value("createType").map(|pair| excerpt(&pair.value)).unwrap_or_default();
        if let Some(why) = not_in_files(&create_type) {
            return Err(file.unsupported(format!("createType {create_type}: {why}")));
        }
        let extents = validate_extents(&self.extents, file, base)?;
        let (short_id, content_id) = self.content_id(file, base)?;
        let parent = self.parent(file, base)?;
        let ddb = self.pairs.iter().filter(|pair| pair.key.to_ascii_lowercase().starts_with("ddb."));
        let ddb = ddb.map(|pair| (pair.key.clone(), lossy(&pair.value))).collect();
        Ok(Descriptor { content_id, short_id, parent, create_type, extents, ddb })
    }

    /// The CID, and the identity it stands for.
    fn content_id(&self, file: &ImageFile, base: FileOffset) -> Result<(String, String), DiskError> {
        let Some(pair) = self.value("CID") else {
            return Err(file.corrupt("CID", base, "8 hex digits", "none"));
        };
        let id = hex_id(file, "CID", pair)?;
        if id != SEE_LONG_ID {
            return Ok((id.clone(), id));
        }
        let long = self.value("ddb.longContentID").map(|pair| lossy(&pair.value)).unwrap_or_default();
        let tail = long.len().checked_sub(8).and_then(|from| long.get(from..));
        match tail {
            Some(tail) if tail.bytes().all(|b| b.is_ascii_hexdigit()) => Ok((id, tail.to_ascii_lowercase())),
            _ => Ok((id.clone(), id)),
        }
    }

    fn parent(&self, file: &ImageFile, base: FileOffset) -> Result<Option<ParentLink>, DiskError> {
        let Some(pair) = self.value("parentCID") else { return Ok(None) };
        let content_id = hex_id(file, "parentCID", pair)?;
        if content_id == NO_PARENT {
            return Ok(None);
        }
        match self.value("parentFileNameHint") {
            Some(hint) if !hint.value.is_empty() => Ok(Some(ParentLink { content_id, hint: hint.value.clone() })),
            _ => Err(file.corrupt("parentFileNameHint", base, format!("the parent {content_id}'s name"), "none")),
        }
    }
}

/// A CID, padded to eight lower-case digits: some writers drop leading zeros.
fn hex_id(file: &ImageFile, field: &'static str, pair: &RawPair) -> Result<String, DiskError> {
    let text = lossy(&pair.value);
    match u32::from_str_radix(&text, 16) {
        Ok(id) if !text.starts_with('+') => Ok(format!("{id:08x}")),
        _ => Err(file.corrupt(field, pair.at, "8 hex digits", format!("{:?}", excerpt(&pair.value)))),
    }
}

/// Why a disk of this createType cannot be read from files; `None` if it can.
fn not_in_files(create_type: &str) -> Option<&'static str> {
    match create_type.to_ascii_lowercase().as_str() {
        "fulldevice" | "partitioneddevice" | "vmfsraw" | "vmfsrawdevicemap" | "vmfspassthroughrawdevicemap" => {
            Some("its data lies on a raw device, not in files;")
        }
        "vsansparse" => Some("its data lies in a vSAN object store, not in files;"),
        _ => None,
    }
}

fn validate_extents(raw: &[RawExtent], file: &ImageFile, base: FileOffset) -> Result<Vec<ExtentLine>, ImageError> {
    if raw.is_empty() {
        return Err(file.corrupt("extent lines", base, "at least one", "none").into());
    }
    let mut extents = Vec::with_capacity(raw.len());
    let mut size = 0u64;
    for line in raw {
        let len = ByteLen::from_sectors(line.sectors);
        let sum = len.and_then(|len| size.checked_add(len.0)).filter(|sum| *sum < 1 << 63);
        let (Some(len), Some(sum)) = (len, sum) else {
            let found = format!("{} sectors more", line.sectors);
            return Err(file.corrupt("disk size", line.at, "less than 2^63 bytes", found).into());
        };
        size = sum;
        extents.push(ExtentLine { at: line.at, len, source: extent_source(line, file)? });
    }
    Ok(extents)
}

fn extent_source(line: &RawExtent, file: &ImageFile) -> Result<ExtentSource, ImageError> {
    // NOACCESS: the guest sees zeros there, whatever the extent is made of.
    if line.access == "NOACCESS" || line.kind == "ZERO" {
        return Ok(ExtentSource::Zeros);
    }
    let name = || match &line.name {
        Some(name) => Ok(name.clone()),
        None => Err(file.corrupt("extent line", line.at, "a file name in quotes", "none")),
    };
    match line.kind.as_str() {
        "FLAT" | "VMFS" | "VMFSTHIN" => {
            let from = FileOffset::from_sector(line.from_sector.unwrap_or(0))
                .ok_or_else(|| file.corrupt("extent offset", line.at, "less than 2^64 bytes", "more"))?;
            Ok(ExtentSource::Flat { name: name()?, from })
        }
        "SPARSE" | "VMFSSPARSE" | "SESPARSE" => Ok(ExtentSource::Sparse { name: name()? }),
        "VMFSRDM" | "VMFSRAW" => {
            Err(file.unsupported(format!("extent type {}: its data lies on a raw device, not in files;", line.kind)))
        }
        kind => Err(file.unsupported(format!("extent type {}", excerpt(kind.as_bytes())))),
    }
}

fn access(line: &[u8]) -> IResult<&[u8], &[u8]> {
    let (rest, word) = alt((tag_no_case("RW"), tag_no_case("RDONLY"), tag_no_case("NOACCESS"))).parse(line)?;
    space1(rest).map(|(rest, _)| (rest, word))
}

fn quoted(input: &[u8]) -> IResult<&[u8], &[u8]> {
    delimited(char('"'), take_till(|b| b == b'"'), char('"')).parse(input)
}

fn extent_line(line: &[u8]) -> IResult<&[u8], RawExtent> {
    let word = take_while1(|b: u8| b.is_ascii_alphanumeric());
    let (rest, access) = access(line)?;
    let (rest, sectors) = decimal(rest)?;
    let (rest, kind) = preceded(space1, word).parse(rest)?;
    let (rest, name) = opt(preceded(space1, quoted)).parse(rest)?;
    // What may follow the offset (partition UUID, device id) means nothing to a reader of files.
    let (rest, from_sector) = opt(preceded(space1, decimal)).parse(rest)?;
    let upper = |text: &[u8]| lossy(text).to_ascii_uppercase();
    let name = name.map(<[u8]>::to_vec);
    let extent = RawExtent { at: FileOffset(0), access: upper(access), sectors, kind: upper(kind), name, from_sector };
    Ok((rest, extent))
}

fn pair_line(line: &[u8]) -> IResult<&[u8], (&[u8], &[u8])> {
    let (rest, key) = take_while1(|b: u8| b != b'=' && b != b'"').parse(line)?;
    let (rest, _) = (char('='), space0).parse(rest)?;
    let (rest, value) = alt((quoted, take_till(|_| false))).parse(rest)?;
    Ok((rest, (key.trim_ascii(), value.trim_ascii())))
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;

    fn read(text: &[u8]) -> Result<Descriptor, ImageError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vmdk");
        std::fs::write(&path, text).unwrap();
        read_file(&ImageFile::new(&path, File::open(&path).unwrap()).unwrap())
    }

    fn with(lines: &str) -> Result<Descriptor, ImageError> {
        read(format!("# Disk DescriptorFile\nversion=1\nCID=0badcafe\n{lines}\n").as_bytes())
    }

    #[track_caller]
    fn refused(lines: &str, said: &str) {
        let err = with(lines).unwrap_err().to_string();
        assert!(err.contains(said), "{lines}: {err}");
    }

    #[test]
    fn a_descriptor_of_esx_is_read_whatever_its_blanks_and_case() {
        let text = b"\0\0 \r\n# disk DESCRIPTORFILE \r\nversion=3\r\nencoding=\"UTF-8\"\r\n cid = 0A1b2C3d\r\nPARENTCID=DEADBEEF\r\n\
            isNativeSnapshot=\"no\"\r\ncreateType=\"vmfsSparse\"\r\nparentFileNameHint=\"web 1.vmdk\"\r\nwhat is this\r\n\
            # Extent description\r\nrw 2048 vmfssparse \"web 1-000001-delta.vmdk\"\r\nRDONLY 10 FLAT \"f\" 3\r\nNOACCESS 5 SPARSE \"x\"\r\n\
            RW 1 ZERO\r\nRW 7 FLAT \"p\" 0 partitionUUID dev\r\n\r\nddb.adapterType = \"lsilogic\"\r\nddb.uuid = \"60 00 C2 9a\"\r\n\0RW 1 ZERO\r\n";
        let descriptor = read(text).unwrap();
        assert_eq!(descriptor.content_id, "0a1b2c3d");
        let parent = descriptor.parent.unwrap();
        assert_eq!((parent.content_id.as_str(), parent.hint.as_slice()), ("deadbeef", b"web 1.vmdk".as_slice()));
        assert_eq!(descriptor.create_type, "vmfsSparse");
        let sectors: Vec<_> = descriptor.extents.iter().map(|extent| extent.len.0 / 512).collect();
        assert_eq!(sectors, [2048, 10, 5, 1, 7]);
        let sources: Vec<_> = descriptor.extents.iter().map(|extent| extent.source.clone()).collect();
        let flat =
            |name: &[u8], sector: u64| ExtentSource::Flat { name: name.to_vec(), from: FileOffset(sector * 512) };
        let sparse = ExtentSource::Sparse { name: b"web 1-000001-delta.vmdk".to_vec() };
        let expected = vec![sparse, flat(b"f", 3), ExtentSource::Zeros, ExtentSource::Zeros, flat(b"p", 0)];
        assert_eq!(sources, expected);
        let ddb: Vec<_> = descriptor.ddb.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(ddb, [("ddb.adapterType", "lsilogic"), ("ddb.uuid", "60 00 C2 9a")]);
    }

    #[test]
    fn an_identity_may_stand_in_the_long_one() {
        let id =
            |lines: &str| read(format!("# Disk DescriptorFile\n{lines}\nRW 1 ZERO").as_bytes()).unwrap().content_id;
        assert_eq!(id("CID=fffffffe\nddb.longContentID = \"00112233445566778899AABBccddeeff\""), "ccddeeff");
        assert_eq!(id("CID=fffffffe"), "fffffffe");
        assert_eq!(id("CID=fffffffe\nddb.longContentID = \"x\u{e4}\u{e4}\u{e4}\u{e4}\""), "fffffffe");
        assert_eq!(id("CID=1"), "00000001");
    }

    #[test]
    fn what_cannot_be_right_is_refused_with_its_place() {
        refused("", "extent lines at offset 0x0: expected at least one, found none");
        refused("RW 99999999999999999999 ZERO", "extent line at offset 0x2d: expected ACCESS");
        refused("RW 1", "extent line at offset 0x2d");
        refused("RW x FLAT \"y\" 0", "extent line at offset 0x2d");
        refused("RW 18446744073709551615 ZERO", "disk size at offset 0x2d: expected less than 2^63");
        refused("RW 10000000000000000 ZERO\nRW 10000000000000000 ZERO", "disk size at offset 0x47");
        refused("RW 1 FLAT", "expected a file name in quotes");
        refused("RW 1 FLAT \"a\" 18446744073709551615", "extent offset at offset 0x2d");
        refused(
            "RW 1 VMFSRDM \"a\"",
            "extent type VMFSRDM: its data lies on a raw device, not in files; is not supported",
        );
        refused("RW 1 WHATEVER \"a\"", "extent type WHATEVER is not supported");
        refused("createType=\"fullDevice\"\nRW 1 FLAT \"/dev/sda\" 0", "createType fullDevice");
        refused("createType=\"partitionedDevice\"\nRW 1 FLAT \"/dev/sda\" 0", "raw device");
        refused("createType=\"vsanSparse\"\nRW 1 ZERO", "vSAN");
        refused("encryption.keySafe = \"vmware:key/list/(...)\"\nRW 1 ZERO", "an encrypted VMDK is not supported");
        refused("version=9\nRW 1 ZERO", "VMDK descriptor version 9");
        refused("CID=xyz\nRW 1 ZERO", "CID at offset 0x2d: expected 8 hex digits, found \"xyz\"");
        refused("CID=+1234567\nRW 1 ZERO", "expected 8 hex digits");
        refused(
            "parentCID=12345678\nRW 1 ZERO",
            "parentFileNameHint at offset 0x0: expected the parent 12345678's name",
        );
        assert!(read(b"# Disk DescriptorFile\nRW 1 ZERO").unwrap_err().to_string().contains("CID at offset 0x0"));
    }

    #[test]
    fn a_descriptor_may_have_a_mebibyte() {
        let mut text = b"# Disk DescriptorFile\nCID=1\nRW 1 ZERO\n".to_vec();
        text.resize(1 << 20, b'\n');
        assert!(read(&text).is_ok());
        text.push(b'\n');
        let said = "descriptor at offset 0x0: expected at most 1048576 bytes, found 1048577 bytes";
        assert!(read(&text).unwrap_err().to_string().contains(said));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_disk_reaches_2_63_bytes(lines in proptest::collection::vec("[ -~]{0,40}|RW [0-9]{1,20} (ZERO|FLAT \"a\" [0-9]{1,20})", 0..8)) {
            if let Ok(descriptor) = with(&lines.join("\n")) {
                let sum = descriptor.extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.len.0));
                prop_assert!(sum.is_some_and(|sum| sum < 1 << 63));
            }
        }
    }
}
