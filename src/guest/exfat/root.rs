//! What only the root directory holds: the volume's label, where the allocation bitmap lies, and which characters are capital
//! letters of which.
//!
//! Layout: `83 | units 1 | 11 units`; `81 | which bitmap 1 | … | first cluster 4 at 20 | length 8 at 24`; `82 | … | checksum 4 at
//! 4 | … | first cluster 4 at 20 | length 8 at 24`. The up-case table is a list of units, each its own position's capital;
//! `ffff n` stands for n positions that are their own.
//!
//! Source: exFAT specification, 7.1 "Allocation Bitmap", 7.2 "Up-case Table", 7.3 "Volume Label".

use std::ops::ControlFlow;

use super::boot::{Geometry, checksum};
use super::directory::Place;
use super::entry::kinds;
use crate::guest::GuestError;
use crate::guest::clusters::content::Record;
use crate::guest::clusters::{Clusters, corrupt};

/// Characters of UTF-16.
const UNITS: usize = 1 << 16;
/// Bytes of an up-case table at most: every unit's capital.
const UP_CASE_BYTES_MAX: u64 = 2 * UNITS as u64;
/// Units of a label at most.
const LABEL_UNITS_MAX: usize = 11;
/// Stands for a run of units that are their own capitals.
const RUN: u16 = 0xffff;

/// Who is whose capital letter.
pub(super) struct UpCase(Vec<u16>);

/// What the root directory holds besides files.
pub(super) struct Root {
    pub label: String,
    pub up_case: UpCase,
    /// What is wrong with any of it; files can be read all the same.
    pub warnings: Vec<String>,
}

impl UpCase {
    /// The capital of a unit.
    pub fn capital(&self, unit: u16) -> u16 {
        self.0.get(usize::from(unit)).copied().unwrap_or(unit)
    }

    /// What Unicode says, where the volume does not: of each character that has one capital in one unit.
    fn of_unicode() -> UpCase {
        let capital = |unit: u16| {
            let mut capitals = char::from_u32(unit.into())?.to_uppercase();
            let only = capitals.next().filter(|_| capitals.next().is_none())?;
            u16::try_from(u32::from(only)).ok()
        };
        UpCase((0..=u16::MAX).map(|unit| capital(unit).unwrap_or(unit)).collect())
    }

    fn unpacked(bytes: &[u8]) -> UpCase {
        let mut capitals: Vec<u16> = (0..=u16::MAX).collect();
        let mut position = 0;
        let mut units = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
        while let (Some(unit), true) = (units.next(), position < UNITS) {
            if unit == RUN
                && let Some(run) = units.next()
            {
                position += usize::from(run);
            } else {
                capitals[position] = unit;
                position += 1;
            }
        }
        UpCase(capitals)
    }
}

/// Reads what the root directory holds.
pub(super) fn read(clusters: &Clusters, geometry: &Geometry, place: &Place) -> Root {
    let mut label = String::new();
    let (mut up_case, mut bitmap) = (None, None);
    let mut warnings = Vec::new();
    let outcome = clusters.each_record(&place.records(), &mut |at, record| {
        match record[0] {
            kinds::END => return Ok(ControlFlow::Break(())),
            kinds::LABEL => label = text_of(record),
            kinds::UP_CASE if up_case.is_none() => up_case = Some(read_up_case(clusters, at, record)),
            kinds::BITMAP if record[1] & 1 == geometry.bitmap => bitmap = Some(check_bitmap(clusters, at, record)),
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    });
    // Damage in the directory itself is said to those who read it.
    let missing = |what: &str| corrupt("root directory of an exFAT", geometry.heap.at, what, "none");
    let said = |error: GuestError| format!("damaged: {error}");
    if outcome.is_ok() {
        let bitmap = bitmap.unwrap_or_else(|| Err(missing("an allocation bitmap")));
        warnings.extend(bitmap.err().map(said));
    }
    let up_case = up_case.unwrap_or_else(|| Err(missing("an up-case table"))).unwrap_or_else(|error| {
        warnings.push(said(error));
        UpCase::of_unicode()
    });
    Root { label, up_case, warnings }
}

fn text_of(record: &Record) -> String {
    let count = usize::from(record[1]).min(LABEL_UNITS_MAX);
    let units = record[2..].as_chunks::<2>().0.iter().take(count).map(|unit| u16::from_le_bytes(*unit));
    String::from_utf16_lossy(&units.collect::<Vec<u16>>())
}

/// First cluster and length of the bitmap or table that a record tells of.
fn location(record: &Record) -> (u32, u64) {
    let cluster = record[20..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let bytes = record[24..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    (cluster, bytes)
}

/// Nothing that reads files needs the bitmap; where it cannot be, the volume is damaged.
fn check_bitmap(clusters: &Clusters, at: u64, record: &Record) -> Result<(), GuestError> {
    let (first, bytes) = location(record);
    let needed = u64::from(clusters.heap.clusters).div_ceil(8);
    if bytes < needed {
        return Err(corrupt("length of the allocation bitmap", at, format!("{needed} bytes"), bytes));
    }
    clusters.check_first("allocation bitmap", at, first)?;
    let wanted = clusters.clusters_for(needed);
    let chain = clusters.chain(first, u32::try_from(wanted).unwrap_or(u32::MAX))?;
    chain.check_whole(clusters)
}

fn read_up_case(clusters: &Clusters, at: u64, record: &Record) -> Result<UpCase, GuestError> {
    let (first, bytes) = location(record);
    if bytes == 0 || bytes > UP_CASE_BYTES_MAX || !bytes.is_multiple_of(2) {
        let expected = format!("an even number up to {UP_CASE_BYTES_MAX}");
        return Err(corrupt("length of the up-case table", at, expected, bytes));
    }
    clusters.check_first("up-case table", at, first)?;
    let wanted = u32::try_from(clusters.clusters_for(bytes)).expect("128 KiB in clusters of 512 bytes");
    let chain = clusters.chain(first, wanted)?;
    let mut table = vec![0; usize::try_from(bytes).expect("at most 128 KiB")];
    clusters.read(&chain, 0, &mut table)?;
    let expected = record[4..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let found = checksum(table.iter().copied());
    if found != expected {
        let place = clusters.heap.position(first);
        let [expected, found] = [expected, found].map(|sum| format!("{sum:08x}"));
        return Err(corrupt("checksum of the up-case table", place, expected, found));
    }
    Ok(UpCase::unpacked(&table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_in_the_table_are_their_own_capitals() {
        let units = [RUN, 0x61, 0x41, 0x42, RUN, 2, 0x45, RUN, 0xffff, 7, RUN];
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let table = UpCase::unpacked(&bytes);
        let capitals = [(0, 0), (0x60, 0x60), (0x61, 0x41), (0x62, 0x42), (0x63, 0x63), (0x64, 0x64), (0x65, 0x45)];
        for (unit, capital) in capitals.into_iter().chain([(0x66, 0x66), (0xffff, 0xffff)]) {
            assert_eq!(table.capital(unit), capital, "{unit:04x}");
        }
    }

    #[test]
    fn without_a_table_unicode_knows() {
        let table = UpCase::of_unicode();
        for (small, capital) in [('a', 'A'), ('ü', 'Ü'), ('ß', 'ß'), ('я', 'Я'), ('ÿ', 'Ÿ'), ('日', '日')] {
            assert_eq!(table.capital(small as u16), capital as u16, "{small}");
        }
        assert_eq!(table.capital(0xd800), 0xd800);
    }
}
