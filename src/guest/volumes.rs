//! Every volume of a machine: what its disks are divided into, and what several disks are joined to.
//!
//! In here: disks → partitions → members of RAID and LVM → a flat list of volumes with names, as they stand in paths
//! (`web1@latest:disk0/p2/etc/fstab`). Only headers are read. Whatever cannot be read is named and hides nothing else.
//!
//! Names: `disk0` an undivided disk · `disk0/p2` its second partition · `vg0/root` a logical volume · `md/root` a RAID 1 read
//! from one of its members. What holds only other volumes is in the list as well, so that nothing is missing from it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::detect::{self, Content, ContentKind, md};
use super::partitions::{self, Partition, PartitionTable, Scheme};
use super::window::Window;
use super::{GuestError, lvm};
use crate::disk::Disk;
use crate::units::ByteLen;

/// What was found on the disks of a machine.
#[derive(Default)]
pub struct Volumes {
    /// In the order of disks and partitions, then what was made of several of them.
    pub volumes: Vec<Volume>,
    /// Partition tables, by the names of the disks.
    pub tables: Vec<(String, PartitionTable)>,
    /// What is known to be there and cannot be read.
    pub unavailable: Vec<Unavailable>,
    /// What is odd but harmless, each in one line.
    pub warnings: Vec<String>,
    /// What could not be read, each in one line.
    pub faults: Vec<String>,
}

/// A stretch of bytes that something lies on.
pub struct Volume {
    /// As it stands in paths: `disk0/p2`, `vg0/root`.
    pub name: String,
    /// Its bytes.
    pub disk: Arc<dyn Disk>,
    /// Its length.
    pub size: ByteLen,
    /// What lies on it.
    pub content: Content,
    /// Its entry in the partition table, if it is a partition.
    pub partition: Option<Partition>,
}

/// A volume that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// As it would stand in paths.
    pub name: String,
    /// Why not.
    pub reason: String,
}

/// The volumes on `disks`, which are named as in paths: `disk0`, `disk1`.
pub fn volumes(disks: &[(String, Arc<dyn Disk>)]) -> Volumes {
    let mut found = Volumes::default();
    for (name, disk) in disks {
        if let Err(error) = found.add_disk(name, disk) {
            found.faults.push(format!("{name}: {error}"));
        }
    }
    found.add_arrays();
    found.add_groups();
    found
}

impl Volumes {
    /// The volumes with a filesystem that this program reads.
    pub fn with_files(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.iter().filter(|volume| volume.content.kind.role() == detect::Role::FileSystem)
    }

    fn add_disk(&mut self, name: &str, disk: &Arc<dyn Disk>) -> Result<(), GuestError> {
        let table = partitions::read(disk.as_ref())?;
        self.warnings.extend(table.warnings.iter().map(|warning| format!("{name}: {warning}")));
        let is_divided = table.scheme != Scheme::None;
        for partition in table.partitions.iter().filter(|partition| !partition.container) {
            let window = Window::new(Arc::clone(disk), partition.start, partition.len);
            let window = window.expect("partitions were cut to the disk");
            self.add(format!("{name}/p{}", partition.number), Arc::new(window), Some(partition.clone()));
        }
        // An ISO image that can be started from a stick is a filesystem and has a table.
        if !is_divided || detect::detect(disk.as_ref())?.kind == ContentKind::Iso9660 {
            self.add(name.to_string(), Arc::clone(disk), None);
        }
        self.tables.push((name.to_string(), table));
        Ok(())
    }

    fn add(&mut self, name: String, disk: Arc<dyn Disk>, partition: Option<Partition>) {
        match detect::detect(disk.as_ref()) {
            Ok(content) => self.volumes.push(Volume { name, size: disk.size(), disk, content, partition }),
            Err(error) => {
                self.faults.push(format!("{name}: {error}"));
                self.unavailable.push(Unavailable { name, reason: error.to_string() });
            }
        }
    }

    /// RAID 1 is the same on every member: one of those that missed nothing is read. Other levels are named.
    fn add_arrays(&mut self) {
        let mut arrays: BTreeMap<[u8; 16], Vec<ArrayMember>> = BTreeMap::new();
        for volume in self.volumes.iter().filter(|volume| volume.content.kind == ContentKind::MdRaid) {
            match md::member(volume.disk.as_ref()) {
                Ok(Some(member)) => {
                    let of_array = arrays.entry(member.array).or_default();
                    of_array.push(ArrayMember { place: volume.name.clone(), disk: Arc::clone(&volume.disk), member });
                }
                Ok(None) => {}
                Err(error) => self.faults.push(format!("{}: {error}", volume.name)),
            }
        }
        let mut taken: HashMap<String, usize> = HashMap::new();
        for (number, members) in arrays.into_values().enumerate() {
            let plain = members[0].member.name.rsplit(':').next().filter(|name| !name.is_empty());
            let plain = plain.map_or_else(|| number.to_string(), |name| name.replace('/', "_"));
            let again = taken.entry(plain.clone()).and_modify(|count| *count += 1).or_insert(1);
            let name = if *again == 1 { format!("md/{plain}") } else { format!("md/{plain}.{again}") };
            match open_array(&members) {
                Ok((disk, warning)) => {
                    self.warnings.extend(warning.map(|warning| format!("{name}: {warning}")));
                    self.add(name, disk, None);
                }
                Err(reason) => self.unavailable.push(Unavailable { name, reason }),
            }
        }
    }

    fn add_groups(&mut self) {
        let members: Vec<(String, Arc<dyn Disk>)> = self
            .volumes
            .iter()
            .filter(|volume| volume.content.kind == ContentKind::LvmPv)
            .map(|volume| (volume.name.clone(), Arc::clone(&volume.disk)))
            .collect();
        let groups = lvm::assemble(&members);
        self.warnings.extend(groups.warnings);
        self.faults.extend(groups.faults);
        for logical in groups.volumes {
            let name = format!("{}/{}", logical.group, logical.name);
            match logical.disk {
                Ok(disk) => self.add(name, disk, None),
                Err(reason) => self.unavailable.push(Unavailable { name, reason }),
            }
        }
    }
}

/// A member of a software RAID and where it was found.
struct ArrayMember {
    place: String,
    disk: Arc<dyn Disk>,
    member: md::Member,
}

/// The array as a disk, read from one of its members, of which there is at least one; also what is to be said about that.
fn open_array(members: &[ArrayMember]) -> Result<(Arc<dyn Disk>, Option<String>), String> {
    let any = &members[0].member;
    if any.level != 1 {
        let kind = if any.level < 0 { "no RAID 1".to_string() } else { format!("RAID {}", any.level) };
        return Err(format!("software RAID of {} devices is not supported: it is {kind}", any.devices));
    }
    let freshest = members.iter().map(|found| found.member.events).max().unwrap_or(0);
    let mut fresh = members.iter().filter(|found| found.member.events == freshest);
    let complete = fresh.clone().find(|found| found.member.in_sync);
    let taken = complete.or_else(|| fresh.next()).expect("the freshest is one of them");
    let ArrayMember { place, disk, member } = taken;
    let window = Window::new(Arc::clone(disk), member.data_start, member.data_len).ok_or_else(|| {
        let (start, len) = (member.data_start, member.data_len);
        format!("{place} should hold {len} bytes from {start}, and has only {}", disk.size())
    })?;
    let warning =
        complete.is_none().then(|| format!("no member is known to be complete: it is read from {place} all the same"));
    Ok((Arc::new(window), warning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DiskError, Extent, MemoryDisk};
    use crate::units::{FileOffset, GuestOffset};

    /// A medium that fails.
    struct Failing;

    impl Disk for Failing {
        fn size(&self) -> ByteLen {
            ByteLen(1 << 20)
        }
        fn read_at(&self, _: GuestOffset, _: &mut [u8]) -> Result<(), DiskError> {
            let source = std::io::Error::other("no medium");
            Err(DiskError::Read { file: "failing".into(), at: FileOffset(0), len: 512, source })
        }
        fn extent_at(&self, _: GuestOffset) -> Result<Extent, DiskError> {
            unreachable!("headers are read, not maps")
        }
    }

    #[test]
    fn one_disk_that_fails_hides_no_other() {
        let mut xfs = vec![0; 1 << 20];
        xfs[..4].copy_from_slice(b"XFSB");
        let disks: Vec<(String, Arc<dyn Disk>)> =
            vec![("disk0".into(), Arc::new(Failing)), ("disk1".into(), Arc::new(MemoryDisk(xfs)))];
        let found = volumes(&disks);
        assert_eq!(found.faults, ["disk0: failing: cannot read 512 bytes at offset 0x0"]);
        let names: Vec<&str> = found.with_files().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["disk1"]);
    }
}
