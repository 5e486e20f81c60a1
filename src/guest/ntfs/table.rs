//! The file table, `$MFT`: where the record of each number lies.
//!
//! The table describes itself in its first record. Its runs may need more records, each of which lies in a part of the table
//! that the runs before it lead to; so they are gathered once, when the volume is opened. The first records have a copy in
//! the middle of the volume, `$MFTMirr`.

use super::boot::Boot;
use super::list::{self, LIST_BYTES_MAX};
use super::record::{self, Body, Record, Reference, kind};
use super::runs::{self, Run};
use super::volume::Volume;
use crate::guest::GuestError;
use crate::units::GuestOffset;

/// Records that have a copy.
pub(super) const MIRRORED: u64 = 4;
/// Most runs of the table: it is rarely in more than a few hundred pieces.
const RUNS_MAX: usize = 1 << 20;

/// The file table.
pub(super) struct Table {
    runs: Vec<Run>,
    record_size: usize,
    /// Number of records.
    pub records: u64,
    mirror: Option<GuestOffset>,
}

impl Table {
    /// Finds the table; `damage` is told what had to be taken from the copy.
    pub fn open(volume: &Volume, boot: &Boot, damage: &mut Vec<String>) -> Result<Table, GuestError> {
        let mirror = (boot.mirror < boot.clusters).then(|| volume.position(boot.mirror));
        let bytes = record_bytes(boot.record_size);
        // Enough of the table to read the records with a copy, in case the first cannot be.
        let first = bytes.saturating_mul(MIRRORED).div_ceil(volume.cluster_bytes()).min(boot.clusters - boot.table);
        let runs = vec![Run { start: 0, len: first, cluster: Some(boot.table) }];
        let mut table = Table { runs, record_size: boot.record_size, records: MIRRORED, mirror };
        let base = table.read(volume, 0)?;
        let (runs, len) = table.own_runs(volume, &base)?;
        table.records = len / bytes;
        table.runs = runs;
        for number in 0..MIRRORED {
            if let Err(err) = table.read_in_table(volume, number) {
                damage.push(format!("file record {number} was taken from its copy, for it is damaged ({err})"));
            }
        }
        Ok(table)
    }

    /// All runs of the table, and its length in bytes, as its first record says.
    fn own_runs(&mut self, volume: &Volume, base: &Record) -> Result<(Vec<Run>, u64), GuestError> {
        let corrupt = |expected: String, found: String| GuestError::Corrupt {
            field: "runs of $MFT",
            at: base.at,
            expected,
            found,
        };
        let (mut runs, len) = pieces(volume, base, 0)
            .next()
            .ok_or_else(|| corrupt("a non-resident content".to_owned(), "none".to_owned()))??;
        let end = |runs: &[Run]| runs.last().map_or(0, Run::end);
        let Some(listed) = own_list(volume, base)? else { return Ok((runs, len)) };
        let mut places: Vec<_> = list::read(&listed, base.at)?;
        places.retain(|place| place.kind == kind::DATA && place.name.is_empty() && place.start != 0);
        places.sort_unstable_by_key(|place| place.start);
        for place in places {
            self.runs = runs;
            self.records = (end(&self.runs) << volume.cluster_bits) / record_bytes(self.record_size);
            let record = self.read(volume, place.record.number())?;
            runs = std::mem::take(&mut self.runs);
            if place.start != end(&runs) || record.base.number() != 0 {
                let expected = format!("the next from cluster {}, in a record of the table's own", end(&runs));
                return Err(corrupt(expected, format!("one from {}", place.start)));
            }
            let (more, _) = pieces(volume, &record, place.start)
                .next()
                .ok_or_else(|| corrupt(format!("a piece from cluster {}", place.start), "none".to_owned()))??;
            runs.extend(more);
            if runs.len() > RUNS_MAX {
                return Err(corrupt(format!("at most {RUNS_MAX}"), runs.len().to_string()));
            }
        }
        Ok((runs, len))
    }

    /// Reads a record, or its copy.
    pub fn read(&self, volume: &Volume, number: u64) -> Result<Record, GuestError> {
        let read = self.read_in_table(volume, number);
        match (read, self.mirror) {
            (Err(err), Some(mirror)) if number < MIRRORED => {
                let at = GuestOffset(mirror.0.saturating_add(number * record_bytes(self.record_size)));
                let mut bytes = vec![0; self.record_size];
                let copy = volume.read_metadata(at, &mut bytes).and_then(|()| record::read(bytes, at));
                copy.map_err(|_| err)
            }
            (read, _) => read,
        }
    }

    fn read_in_table(&self, volume: &Volume, number: u64) -> Result<Record, GuestError> {
        if number >= self.records {
            let node = super::node_id(Reference(number));
            return Err(GuestError::NoSuchNode { node });
        }
        let mut bytes = vec![0; self.record_size];
        let mut first = None;
        let mut done = 0;
        while done < bytes.len() {
            // Fits: the table is at most as long as its length, which is below 2^63.
            let at = number * record_bytes(self.record_size) + done as u64;
            let position = self.position(volume, at)?;
            let inside = at & (volume.cluster_bytes() - 1);
            let len = usize::try_from(volume.cluster_bytes() - inside).unwrap_or(usize::MAX).min(bytes.len() - done);
            volume.read_metadata(position, &mut bytes[done..done + len])?;
            first.get_or_insert(position);
            done += len;
        }
        record::read(bytes, first.expect("records are not empty"))
    }

    /// Where a byte of the table lies.
    fn position(&self, volume: &Volume, at: u64) -> Result<GuestOffset, GuestError> {
        let cluster = at >> volume.cluster_bits;
        let index = self.runs.partition_point(|run| run.end() <= cluster);
        let run = self.runs.get(index).map(|run| run.from(cluster));
        match run.and_then(|run| run.cluster) {
            Some(cluster) => Ok(GuestOffset(volume.position(cluster).0 + (at & (volume.cluster_bytes() - 1)))),
            None => Err(GuestError::Corrupt {
                field: "runs of $MFT",
                at: volume.position(self.runs.first().and_then(|run| run.cluster).unwrap_or(0)),
                expected: format!("a place for cluster {cluster}"),
                found: "none".to_owned(),
            }),
        }
    }
}

fn record_bytes(size: usize) -> u64 {
    u64::try_from(size).expect("at most 64 KiB")
}

/// The table's runs that a record has, with the table's length, from a cluster of it on.
fn pieces(volume: &Volume, record: &Record, start: u64) -> impl Iterator<Item = Result<(Vec<Run>, u64), GuestError>> {
    let contents = record.attributes.iter().filter(|it| it.kind == kind::DATA && it.name.is_empty());
    contents.filter_map(move |attribute| match &attribute.body {
        Body::NonResident(extents) if extents.start == start => {
            let runs = runs::read(record.part(&extents.runs), start, volume.clusters, record.at);
            // Behind the initialized length lies what was there before.
            Some(runs.map(|runs| (runs, extents.len.min(extents.initialized))))
        }
        _ => None,
    })
}

/// The attribute list of a record that stands for itself; it cannot itself need a list.
pub(super) fn own_list(volume: &Volume, base: &Record) -> Result<Option<Vec<u8>>, GuestError> {
    let Some(list) = base.attributes.iter().find(|it| it.kind == kind::ATTRIBUTE_LIST) else { return Ok(None) };
    let extents = match &list.body {
        Body::Resident(range) => return Ok(Some(base.part(range).to_vec())),
        Body::NonResident(extents) => extents,
    };
    let corrupt =
        |expected: String, found: String| GuestError::Corrupt { field: "attribute list", at: base.at, expected, found };
    if extents.len > LIST_BYTES_MAX || extents.start != 0 {
        return Err(corrupt(format!("at most {LIST_BYTES_MAX} bytes"), extents.len.to_string()));
    }
    let mut bytes = vec![0; usize::try_from(extents.len).expect("at most 1 MiB")];
    let mut done = 0;
    for run in runs::read(base.part(&extents.runs), 0, volume.clusters, base.at)? {
        let len = usize::try_from(run.len << volume.cluster_bits).unwrap_or(usize::MAX).min(bytes.len() - done);
        let Some(cluster) = run.cluster else { break };
        volume.read_metadata(volume.position(cluster), &mut bytes[done..done + len])?;
        done += len;
    }
    if done < bytes.len() {
        return Err(corrupt(format!("{} bytes", bytes.len()), format!("clusters for {done}")));
    }
    Ok(Some(bytes))
}
