//! Writing a machine's definition for another hypervisor: [`Hardware`] and the restored disks' files → text.
//!
//! In here: [`fit`] decides what the machine looks like over there (`places`, `guest_os`), and one file a format says it in
//! that format's words; new identities. Pure: no file is looked at, and randomness comes in as an argument.
//! Not in here: rewriting a definition that stays with its hypervisor (`rewrite`).
//!
//! Law: what was fitted to a format reads back as the same hardware.

mod fit;
mod guest_os;
pub mod identity;
mod libvirt;
mod ovf;
mod places;
mod vmx;

pub use fit::{Fitted, fit};

use super::hardware::Hardware;

/// A kind of definition that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `.vmx`, for VMware Workstation, Fusion and ESXi.
    Vmx,
    /// Domain XML, for libvirt with QEMU.
    Libvirt,
    /// `.ovf`, for whoever imports appliances: vSphere, Workstation, VirtualBox.
    Ovf,
}

impl Target {
    /// The ending of its definitions' names.
    pub fn extension(self) -> &'static str {
        match self {
            Target::Vmx => "vmx",
            Target::Libvirt => "xml",
            Target::Ovf => "ovf",
        }
    }
}

/// The image of a restored disk, as a definition names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFile {
    /// Where it lies, seen from the definition: a file name; for libvirt a whole path.
    pub name: String,
    /// QEMU's name of its format: `raw`, `qcow2`, `vmdk`, `vpc`, `vhdx`, `vdi`.
    pub driver: &'static str,
    /// Size of the guest's disk in bytes.
    pub capacity: u64,
    /// Length of the file in bytes.
    pub file_bytes: u64,
}

/// The definition of hardware that was fitted to `target`; `files` are the images of its disks, in their order.
pub fn definition(target: Target, hardware: &Hardware, files: &[DiskFile]) -> String {
    match target {
        Target::Vmx => vmx::text(hardware, files),
        Target::Libvirt => libvirt::text(hardware, files),
        Target::Ovf => ovf::text(hardware, files),
    }
}

/// Text as XML has it, in an element or between double quotes.
fn escaped(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::machine::hardware::{AttachedDisk, Bus, Firmware, NetworkCard, ScsiModel};
    use crate::machine::hardware_of;

    const TARGETS: [Target; 3] = [Target::Vmx, Target::Libvirt, Target::Ovf];

    fn files(hardware: &Hardware) -> Vec<DiskFile> {
        let file = |(number, _): (u64, &AttachedDisk)| DiskFile {
            name: format!("/vm/a & \"b\" <{number}>.img"),
            driver: "qcow2",
            capacity: number << 30,
            file_bytes: number,
        };
        (1..).zip(&hardware.disks).map(file).collect()
    }

    fn bus() -> impl Strategy<Value = Bus> {
        use ScsiModel::{BusLogic, HyperV, LsiLogic, LsiSas, Virtio, VmwareParavirtual};
        let models = [BusLogic, HyperV, LsiLogic, LsiSas, Virtio, VmwareParavirtual].map(Bus::Scsi);
        prop::sample::select([&models[..], &[Bus::Ide, Bus::Sata, Bus::Virtio, Bus::Nvme]].concat())
    }

    prop_compose! {
        fn card()(
            mac in option::of("([0-9a-f]{2}:){5}[0-9a-f]{2}|[^:]{0,5}"),
            model in option::of("e1000e?|vmxnet3|virtio|vlance|pcnet32|rtl8139|E1000|[a-z]{0,6}"),
            network in option::of("nat|br0|VM Network|\\PC{0,9}"),
        ) -> NetworkCard {
            NetworkCard { mac, model, network }
        }
    }

    prop_compose! {
        fn hardware()(
            name in "\\PC{0,20}|[\u{0}-\u{7f}]{0,9}",
            description in option::of("[\u{0}-\u{2fff}\n\t|\"]{0,40}"),
            uuid in option::of("[0-9a-f]{7}1-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
            memory_bytes in prop_oneof![Just(0), 1u64..64 << 30, Just(u64::MAX)],
            processors in 0u32..300,
            firmware in prop::sample::select(vec![
                Firmware::Bios, Firmware::Uefi { secure_boot: false }, Firmware::Uefi { secure_boot: true },
            ]),
            guest_os in option::of("debian1[0-9]-64|windows9-64|http://debian.org/debian/12|l26|\\PC{0,9}"),
            places in prop::collection::vec((bus(), 0u32..5, 0u32..20), 0..12),
            network_cards in prop::collection::vec(card(), 0..4),
        ) -> Hardware {
            let disks = (0u32..).zip(places).map(|(number, (bus, controller, unit))| AttachedDisk {
                slot: format!("d{number}"), bus, controller, unit,
            });
            Hardware {
                name, description, uuid, memory_bytes, processors, firmware, guest_os, network_cards,
                disks: disks.collect(),
                not_carried_over: Vec::new(),
            }
        }
    }

    proptest! {
        /// What was fitted to a format is written and read without a difference; fitting it again changes nothing.
        #[test]
        fn fitted_hardware_reads_back_the_same(hardware in hardware()) {
            let slots: Vec<String> = hardware.disks.iter().map(|disk| disk.slot.clone()).collect();
            for target in TARGETS {
                let fitted = fit(&hardware, &slots, target).unwrap().hardware;
                let text = definition(target, &fitted, &files(&fitted));
                let name = format!("x.{}", target.extension());
                let mut found = hardware_of(Path::new(&name), text.as_bytes()).unwrap();
                // The processor model is ours to choose, and not the machine's.
                found.not_carried_over.retain(|line| !line.starts_with("cpu: "));
                let sorted = |mut hardware: Hardware| {
                    hardware.disks.sort_by(|one, other| one.slot.cmp(&other.slot));
                    hardware
                };
                prop_assert_eq!(sorted(found), sorted(fitted.clone()), "{}", text);

                let places: Vec<String> = fitted.disks.iter().map(|disk| disk.slot.clone()).collect();
                let again = fit(&fitted, &places, target).unwrap();
                prop_assert_eq!(again.hardware, fitted);
                prop_assert_eq!((again.notes.len() < 2, again.warnings), (true, Vec::new()));
            }
        }
    }
}
