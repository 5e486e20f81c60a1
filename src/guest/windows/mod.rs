//! Which volume is which drive of Windows: by the letters that Windows itself wrote down in its registry.
//!
//! In here: finding Windows among a machine's volumes, its list of drives, and who is meant by it. Not in here: what is on
//! the volumes, how they are shown.
//!
//! The list, in the key `MountedDevices` of the hive `SYSTEM`: a value `\DosDevices\C:` for each letter. Its data name a
//! partition: 12 bytes the MBR's signature u32 and where the partition begins u64, in bytes; or `DMIO:ID:` and the GUID of a
//! partition of a GPT. Everything else (sticks, drives for CDs, and disks that are long gone) is no volume of ours.

mod folders;
mod hive;

use uuid::Uuid;

pub use folders::DriveFolders;
use hive::{Hive, HiveError};

use super::fstab::DeviceNames;
use super::machine::Opened;
use super::path::{LastLink, PathError, resolve};
use super::tree::FileSystem;

/// Where Windows is on its volume: since XP, before.
const SYSTEM_FOLDERS: [&str; 2] = ["Windows/System32", "WINNT/system32"];
const LETTER_PREFIX: &str = r"\DosDevices\";
const GPT_PREFIX: &[u8] = b"DMIO:ID:";

/// A volume of the machine, whatever it holds.
pub struct NamedVolume {
    /// What we call it: `disk0/p2`.
    pub name: String,
    /// What the guest may call it.
    pub names: DeviceNames,
    /// What is on it, or why that cannot be read.
    pub filesystem: Opened,
}

/// A drive and the volume that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Its letter, a capital.
    pub letter: char,
    /// The volume's name: `disk0/p2`.
    pub volume: String,
}

/// The drives of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drives {
    /// In the order of their letters; none where there is no Windows.
    pub drives: Vec<Drive>,
    /// What is unsure about them, each in one line.
    pub warnings: Vec<String>,
}

/// The drives of a machine with these volumes. The volume that Windows lies on has a letter in any case.
pub fn drives(volumes: &[NamedVolume]) -> Drives {
    let systems = volumes.iter().filter_map(|volume| {
        let filesystem = volume.filesystem.as_deref().ok()?;
        Some((volume, filesystem, system_folder(filesystem)?))
    });
    let systems: Vec<_> = systems.collect();
    let Some((system, filesystem, folder)) = systems.first() else { return Drives::default() };
    let mut found = Drives::default();
    if let [_, others @ ..] = &systems[..]
        && !others.is_empty()
    {
        let others: Vec<&str> = others.iter().map(|(other, ..)| other.name.as_str()).collect();
        found.warnings.push(format!("letters are those of Windows on {}, not on {}", system.name, others.join(", ")));
    }
    let listed = listed_devices(*filesystem, folder).unwrap_or_else(|error| {
        found.warnings.push(format!("{}: the letters of Windows's drives cannot be read ({error})", system.name));
        Vec::new()
    });
    for (letter, device) in listed {
        let volume = volumes.iter().find(|volume| device.is(&volume.names));
        if let Some(volume) = volume.filter(|_| found.drives.iter().all(|drive| drive.letter != letter)) {
            found.drives.push(Drive { letter, volume: volume.name.clone() });
        }
    }
    if found.drives.iter().all(|drive| drive.volume != system.name) {
        // So Windows itself begins: a copied system finds its new disk under no letter, and starts from `C:`.
        let free = ('C'..='Z').find(|letter| found.drives.iter().all(|drive| drive.letter != *letter));
        found.drives.extend(free.map(|letter| Drive { letter, volume: system.name.clone() }));
    }
    found.drives.sort_by_key(|drive| drive.letter);
    found
}

fn system_folder(filesystem: &dyn FileSystem) -> Option<&'static str> {
    SYSTEM_FOLDERS.into_iter().find(|folder| resolve(filesystem, folder.as_bytes(), LastLink::Follow).is_ok())
}

/// What a letter stands for.
#[derive(Debug, PartialEq, Eq)]
enum Device {
    /// A partition of a GPT, by its GUID.
    Gpt(Uuid),
    /// A partition of an MBR: the disk's signature, and where it begins in bytes.
    Mbr(u32, u64),
}

impl Device {
    fn read(data: &[u8]) -> Option<Device> {
        if let Some(id) = data.strip_prefix(GPT_PREFIX) {
            return Some(Device::Gpt(Uuid::from_bytes_le(id.try_into().ok()?)));
        }
        let (signature, start) = data.split_first_chunk::<4>()?;
        Some(Device::Mbr(u32::from_le_bytes(*signature), u64::from_le_bytes(start.try_into().ok()?)))
    }

    fn is(&self, names: &DeviceNames) -> bool {
        let id = &names.partition_uuid;
        match self {
            Device::Gpt(uuid) => id.parse() == Ok(*uuid),
            // Linux makes names for partitions of an MBR of its signature: `1234abcd-01`.
            Device::Mbr(signature, start) => {
                names.partition_start == Some(*start)
                    && id.split_once('-').is_some_and(|(id, _)| id.len() == 8 && id == format!("{signature:08x}"))
            }
        }
    }
}

/// The letters that Windows has given, and to what.
fn listed_devices(filesystem: &dyn FileSystem, folder: &str) -> Result<Vec<(char, Device)>, ListError> {
    let hive = resolve(filesystem, format!("{folder}/config/SYSTEM").as_bytes(), LastLink::Follow)?;
    let hive = Hive::open(filesystem, hive)?;
    let values = hive.values(&["MountedDevices"])?.unwrap_or_default();
    let device = |(name, data): (String, Vec<u8>)| {
        let mut letter = name.strip_prefix(LETTER_PREFIX)?.chars();
        let (letter, colon, end) = (letter.next()?, letter.next()?, letter.next());
        let is_letter = letter.is_ascii_alphabetic() && colon == ':' && end.is_none();
        Some((letter.to_ascii_uppercase(), Device::read(&data)?)).filter(|_| is_letter)
    };
    Ok(values.into_iter().filter_map(device).collect())
}

#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Hive(#[from] HiveError),
}

#[cfg(test)]
mod tests;
