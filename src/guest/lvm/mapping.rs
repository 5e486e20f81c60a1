//! From a group's description and its physical volumes to logical volumes as disks.

use std::collections::HashMap;
use std::sync::Arc;

use super::logical::{LogicalDisk, Place, Source, Stretch};
use super::metadata::{Area, Group, Kind, Leg, Segment};
use super::{raid1, thin};
use crate::disk::Disk;
use crate::disk::stack::Stack;
use crate::guest::GuestError;
use crate::units::ByteLen;

/// Volumes on volumes; LVM itself stacks four or five.
const LEVELS_MAX: usize = 8;

/// A logical volume as a disk, or why there is none.
pub(super) type Outcome = Result<Arc<dyn Disk>, String>;

/// Opens the volumes of one group; each only once, however many others lie on it.
pub(super) struct Opener<'g> {
    group: &'g Group,
    /// Physical volumes at hand, by UUID.
    physical: &'g HashMap<String, Arc<dyn Disk>>,
    opened: HashMap<String, Outcome>,
    pools: HashMap<String, Arc<thin::Pool>>,
    /// What is to be said about the volumes opened.
    pub warnings: Vec<String>,
}

impl<'g> Opener<'g> {
    pub fn new(group: &'g Group, physical: &'g HashMap<String, Arc<dyn Disk>>) -> Opener<'g> {
        Opener { group, physical, opened: HashMap::new(), pools: HashMap::new(), warnings: Vec::new() }
    }

    /// The logical volume of that name.
    pub fn open(&mut self, name: &str) -> Outcome {
        self.open_at_level(name, 0)
    }

    fn open_at_level(&mut self, name: &str, level: usize) -> Outcome {
        if let Some(outcome) = self.opened.get(name) {
            return outcome.clone();
        }
        if level == LEVELS_MAX {
            return Err(format!("it lies on more than {LEVELS_MAX} levels of other volumes"));
        }
        // Until it is known better, so that a volume that lies on itself ends here.
        self.opened.insert(name.to_string(), Err(format!("the volume {name} lies on itself")));
        let outcome = self.assemble(name, level);
        self.opened.insert(name.to_string(), outcome.clone());
        outcome
    }

    fn assemble(&mut self, name: &str, level: usize) -> Outcome {
        let group = self.group;
        let volume = group.logical.get(name).ok_or_else(|| format!("there is no volume {name} in the group"))?;
        let segments = volume.segments.as_ref().map_err(|fault| GuestError::from(fault.clone()).to_string())?;
        let stretches = segments
            .iter()
            .map(|segment| {
                let source = self.source(name, segment, level)?;
                Ok(Stretch { start: segment.start, len: segment.len, source })
            })
            .collect::<Result<Vec<Stretch>, String>>()?;
        let disk = LogicalDisk::new(stretches).ok_or("its segments do not follow each other")?;
        Ok(Arc::new(disk))
    }

    fn source(&mut self, name: &str, segment: &Segment, level: usize) -> Result<Source, String> {
        match &segment.kind {
            Kind::Zero => Ok(Source::Zero),
            Kind::Striped { areas, .. } if areas.len() == 1 => {
                Ok(Source::Piece(self.place(&areas[0], segment.len, level)?))
            }
            Kind::Striped { stripe_bytes, areas } => {
                let round = stripe_bytes.saturating_mul(areas.len() as u64);
                let used = segment.len.div_ceil(round).saturating_mul(*stripe_bytes); // of each column
                let columns = areas.iter().map(|area| self.place(area, used, level));
                Ok(Source::Stripes { stripe: *stripe_bytes, columns: columns.collect::<Result<_, String>>()? })
            }
            Kind::Mirror { areas } => self.mirror(name, areas, segment.len, level),
            Kind::Raid1 { legs } => self.raid1(name, legs, segment.len, level),
            Kind::Thin { pool, device, origin } => {
                let pool = self.pool(pool, level)?;
                let thin = pool.volume(*device, ByteLen(segment.len)).map_err(|error| error.to_string())?;
                let mut layers: Vec<Arc<dyn Disk>> = vec![Arc::new(thin)];
                if let Some(origin) = origin {
                    layers.push(self.open_at_level(origin, level + 1)?);
                }
                let disk: Arc<dyn Disk> = Arc::new(Stack::new(layers).expect("there is a layer"));
                Ok(Source::Piece(Place { disk, at: 0 }))
            }
            Kind::ThinPool { .. } => Err("a thin pool has no content of its own".into()),
        }
    }

    /// `len` bytes from an extent of a physical or logical volume.
    fn place(&mut self, area: &Area, len: u64, level: usize) -> Result<Place, String> {
        let group = self.group;
        let (disk, start) = match group.physical.get(&area.on) {
            Some(physical) => {
                let disk = self.physical.get(&physical.id).ok_or_else(|| {
                    format!("its physical volume {} ({}) is on none of the disks", area.on, physical.id)
                })?;
                (Arc::clone(disk), physical.start)
            }
            None => (self.open_at_level(&area.on, level + 1)?, 0),
        };
        let at = area.extent.checked_mul(group.extent_bytes).and_then(|at| at.checked_add(start));
        let end = at.and_then(|at| at.checked_add(len));
        match at {
            Some(at) if end.is_some_and(|end| end <= disk.size().0) => Ok(Place { disk, at }),
            _ => Err(format!(
                "it needs {len} bytes from extent {} of {}, which has only {} bytes",
                area.extent,
                area.on,
                disk.size()
            )),
        }
    }

    /// Any copy will do: what a mirror of the old kind has not yet copied is in its first.
    fn mirror(&mut self, name: &str, areas: &[Area], len: u64, level: usize) -> Result<Source, String> {
        let mut first_reason = None;
        for (number, area) in areas.iter().enumerate() {
            match self.place(area, len, level) {
                Ok(place) => {
                    if number > 0 {
                        self.warnings.push(format!("{name}: read from copy {number} of a mirror without its first"));
                    }
                    return Ok(Source::Piece(place));
                }
                Err(reason) => _ = first_reason.get_or_insert(reason),
            }
        }
        Err(first_reason.unwrap_or_else(|| "a mirror without copies".into()))
    }

    fn raid1(&mut self, name: &str, legs: &[Leg], len: u64, level: usize) -> Result<Source, String> {
        let mut places = Vec::new();
        let mut states = Vec::new();
        let mut first_reason = None;
        for leg in legs {
            let image = Area { on: leg.image.clone(), extent: 0 };
            match self.place(&image, len, level) {
                Ok(place) => {
                    let volume = self.open_at_level(&leg.state, level + 1).ok();
                    let state = volume.and_then(|volume| raid1::read(volume.as_ref()).ok()).flatten();
                    places.push(Some(place));
                    states.push(Some(state));
                }
                Err(reason) => {
                    first_reason.get_or_insert(reason);
                    places.push(None);
                    states.push(None);
                }
            }
        }
        let Some((number, warning)) = raid1::choose(&states) else {
            return Err(first_reason.unwrap_or_else(|| "a mirror without copies".into()));
        };
        self.warnings.extend(warning.map(|warning| format!("{name}: {warning}")));
        Ok(Source::Piece(places[number].take().expect("only what is at hand is chosen")))
    }

    fn pool(&mut self, name: &str, level: usize) -> Result<Arc<thin::Pool>, String> {
        if let Some(pool) = self.pools.get(name) {
            return Ok(Arc::clone(pool));
        }
        let group = self.group;
        let segments = group.logical.get(name).and_then(|volume| volume.segments.as_ref().ok());
        let Some([Segment { kind: Kind::ThinPool { metadata, data, transaction, chunk_bytes }, .. }]) =
            segments.map(Vec::as_slice)
        else {
            return Err(format!("there is no thin pool {name} in the group"));
        };
        let metadata = self.open_at_level(metadata, level + 1)?;
        let data = self.open_at_level(data, level + 1)?;
        let pool = thin::Pool::open(metadata, data, *transaction, *chunk_bytes);
        let pool = Arc::new(pool.map_err(|error| error.to_string())?);
        self.pools.insert(name.to_string(), Arc::clone(&pool));
        Ok(pool)
    }
}
