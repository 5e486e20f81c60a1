//! Physical volumes: the label, the header behind it, and the metadata areas with the text that describes the group.
//!
//! Label, in one of the first four sectors, little-endian: 0 `LABELONE` | 8 own sector u64 | 16 CRC u32 of what follows |
//! 20 place of the header u32 | 24 `LVM2 001`. Header: UUID 32 | device size u64 | data areas {at u64, len u64}… 0 0 | metadata
//! areas, likewise. Metadata area: 0 CRC u32 of the rest of 512 bytes | 4 magic 16 | 20 version u32 | 24 own place u64 |
//! 32 length u64 | 40 texts {at u64, len u64, CRC u32, flags u32} × 4. A text lies in a ring: behind the area's end it goes on at
//! 512. CRC: CRC-32 that begins with 0xf597a6cf, not inverted at its end.
//!
//! Source: LVM2 lib/format_text/layout.h and lib/label/label.h; libvslvm's description.

use nom::bytes::complete::{tag, take};
use nom::multi::many_till;
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};

use super::dashed;
use crate::disk::Disk;
use crate::guest::GuestError;
use crate::units::{ByteLen, GuestOffset, SECTOR_BYTES};

/// Sectors in which the label may lie, the usual one first.
const LABEL_SECTORS: [u64; 4] = [1, 0, 2, 3];
/// Bytes of a metadata area's header, and so the place where its ring begins.
const AREA_HEADER_BYTES: u64 = 512;
/// Largest text we read: some ten thousand logical volumes.
const TEXT_BYTES_MAX: u64 = 16 << 20;
const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
/// Flag of a text that is kept up to date elsewhere only.
const IGNORED: u32 = 1;

/// A physical volume's own account of itself.
pub(super) struct Label {
    /// Its UUID, in groups.
    pub uuid: String,
    /// Where descriptions of its group lie.
    pub areas: Vec<(GuestOffset, ByteLen)>,
}

struct RawLabel {
    sector: u64,
    checksum: u32,
    header_at: u32,
}

struct RawHeader {
    uuid: [u8; 32],
    metadata_areas: Vec<(u64, u64)>,
}

struct RawArea {
    checksum: u32,
    at: u64,
    len: u64,
    /// The text in force: place, length, checksum, flags.
    text: (u64, u64, u32, u32),
}

fn raw_label(input: &[u8]) -> IResult<&[u8], RawLabel> {
    let (input, (_, sector, checksum, header_at, _)) =
        (tag(&b"LABELONE"[..]), le_u64, le_u32, le_u32, tag(&b"LVM2 001"[..])).parse(input)?;
    Ok((input, RawLabel { sector, checksum, header_at }))
}

fn raw_header(input: &[u8]) -> IResult<&[u8], RawHeader> {
    let (input, (uuid, _device_bytes)) = (take(32usize), le_u64).parse(input)?;
    let (input, (_data, _)) = many_till((le_u64, le_u64), tag(&[0; 16][..])).parse(input)?;
    let (input, (metadata_areas, _)) = many_till((le_u64, le_u64), tag(&[0; 16][..])).parse(input)?;
    Ok((input, RawHeader { uuid: uuid.try_into().expect("32 bytes were taken"), metadata_areas }))
}

fn raw_area(input: &[u8]) -> IResult<&[u8], RawArea> {
    let (input, (checksum, _, _version, at, len)) = (le_u32, tag(&MAGIC[..]), le_u32, le_u64, le_u64).parse(input)?;
    let (input, text) = (le_u64, le_u64, le_u32, le_u32).parse(input)?;
    Ok((input, RawArea { checksum, at, len, text }))
}

/// The CRC of LVM over the bytes of `parts` one after the other.
fn checksum(parts: &[&[u8]]) -> u32 {
    const INITIAL: u32 = 0xf597_a6cf;
    let mut hasher = crc32fast::Hasher::new_with_initial(!INITIAL);
    parts.iter().for_each(|part| hasher.update(part));
    !hasher.finalize()
}

fn corrupt(field: &'static str, at: u64, expected: impl ToString, found: impl ToString) -> GuestError {
    GuestError::Corrupt { field, at: GuestOffset(at), expected: expected.to_string(), found: found.to_string() }
}

/// The label of a volume; `None` if there is none.
///
/// # Errors
/// [`GuestError::Corrupt`] if a label is there and damaged.
pub(super) fn read(volume: &dyn Disk) -> Result<Option<Label>, GuestError> {
    for sector in LABEL_SECTORS {
        let at = sector * SECTOR_BYTES;
        let mut bytes = [0; SECTOR_BYTES as usize];
        if at + SECTOR_BYTES > volume.size().0 {
            continue;
        }
        volume.read_at(GuestOffset(at), &mut bytes)?;
        if let Ok((_, raw)) = raw_label(&bytes) {
            return raw.validate(&bytes, at).map(Some);
        }
    }
    Ok(None)
}

impl RawLabel {
    fn validate(self, sector: &[u8], at: u64) -> Result<Label, GuestError> {
        let computed = checksum(&[&sector[20..]]);
        if computed != self.checksum {
            let expected = format!("{:#010x} as it says", self.checksum);
            return Err(corrupt("checksum of the LVM label", at + 16, expected, format!("{computed:#010x}")));
        }
        if self.sector != at / SECTOR_BYTES {
            return Err(corrupt("own sector of the LVM label", at + 8, at / SECTOR_BYTES, self.sector));
        }
        let header = usize::try_from(self.header_at).ok().and_then(|start| sector.get(start..));
        let Some(Ok((_, header))) = header.map(raw_header) else {
            let expected = "a header inside the label's sector";
            return Err(corrupt("place of the LVM header", at + 20, expected, self.header_at));
        };
        let areas = header.metadata_areas.into_iter().map(|(at, len)| (GuestOffset(at), ByteLen(len))).collect();
        Ok(Label { uuid: dashed(&header.uuid), areas })
    }
}

/// The text in force in a metadata area; `None` if it has none (the volume belongs to no group, or the area is not kept).
///
/// # Errors
/// [`GuestError::Corrupt`] if the area is damaged.
pub(super) fn text(volume: &dyn Disk, area: (GuestOffset, ByteLen)) -> Result<Option<String>, GuestError> {
    let (start, len) = (area.0.0, area.1.0);
    let end = start.checked_add(len).filter(|end| *end <= volume.size().0 && len >= 2 * AREA_HEADER_BYTES);
    if end.is_none() {
        let expected = format!("at least 1024 bytes inside the volume of {}", volume.size());
        return Err(corrupt("LVM metadata area", start, expected, format!("{len} bytes")));
    }
    let mut header = [0; AREA_HEADER_BYTES as usize];
    volume.read_at(GuestOffset(start), &mut header)?;
    let Ok((_, raw)) = raw_area(&header) else {
        return Err(corrupt("LVM metadata area", start + 4, "its magic", format!("{:02x?}", &header[4..20])));
    };
    let computed = checksum(&[&header[4..]]);
    if computed != raw.checksum {
        let expected = format!("{:#010x} as it says", raw.checksum);
        return Err(corrupt("checksum of the LVM metadata area", start, expected, format!("{computed:#010x}")));
    }
    if (raw.at, raw.len) != (start, len) {
        let (expected, found) = (format!("{len} bytes at {start}"), format!("{} bytes at {}", raw.len, raw.at));
        return Err(corrupt("own place of the LVM metadata area", start + 24, expected, found));
    }
    let (text_at, text_len, text_checksum, flags) = raw.text;
    if flags & IGNORED != 0 || text_len == 0 {
        return Ok(None);
    }
    if !(AREA_HEADER_BYTES..len).contains(&text_at) || text_len > (len - AREA_HEADER_BYTES).min(TEXT_BYTES_MAX) {
        let expected = format!("inside the area of {len} bytes, at most {TEXT_BYTES_MAX}");
        return Err(corrupt("place of the LVM text", start + 40, expected, format!("{text_len} bytes at {text_at}")));
    }
    let mut text = vec![0; usize::try_from(text_len).expect("at most 16 MiB")];
    let before_end = usize::try_from((len - text_at).min(text_len)).expect("at most 16 MiB");
    let (first, wrapped) = text.split_at_mut(before_end);
    volume.read_at(GuestOffset(start + text_at), first)?;
    volume.read_at(GuestOffset(start + AREA_HEADER_BYTES), wrapped)?;
    let computed = checksum(&[&text]);
    if computed != text_checksum {
        let expected = format!("{text_checksum:#010x} as the area says");
        return Err(corrupt("checksum of the LVM text", start + text_at, expected, format!("{computed:#010x}")));
    }
    // The text ends with a NUL, which belongs to it.
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}
