//! A volume group's description, checked: who the physical volumes are, and what each logical volume is made of.
//!
//! What is wrong with one logical volume is kept with it, and does not stop the others. Sizes are in bytes here; the text
//! counts in extents and sectors.
//!
//! Source: LVM2 lib/format_text/import_vsn1.c and the segment types' own text_import functions.

use std::collections::BTreeMap;

use super::text::{Item, Section, parse};
use crate::guest::GuestError;
use crate::units::SECTOR_BYTES;

/// A volume group as one metadata area describes it.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub name: String,
    pub id: String,
    /// Counts the changes: the highest is in force.
    pub seqno: i64,
    pub extent_bytes: u64,
    /// By the names that are used inside the description: `pv0`.
    pub physical: BTreeMap<String, Physical>,
    pub logical: BTreeMap<String, Logical>,
}

/// A physical volume, as its group knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Physical {
    pub id: String,
    /// Where its first extent lies, in bytes.
    pub start: u64,
    pub extents: u64,
}

/// A logical volume, hidden ones as well.
#[derive(Clone, Debug)]
pub(super) struct Logical {
    pub id: String,
    pub is_visible: bool,
    /// Its segments in order, without gaps, or why it cannot be read.
    pub segments: Result<Vec<Segment>, Fault>,
}

/// A stretch of a logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its length in bytes, ≥ 1.
    pub len: u64,
    pub kind: Kind,
}

/// How a stretch is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Round robin over areas of equal length; with one area: linear.
    Striped { stripe_bytes: u64, areas: Vec<Area> },
    /// The same in every area.
    Mirror { areas: Vec<Area> },
    /// The same in every image; beside each image a volume that tells its state.
    Raid1 { legs: Vec<Leg> },
    /// Allocated on demand in a pool.
    Thin { pool: String, device: u64, origin: Option<String> },
    /// A pool for thin volumes.
    ThinPool { metadata: String, data: String, transaction: u64, chunk_bytes: u64 },
    /// Zeros.
    Zero,
}

/// Where an area begins: an extent of a physical volume, or of another logical one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub on: String,
    pub extent: u64,
}

/// One copy of a RAID 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leg {
    pub state: String,
    pub image: String,
}

/// Why a description, or a part of it, is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Unsupported(String),
    Corrupt { field: &'static str, expected: String, found: String },
}

impl From<Fault> for GuestError {
    fn from(fault: Fault) -> GuestError {
        match fault {
            Fault::Unsupported(feature) => GuestError::Unsupported { feature },
            Fault::Corrupt { field, expected, found } => {
                GuestError::Corrupt { field, at: crate::units::GuestOffset(0), expected, found }
            }
        }
    }
}

fn corrupt(field: &'static str, expected: impl ToString, found: impl ToString) -> Fault {
    Fault::Corrupt { field, expected: expected.to_string(), found: found.to_string() }
}

impl Group {
    /// Takes a text apart and checks it.
    pub fn read(text: &str) -> Result<Group, Fault> {
        let sections = parse(text).map_err(|found| corrupt("LVM text", "names with values or sections", found))?;
        let group = sections.iter().find_map(|(name, item)| match item {
            Item::Section(group) => Some((name, group)),
            _ => None,
        });
        let Some((name, group)) = group else {
            return Err(corrupt("LVM text", "the section of a volume group", "none"));
        };
        let extent_bytes = number(group, "extent_size")?.checked_mul(SECTOR_BYTES).filter(|bytes| *bytes > 0);
        let Some(extent_bytes) = extent_bytes else {
            return Err(corrupt("LVM extent_size", "1 to 2^54 sectors", number(group, "extent_size")?));
        };
        let physical = sections_of(group, "physical_volumes")
            .map(|(name, section)| Ok((name.clone(), Physical::read(section)?)))
            .collect::<Result<_, Fault>>()?;
        let logical = sections_of(group, "logical_volumes").map(|(name, section)| {
            let segments = segments(section, extent_bytes);
            let is_visible = words(section, "status").any(|word| word == "VISIBLE");
            (name.clone(), Logical { id: text_of(section, "id").unwrap_or_default(), is_visible, segments })
        });
        let mut logical: BTreeMap<String, Logical> = logical.collect();
        without_snapshot_stores(group, &mut logical);
        Ok(Group {
            name: name.clone(),
            id: text_of(group, "id")?,
            seqno: i64::try_from(number(group, "seqno")?).unwrap_or(i64::MAX),
            extent_bytes,
            physical,
            logical,
        })
    }
}

impl Physical {
    fn read(section: &Section) -> Result<Physical, Fault> {
        let start = number(section, "pe_start")?;
        let start_bytes = start.checked_mul(SECTOR_BYTES);
        Ok(Physical {
            id: text_of(section, "id")?,
            start: start_bytes.ok_or_else(|| corrupt("LVM pe_start", "below 2^55 sectors", start))?,
            extents: number(section, "pe_count")?,
        })
    }
}

/// A snapshot of the old kind is a hidden volume that joins an origin, which reads as it is, with a store of what the
/// origin held before. The store looks like a plain volume, and its content is nobody's filesystem.
fn without_snapshot_stores(group: &Section, logical: &mut BTreeMap<String, Logical>) {
    for (_, snapshot) in sections_of(group, "logical_volumes") {
        for (_, segment) in snapshot.iter().filter_map(|(name, item)| Some((name, as_section(item)?))) {
            if let Ok(store) = text_of(segment, "cow_store")
                && let Some(volume) = logical.get_mut(&store)
            {
                // LVM itself hides the store, and shows the snapshot by the store's name.
                volume.is_visible = true;
                volume.segments = Err(Fault::Unsupported("a snapshot of the old kind (not thin)".into()));
            }
            if text_of(segment, "merging_store").is_ok()
                && let Ok(origin) = text_of(segment, "origin")
                && let Some(volume) = logical.get_mut(&origin)
            {
                volume.segments = Err(Fault::Unsupported("a volume into which a snapshot is being merged".into()));
            }
        }
    }
}

/// All segments of a logical volume; they must follow each other without gaps.
fn segments(volume: &Section, extent_bytes: u64) -> Result<Vec<Segment>, Fault> {
    let bytes = |extents: u64, field| {
        let bytes = extents.checked_mul(extent_bytes).filter(|bytes| i64::try_from(*bytes).is_ok());
        bytes.ok_or_else(|| corrupt(field, format!("below 2^63 bytes in extents of {extent_bytes}"), extents))
    };
    let mut segments = volume
        .iter()
        .filter_map(|(name, item)| Some((name.strip_prefix("segment")?, as_section(item)?)))
        .filter(|(number, _)| number.bytes().all(|digit| digit.is_ascii_digit()))
        .map(|(_, section)| {
            let start = bytes(number(section, "start_extent")?, "LVM start_extent")?;
            let len = bytes(number(section, "extent_count")?, "LVM extent_count")?;
            Ok(Segment { start, len, kind: kind(section)? })
        })
        .collect::<Result<Vec<Segment>, Fault>>()?;
    segments.sort_by_key(|segment| segment.start);
    let mut end = 0;
    for segment in &segments {
        if segment.start != end || segment.len == 0 {
            let found = format!("{} bytes at {}", segment.len, segment.start);
            return Err(corrupt("LVM segment", format!("one that begins at {end} and is not empty"), found));
        }
        end = segment.start.saturating_add(segment.len);
        if let Kind::Striped { areas, .. } = &segment.kind
            && !segment.len.is_multiple_of(areas.len() as u64)
        {
            return Err(corrupt("LVM segment", format!("a multiple of {} stripes", areas.len()), segment.len));
        }
    }
    if i64::try_from(end).is_err() || segments.is_empty() {
        return Err(corrupt("LVM segments", "1 to 2^63 bytes", end));
    }
    Ok(segments)
}

fn kind(segment: &Section) -> Result<Kind, Fault> {
    let written = text_of(segment, "type")?;
    // What follows a plus sign are flags about compatibility.
    let name = written.split('+').next().unwrap_or_default();
    let unsupported = |what: &str| Err(Fault::Unsupported(format!("a logical volume of type {name} ({what})")));
    match name {
        "striped" | "linear" => {
            let areas = areas(segment, "stripes")?;
            let stripe_bytes = if areas.len() == 1 { SECTOR_BYTES } else { sectors(segment, "stripe_size")? };
            Ok(Kind::Striped { stripe_bytes, areas })
        }
        "mirror" => Ok(Kind::Mirror { areas: areas(segment, "mirrors")? }),
        "raid1" => Ok(Kind::Raid1 { legs: legs(segment)? }),
        "raid0" | "raid0_meta" => {
            let images = match name {
                "raid0" => texts(segment, "raid0_lvs")?,
                _ => legs(segment)?.into_iter().map(|leg| leg.image).collect(),
            };
            let areas = images.into_iter().map(|on| Area { on, extent: 0 }).collect();
            Ok(Kind::Striped { stripe_bytes: sectors(segment, "stripe_size")?, areas })
        }
        "thin" => Ok(Kind::Thin {
            pool: text_of(segment, "thin_pool")?,
            device: number(segment, "device_id")?,
            origin: text_of(segment, "external_origin").ok(),
        }),
        "thin-pool" => Ok(Kind::ThinPool {
            metadata: text_of(segment, "metadata")?,
            data: text_of(segment, "pool")?,
            transaction: number(segment, "transaction_id")?,
            chunk_bytes: sectors(segment, "chunk_size")?,
        }),
        "zero" => Ok(Kind::Zero),
        "cache" | "cache-pool" | "writecache" => unsupported("its newest data may be in a cache"),
        "snapshot" => unsupported("a snapshot of the old kind"),
        "vdo" | "vdo-pool" => unsupported("deduplicated and compressed"),
        "raid4" | "raid10" => unsupported("striped over several devices"),
        parity if parity.starts_with("raid5") || parity.starts_with("raid6") => unsupported("with parity"),
        "error" => unsupported("every read of it fails"),
        _ => unsupported("unknown"),
    }
}

/// `["pv0", 0, "lv_image", 7]`: names and the extents at which each begins.
fn areas(segment: &Section, field: &'static str) -> Result<Vec<Area>, Fault> {
    let expected = "names, each with an extent";
    let pairs = array(segment, field)?.chunks(2).map(|pair| match pair {
        [Item::Text(on), Item::Number(extent)] => {
            u64::try_from(*extent).ok().map(|extent| Area { on: on.clone(), extent })
        }
        _ => None,
    });
    let areas: Option<Vec<Area>> = pairs.collect();
    areas.filter(|areas| !areas.is_empty()).ok_or_else(|| corrupt("LVM areas", expected, field))
}

/// `["lv_rmeta_0", "lv_rimage_0", …]`.
fn legs(segment: &Section) -> Result<Vec<Leg>, Fault> {
    let names = texts(segment, "raids")?;
    let pairs = names.chunks(2).map(|pair| match pair {
        [state, image] => Some(Leg { state: state.clone(), image: image.clone() }),
        _ => None,
    });
    let legs: Option<Vec<Leg>> = pairs.collect();
    legs.filter(|legs| !legs.is_empty()).ok_or_else(|| corrupt("LVM raids", "pairs of names", names.len()))
}

fn array<'s>(section: &'s Section, field: &'static str) -> Result<&'s [Item], Fault> {
    match section.get(field) {
        Some(Item::Array(items)) => Ok(items),
        other => Err(corrupt("LVM text", format!("an array {field}"), shown(other))),
    }
}

fn texts(section: &Section, field: &'static str) -> Result<Vec<String>, Fault> {
    let texts = array(section, field)?.iter().map(|item| match item {
        Item::Text(text) => Ok(text.clone()),
        other => Err(corrupt("LVM text", format!("names in {field}"), shown(Some(other)))),
    });
    texts.collect()
}

fn words<'s>(section: &'s Section, field: &str) -> impl Iterator<Item = &'s str> {
    let items = match section.get(field) {
        Some(Item::Array(items)) => items.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    items.iter().filter_map(|item| match item {
        Item::Text(text) => Some(text.as_str()),
        _ => None,
    })
}

fn text_of(section: &Section, field: &'static str) -> Result<String, Fault> {
    match section.get(field) {
        Some(Item::Text(text)) => Ok(text.clone()),
        other => Err(corrupt("LVM text", format!("a text {field}"), shown(other))),
    }
}

fn number(section: &Section, field: &'static str) -> Result<u64, Fault> {
    match section.get(field) {
        Some(Item::Number(number)) if *number >= 0 => Ok(number.unsigned_abs()),
        other => Err(corrupt("LVM text", format!("a number {field}"), shown(other))),
    }
}

fn sectors(section: &Section, field: &'static str) -> Result<u64, Fault> {
    let sectors = number(section, field)?;
    let bytes = sectors.checked_mul(SECTOR_BYTES).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| corrupt("LVM text", format!("1 to 2^54 sectors as {field}"), sectors))
}

fn sections_of<'s>(section: &'s Section, field: &str) -> impl Iterator<Item = (&'s String, &'s Section)> {
    let inner = section.get(field).and_then(as_section);
    inner.into_iter().flatten().filter_map(|(name, item)| Some((name, as_section(item)?)))
}

fn as_section(item: &Item) -> Option<&Section> {
    match item {
        Item::Section(section) => Some(section),
        _ => None,
    }
}

fn shown(item: Option<&Item>) -> String {
    match item {
        None => "none".into(),
        Some(Item::Section(_)) => "a section".into(),
        Some(Item::Array(items)) => format!("an array of {}", items.len()),
        Some(Item::Number(number)) => number.to_string(),
        Some(Item::Text(text)) => format!("{:?}", text.chars().take(40).collect::<String>()),
    }
}
