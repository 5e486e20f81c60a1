//! Domain XML for libvirt and QEMU, as `virsh define` takes it.
//!
//! Every disk has its address, so that places do not depend on libvirt's guesses. The machine is a `q35`, unless a disk
//! hangs at IDE, which that chipset has not. Source: libvirt, "Domain XML format".

use std::collections::BTreeMap;

use super::{DiskFile, escaped};
use crate::machine::hardware::{AttachedDisk, Bus, Firmware, Hardware, NetworkCard, ScsiModel};

/// The definition of fitted hardware.
pub(super) fn text(hardware: &Hardware, files: &[DiskFile]) -> String {
    let mut xml = String::from("<domain type='kvm'>\n");
    let mut line = |text: String| {
        xml.push_str("  ");
        xml.push_str(&text);
        xml.push('\n');
    };
    line(format!("<name>{}</name>", escaped(&hardware.name)));
    if let Some(uuid) = &hardware.uuid {
        line(format!("<uuid>{}</uuid>", escaped(uuid)));
    }
    if let Some(description) = &hardware.description {
        line(format!("<description>{}</description>", escaped(description)));
    }
    if let Some(system) = &hardware.guest_os {
        let space = "xmlns:libosinfo=\"http://libosinfo.org/xmlns/libvirt/domain/1.0\"";
        let os = format!("<libosinfo:os id=\"{}\"/>", escaped(system));
        line(format!("<metadata><libosinfo:libosinfo {space}>{os}</libosinfo:libosinfo></metadata>"));
    }
    line(format!("<memory unit='KiB'>{}</memory>", hardware.memory_bytes >> 10));
    line(format!("<vcpu>{}</vcpu>", hardware.processors));
    os(hardware, &mut line);
    line("<cpu mode='host-model'/>".to_owned());
    line(format!("<clock offset='{}'/>", clock(hardware)));
    line("<devices>".to_owned());
    for (disk, file) in hardware.disks.iter().zip(files) {
        device(disk, file, &mut line);
    }
    for (index, model) in scsi_controllers(hardware) {
        line(format!("  <controller type='scsi' index='{index}' model='{model}'/>"));
    }
    for card in &hardware.network_cards {
        network_card(card, &mut line);
    }
    for fixed in [
        "<serial type='pty'/>",
        "<console type='pty'/>",
        "<input type='tablet' bus='usb'/>",
        "<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>",
        "<video><model type='vga'/></video>",
    ] {
        line(format!("  {fixed}"));
    }
    line("</devices>".to_owned());
    xml.push_str("</domain>\n");
    xml
}

fn os(hardware: &Hardware, line: &mut impl FnMut(String)) {
    let has_ide = hardware.disks.iter().any(|disk| disk.bus == Bus::Ide);
    let chipset = if has_ide { "pc" } else { "q35" };
    let secure_boot = hardware.firmware == Firmware::Uefi { secure_boot: true };
    line(match hardware.firmware {
        Firmware::Bios => "<os>".to_owned(),
        Firmware::Uefi { .. } => "<os firmware='efi'>".to_owned(),
    });
    line(format!("  <type arch='x86_64' machine='{chipset}'>hvm</type>"));
    if let Firmware::Uefi { secure_boot } = hardware.firmware {
        let enabled = if secure_boot { "yes" } else { "no" };
        line(format!("  <firmware><feature enabled='{enabled}' name='secure-boot'/></firmware>"));
    }
    line("  <boot dev='hd'/>".to_owned());
    line("</os>".to_owned());
    // Secure boot keeps its variables behind system management mode.
    let smm = if secure_boot { "<smm state='on'/>" } else { "" };
    line(format!("<features><acpi/><apic/>{smm}</features>"));
}

/// Windows keeps its clock in local time.
fn clock(hardware: &Hardware) -> &'static str {
    let is_windows = hardware.guest_os.as_deref().is_some_and(|id| id.starts_with("http://microsoft.com/"));
    if is_windows { "localtime" } else { "utc" }
}

fn device(disk: &AttachedDisk, file: &DiskFile, line: &mut impl FnMut(String)) {
    let (slot, AttachedDisk { controller, unit, .. }) = (escaped(&disk.slot), disk);
    let (bus, place) = match disk.bus {
        Bus::Ide => ("ide", Some((0, *controller, 0, *unit))),
        Bus::Sata | Bus::Nvme => ("sata", Some((*controller, 0, 0, *unit))),
        Bus::Scsi(ScsiModel::Virtio) => ("scsi", Some((*controller, 0, 0, *unit))),
        // These have one unit on each of many targets.
        Bus::Scsi(_) => ("scsi", Some((*controller, 0, *unit, 0))),
        Bus::Virtio => ("virtio", None),
    };
    line("  <disk type='file' device='disk'>".to_owned());
    line(format!("    <driver name='qemu' type='{}'/>", file.driver));
    line(format!("    <source file=\"{}\"/>", escaped(&file.name)));
    line(format!("    <target dev='{slot}' bus='{bus}'/>"));
    if let Some((controller, bus, target, unit)) = place {
        line(format!(
            "    <address type='drive' controller='{controller}' bus='{bus}' target='{target}' unit='{unit}'/>"
        ));
    }
    line("  </disk>".to_owned());
}

/// All SCSI controllers up to the highest in use: libvirt would fill a gap with a model that few QEMUs have.
fn scsi_controllers(hardware: &Hardware) -> BTreeMap<u32, &'static str> {
    let mut models = BTreeMap::new();
    for disk in &hardware.disks {
        if let Bus::Scsi(model) = disk.bus {
            let name = match model {
                ScsiModel::LsiSas => "lsisas1068",
                ScsiModel::VmwareParavirtual => "vmpvscsi",
                ScsiModel::LsiLogic | ScsiModel::BusLogic | ScsiModel::Virtio | ScsiModel::HyperV => "virtio-scsi",
            };
            models.insert(disk.controller, name);
        }
    }
    for index in 0..models.last_key_value().map_or(0, |(index, _)| *index) {
        models.entry(index).or_insert("virtio-scsi");
    }
    models
}

fn network_card(card: &NetworkCard, line: &mut impl FnMut(String)) {
    line("  <interface type='network'>".to_owned());
    if let Some(mac) = &card.mac {
        line(format!("    <mac address='{mac}'/>"));
    }
    line(format!("    <source network=\"{}\"/>", escaped(card.network.as_deref().unwrap_or("default"))));
    if let Some(model) = &card.model {
        line(format!("    <model type='{}'/>", escaped(model)));
    }
    line("  </interface>".to_owned());
}
