//! Where disks hang on the target: controllers it has, places that are free on them, and names for these places.
//!
//! A disk keeps its controller and place if the target has them, because the guest has the drivers for that and may know
//! its disks by it. Else it goes to AHCI, which nearly every guest can start from.

use std::collections::HashMap;

use super::Target;
use crate::machine::hardware::{AttachedDisk, Bus, ScsiModel};

/// What a controller number belongs to: all SCSI models share their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Row {
    Ide,
    Sata,
    Scsi,
    Virtio,
    Nvme,
}

fn row(bus: Bus) -> Row {
    match bus {
        Bus::Ide => Row::Ide,
        Bus::Sata => Row::Sata,
        Bus::Scsi(_) => Row::Scsi,
        Bus::Virtio => Row::Virtio,
        Bus::Nvme => Row::Nvme,
    }
}

/// The controller that a disk gets on the target.
pub(super) fn bus_on(target: Target, bus: Bus, secure_boot: bool) -> Bus {
    use ScsiModel::{BusLogic, HyperV, LsiLogic, LsiSas, Virtio, VmwareParavirtual};
    match (target, bus) {
        (Target::Vmx | Target::Ovf, Bus::Virtio | Bus::Scsi(Virtio | HyperV)) => Bus::Sata,
        (Target::Vmx | Target::Ovf, kept) => kept,
        // What QEMU calls LSI Logic is another chip with another driver, and it has no BusLogic. libvirt knows NVMe disks
        // in images only of late.
        (Target::Libvirt, Bus::Scsi(LsiLogic | BusLogic | HyperV) | Bus::Nvme) => Bus::Sata,
        // Secure boot needs the chipset that has no IDE.
        (Target::Libvirt, Bus::Ide) if secure_boot => Bus::Sata,
        (
            Target::Libvirt,
            kept @ (Bus::Ide | Bus::Sata | Bus::Virtio | Bus::Scsi(LsiSas | VmwareParavirtual | Virtio)),
        ) => kept,
    }
}

/// How many controllers of its kind, and how many places on each, the target has.
fn extent(target: Target, bus: Bus) -> (u32, u32) {
    match (target, bus) {
        (_, Bus::Ide) => (2, 2),
        (Target::Vmx | Target::Ovf, Bus::Sata) => (4, 30),
        (Target::Vmx | Target::Ovf, Bus::Scsi(_)) => (4, 16),
        (Target::Vmx | Target::Ovf, Bus::Nvme) => (4, 15),
        (Target::Libvirt, Bus::Sata) => (32, 6),
        (Target::Libvirt, Bus::Scsi(ScsiModel::LsiSas)) => (16, 8),
        (Target::Libvirt, Bus::Scsi(_)) => (16, 64),
        (Target::Libvirt, Bus::Virtio) => (1, 26 * 27),
        (Target::Vmx | Target::Ovf, Bus::Virtio) | (Target::Libvirt, Bus::Nvme) => (0, 0),
    }
}

/// Places already given away.
#[derive(Default)]
struct Taken {
    places: HashMap<(Row, u32, u32), ()>,
    models: HashMap<u32, Bus>,
}

impl Taken {
    fn is_free(&self, target: Target, bus: Bus, controller: u32, unit: u32) -> bool {
        let (controllers, units) = extent(target, bus);
        // On a parallel bus, and on VMware's others after it, 7 is the controller's own address.
        let own = matches!((target, bus), (Target::Vmx | Target::Ovf, Bus::Scsi(_))) && unit == 7;
        let other_model =
            matches!(bus, Bus::Scsi(_)) && self.models.get(&controller).is_some_and(|model| *model != bus);
        let place = (row(bus), controller, unit);
        controller < controllers && unit < units && !own && !other_model && !self.places.contains_key(&place)
    }

    fn take(&mut self, bus: Bus, controller: u32, unit: u32) {
        self.places.insert((row(bus), controller, unit), ());
        if matches!(bus, Bus::Scsi(_)) {
            self.models.insert(controller, bus);
        }
    }

    /// The first free place on `bus`.
    fn first_free(&self, target: Target, bus: Bus) -> Option<(Bus, u32, u32)> {
        let (controllers, units) = extent(target, bus);
        let all = (0..controllers).flat_map(|controller| (0..units).map(move |unit| (controller, unit)));
        let mut free = all.filter(|(controller, unit)| self.is_free(target, bus, *controller, *unit));
        free.next().map(|(controller, unit)| (bus, controller, unit))
    }
}

/// Gives each disk a place on the target; `None` if it has not that many. Slots are named as the target names them.
pub(super) fn place(target: Target, disks: &[AttachedDisk], secure_boot: bool) -> Option<Vec<AttachedDisk>> {
    let mut taken = Taken::default();
    let mut placed: Vec<Option<(Bus, u32, u32)>> = vec![None; disks.len()];
    // Two passes: a disk that moves must not take the place of one that can stay.
    for (disk, place) in disks.iter().zip(&mut placed) {
        let stays = bus_on(target, disk.bus, secure_boot) == disk.bus;
        if stays && taken.is_free(target, disk.bus, disk.controller, disk.unit) {
            taken.take(disk.bus, disk.controller, disk.unit);
            *place = Some((disk.bus, disk.controller, disk.unit));
        }
    }
    for (disk, place) in disks.iter().zip(&mut placed).filter(|(_, place)| place.is_none()) {
        let wanted = bus_on(target, disk.bus, secure_boot);
        let last_resort = [Bus::Sata, Bus::Scsi(ScsiModel::LsiSas)];
        let mut buses = std::iter::once(wanted).chain(last_resort);
        let (bus, controller, unit) = buses.find_map(|bus| taken.first_free(target, bus))?;
        taken.take(bus, controller, unit);
        *place = Some((bus, controller, unit));
    }
    let mut letters = 0;
    let named = placed.into_iter().flatten().map(|(bus, controller, unit)| {
        let slot = match target {
            Target::Vmx | Target::Ovf => format!("{}{controller}:{unit}", prefix(bus)),
            Target::Libvirt => match bus {
                Bus::Virtio => format!("vd{}", letter(unit)),
                Bus::Ide => format!("hd{}", letter(2 * controller + unit)),
                Bus::Sata | Bus::Scsi(_) | Bus::Nvme => {
                    letters += 1;
                    format!("sd{}", letter(letters - 1))
                }
            },
        };
        AttachedDisk { slot, bus, controller, unit }
    });
    Some(named.collect())
}

fn prefix(bus: Bus) -> &'static str {
    match bus {
        Bus::Ide => "ide",
        Bus::Sata => "sata",
        Bus::Scsi(_) => "scsi",
        Bus::Nvme => "nvme",
        Bus::Virtio => "virtio",
    }
}

/// 0 → `a`, 25 → `z`, 26 → `aa`.
fn letter(index: u32) -> String {
    let last = char::from_digit(index % 26 + 10, 36).expect("a digit below 36");
    match index / 26 {
        0 => last.to_string(),
        more => letter(more - 1) + &last.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters_of(digit: u32) -> String {
        letter(digit)
    }

    #[test]
    fn letters_are_those_of_linux() {
        for (index, name) in
            [(0, "a"), (9, "j"), (25, "z"), (26, "aa"), (51, "az"), (52, "ba"), (701, "zz"), (702, "aaa")]
        {
            assert_eq!(letters_of(index), name);
        }
    }

    const LSI: Bus = Bus::Scsi(ScsiModel::LsiLogic);
    const PARAVIRTUAL: Bus = Bus::Scsi(ScsiModel::VmwareParavirtual);

    #[track_caller]
    fn check(target: Target, disks: &[(Bus, u32, u32)], expected: &[&str]) {
        let disks: Vec<AttachedDisk> = disks
            .iter()
            .map(|(bus, controller, unit)| AttachedDisk {
                slot: "x".to_owned(),
                bus: *bus,
                controller: *controller,
                unit: *unit,
            })
            .collect();
        let placed = place(target, &disks, false).unwrap();
        assert_eq!(placed.iter().map(|disk| disk.slot.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn disks_stay_where_they_can() {
        check(Target::Vmx, &[(LSI, 0, 0), (LSI, 1, 6), (Bus::Nvme, 0, 3)], &["scsi0:0", "scsi1:6", "nvme0:3"]);
        check(Target::Vmx, &[(Bus::Virtio, 0, 0), (Bus::Sata, 0, 0)], &["sata0:1", "sata0:0"]);
        // One controller has one model, and 7 is its own address.
        check(Target::Vmx, &[(LSI, 0, 0), (PARAVIRTUAL, 0, 1), (LSI, 0, 7)], &["scsi0:0", "scsi1:0", "scsi0:1"]);
        check(Target::Vmx, &[(Bus::Ide, 0, 0); 5], &["ide0:0", "ide0:1", "ide1:0", "ide1:1", "sata0:0"]);
        check(Target::Libvirt, &[(LSI, 0, 0), (Bus::Virtio, 0, 2), (Bus::Ide, 1, 1)], &["sda", "vdc", "hdd"]);
        check(Target::Libvirt, &[(PARAVIRTUAL, 0, 9), (Bus::Sata, 0, 9)], &["sda", "sdb"]);
    }

    #[test]
    fn more_disks_than_places_are_refused() {
        let disk = AttachedDisk { slot: "x".to_owned(), bus: Bus::Virtio, controller: 0, unit: 0 };
        assert!(place(Target::Vmx, &vec![disk.clone(); 120 + 60], false).is_some());
        assert!(place(Target::Vmx, &vec![disk; 120 + 61], false).is_none());
    }
}
