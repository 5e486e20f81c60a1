//! A disk in memory, level by level: which sectors each level of a chain stores, and with what. The plain model that
//! every image in the gallery is laid out from and compared with.
//!
//! A sector that no level stores is a hole and reads as zeros; a stored sector of zeros hides what lies below it.

use std::collections::BTreeMap;

use crate::formats_writers::noise;

pub const SECTOR: usize = 512;

/// What a run of sectors is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Zeros,
    Byte(u8),
    /// Does not compress; each sector is another.
    Noise(u64),
    /// Compresses well; each sector is another.
    Text,
}

/// What one level stores: sector by sector.
pub type Level = BTreeMap<u64, [u8; SECTOR]>;

/// A disk and its levels, the base first.
#[derive(Clone, Debug)]
pub struct Model {
    /// Bytes of the disk.
    pub size: u64,
    pub levels: Vec<Level>,
}

impl Model {
    pub fn new(size: u64) -> Model {
        Model { size, levels: Vec::new() }
    }

    /// With one more level on top: runs of sectors, later ones over earlier ones; what lies past the end is cut off.
    pub fn over(mut self, runs: impl IntoIterator<Item = (u64, u64, Fill)>) -> Model {
        let mut level = Level::new();
        for (first, count, fill) in runs {
            for sector in first..(first + count).min(self.sectors()) {
                level.insert(sector, content_of(fill, sector));
            }
        }
        self.levels.push(level);
        self
    }

    pub fn sectors(&self) -> u64 {
        self.size / SECTOR as u64
    }

    /// What the lowest `levels` levels together hold, where they store anything.
    fn stored(&self, levels: usize) -> Level {
        let mut all = Level::new();
        for level in &self.levels[..levels] {
            all.extend(level);
        }
        all
    }

    /// The same disk in one level.
    pub fn flat(&self) -> Model {
        Model { size: self.size, levels: vec![self.stored(self.levels.len())] }
    }

    /// Runs of sectors that are stored, ascending, apart from each other.
    pub fn stored_runs(&self) -> Vec<(u64, Vec<u8>)> {
        let runs = runs(&self.stored(self.levels.len()), |_, _| true);
        runs.into_iter().map(|(sector, bytes)| (sector * SECTOR as u64, bytes)).collect()
    }

    /// The whole content.
    pub fn content(&self) -> Vec<u8> {
        let mut content = vec![0; usize::try_from(self.size).unwrap()];
        for (at, bytes) in self.stored_runs() {
            content[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        }
        content
    }

    /// Runs of sectors of one level, each either zeros alone or without a sector of zeros.
    pub fn runs_of(&self, level: usize) -> Vec<(u64, Vec<u8>)> {
        runs(&self.levels[level], |a, b| is_zero(a) == is_zero(b))
    }

    /// Blocks of `block` bytes that a level touches, as a hypervisor copies them before it writes: with what lies below.
    /// The last block is filled up with zeros.
    pub fn blocks_of(&self, level: usize, block: usize) -> Vec<(u64, Vec<u8>)> {
        let per_block = (block / SECTOR) as u64;
        let below = self.stored(level + 1);
        let mut touched: Vec<u64> = self.levels[level].keys().map(|sector| sector / per_block).collect();
        touched.dedup();
        let content = |number: &u64| {
            let mut bytes = vec![0; block];
            for (sector, content) in below.range(number * per_block..(number + 1) * per_block) {
                let at = (sector - number * per_block) as usize * SECTOR;
                bytes[at..at + SECTOR].copy_from_slice(content);
            }
            bytes
        };
        touched.iter().map(|number| (*number, content(number))).collect()
    }
}

pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Neighbouring sectors become one run where `joins` says so.
fn runs(level: &Level, joins: impl Fn(&[u8], &[u8]) -> bool) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for (sector, content) in level {
        match runs.last_mut() {
            Some((first, bytes))
                if *first + (bytes.len() / SECTOR) as u64 == *sector
                    && joins(&bytes[bytes.len() - SECTOR..], content) =>
            {
                bytes.extend(content);
            }
            _ => runs.push((*sector, content.to_vec())),
        }
    }
    runs
}

fn content_of(fill: Fill, sector: u64) -> [u8; SECTOR] {
    match fill {
        Fill::Zeros => [0; SECTOR],
        Fill::Byte(byte) => [byte; SECTOR],
        Fill::Noise(seed) => noise(seed ^ sector.wrapping_mul(0x9e37_79b9), SECTOR).try_into().unwrap(),
        Fill::Text => {
            let line = format!("sector {sector:>12} of a guest's disk\n");
            std::array::from_fn(|at| line.as_bytes()[at % line.len()])
        }
    }
}

/// A disk that no format likes: of three levels, with partly written blocks, explicit zeros over data, holes, data that
/// compresses and data that does not, and an end that is no whole block of any format.
pub fn awkward() -> Model {
    use Fill::{Byte, Noise, Text, Zeros};
    let size = (5 << 20) + (64 << 10) + 3 * 512;
    let end = size / 512;
    let base = [
        (0, 3, Text),
        (100, 900, Noise(1)),
        (2047, 2, Byte(7)), // over the first MiB's end
        (3000, 2000, Text),
        (5000, 1, Byte(1)),
        (7000, 1500, Noise(2)),
        (end - 1, 1, Byte(0xff)),
    ];
    let middle = [(10, 1, Byte(2)), (512, 256, Zeros), (3500, 200, Noise(3)), (4096, 128, Zeros), (9000, 500, Text)];
    let top = [(11, 1, Noise(4)), (600, 10, Byte(3)), (7777, 7, Zeros), (4096, 8, Text), (end - 130, 129, Noise(5))];
    Model::new(size).over(base).over(middle).over(top)
}
