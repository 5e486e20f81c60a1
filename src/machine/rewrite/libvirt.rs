//! Domain XML with other images in its disks.

use std::path::Path;

use quick_xml::escape::escape;

use super::NewImage;
use super::xml::{Edit, Found, edited};
use crate::machine::write::Target;
use crate::machine::write::identity::{self, Random};
use crate::machine::xml;

/// The definition with the images of its disks replaced; `variables` are the restored UEFI variables, by their file name.
/// `None` if it is none that can be rewritten: not in UTF-8, or a status or snapshot with a definition inside.
pub fn with_disks(
    definition: &[u8],
    disks: &[NewImage],
    variables: impl Fn(&str) -> Option<String>,
) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(definition).ok()?;
    if xml::first_name(definition)? != "domain" {
        return None;
    }
    let mut number = 0;
    let rewritten = edited(text, |found| {
        if found.is_at(&["domain", "os", "nvram"]) {
            return nvram(found, &variables).unwrap_or(Edit::Keep);
        }
        if !found.is_at(&["domain", "devices", "disk"]) {
            return Edit::Keep;
        }
        number += 1;
        let Ok(element) = xml::parse(Path::new("disk"), found.text.as_bytes()) else { return Edit::Keep };
        // As the definition was read: the target's name, else the number of the disk.
        let target = element.child("target").and_then(|target| target.attribute("dev"));
        let slot = target.map_or_else(|| format!("disk{}", number - 1), str::to_owned);
        match disks.iter().find(|disk| disk.slot == slot).and_then(|disk| with_image(found.text, disk)) {
            Some(disk) => Edit::Whole(disk),
            None => Edit::Keep,
        }
    })?;
    Some(rewritten.into_bytes())
}

/// The variables' file under its new name. An element inside names the file in definitions of today.
fn nvram(found: &Found<'_, '_>, variables: &impl Fn(&str) -> Option<String>) -> Option<Edit> {
    let element = xml::parse(Path::new("nvram"), found.text.as_bytes()).ok()?;
    let new = variables(Path::new(element.text()).file_name()?.to_str()?)?;
    let tag = found.with_attributes(&[]);
    Some(Edit::Whole(format!("<{tag}>{}</nvram>", escape(new))))
}

/// One `<disk>` with another image.
fn with_image(disk: &str, image: &NewImage) -> Option<String> {
    let driver = format!("<driver name=\"qemu\" type=\"{}\"/>", image.driver);
    let has_driver = xml::parse(Path::new("disk"), disk.as_bytes()).ok()?.child("driver").is_some();
    edited(disk, |found| {
        if found.is_at(&["disk"]) {
            let tag = found.with_attributes(&[("type", Some("file"))]);
            let more = if has_driver { String::new() } else { format!(">{driver}") };
            // The angle bracket that closes the tag then closes the driver's.
            Edit::Tag(tag + more.trim_end_matches('>'))
        } else if found.is_at(&["disk", "driver"]) {
            Edit::Tag(found.with_attributes(&[("type", Some(image.driver))]))
        } else if found.is_at(&["disk", "source"]) {
            Edit::Whole(format!("<source file=\"{}\"/>", escape(&image.file)))
        } else if found.is_at(&["disk", "backingStore"]) || found.is_at(&["disk", "mirror"]) {
            Edit::Whole(String::new())
        } else {
            Edit::Keep
        }
    })
}

/// The definition of another machine: a new UUID, and new addresses for its network cards.
pub fn with_new_identity(definition: &[u8], random: Random<'_>) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(definition).ok()?;
    let uuid = identity::uuid(random);
    let cards = text.matches("<mac").count();
    let mut addresses = identity::addresses(Target::Libvirt, cards, random).into_iter();
    let generation = identity::uuid(random);
    let rewritten = edited(text, |found| {
        if found.is_at(&["domain", "uuid"]) {
            Edit::Whole(format!("<uuid>{uuid}</uuid>"))
        } else if found.is_at(&["domain", "genid"]) {
            Edit::Whole(format!("<genid>{generation}</genid>"))
        } else if found.is_at(&["domain", "sysinfo", "system", "entry"]) && found.text.contains("uuid") {
            // libvirt refuses a definition whose two UUIDs differ.
            Edit::Whole(format!("<entry name='uuid'>{uuid}</entry>"))
        } else if found.is_at(&["domain", "devices", "interface", "mac"]) {
            addresses.next().map_or(Edit::Keep, |mac| Edit::Tag(found.with_attributes(&[("address", Some(&mac))])))
        } else {
            Edit::Keep
        }
    })?;
    Some(rewritten.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "<domain type='kvm'>\n  <uuid>6f0a1f3a-7720-4c01-9d5e-0a6b2c4481f0</uuid>\n  <os>\n    \
        <nvram template='/t'>/var/lib/web1_VARS.fd</nvram>\n  </os>\n  <devices>\n    \
        <disk type='block' device='disk'>\n      <driver name='qemu' type='raw' cache='none'/>\n      \
        <source dev='/dev/vg/web1' index='1'><seclabel/></source>\n      <backingStore><source file='/b'/></backingStore>\n      \
        <target dev='vda' bus='virtio'/>\n    </disk>\n    <disk><source file='/x'/><target dev='vdb'/></disk>\n    \
        <disk type='file' device='cdrom'><target dev='sda'/></disk>\n    \
        <interface type='network'><mac address='52:54:00:aa:bb:01'/></interface>\n  </devices>\n</domain>\n";

    #[test]
    fn only_images_change() {
        let image = |slot: &str, file: &str| NewImage {
            slot: slot.to_owned(),
            file: file.to_owned(),
            driver: "qcow2",
            file_bytes: 0,
        };
        let disks = [image("vda", "/vm/a & b.qcow2"), image("vdb", "/vm/c.qcow2")];
        let variables = |name: &str| (name == "web1_VARS.fd").then(|| "/vm/web1_VARS.fd".to_owned());
        let found = String::from_utf8(with_disks(DOMAIN.as_bytes(), &disks, variables).unwrap()).unwrap();
        let expected = DOMAIN
            .replace("<disk type='block' device='disk'>", "<disk type=\"file\" device=\"disk\">")
            .replace("<nvram template='/t'>/var/lib/web1_VARS.fd<", "<nvram template=\"/t\">/vm/web1_VARS.fd<")
            .replace(
                "<driver name='qemu' type='raw' cache='none'/>",
                "<driver name=\"qemu\" type=\"qcow2\" cache=\"none\"/>",
            )
            .replace(
                "<source dev='/dev/vg/web1' index='1'><seclabel/></source>",
                "<source file=\"/vm/a &amp; b.qcow2\"/>",
            )
            .replace("<backingStore><source file='/b'/></backingStore>", "")
            .replace(
                "<disk><source file='/x'/>",
                "<disk type=\"file\"><driver name=\"qemu\" type=\"qcow2\"/><source file=\"/vm/c.qcow2\"/>",
            );
        assert_eq!(found, expected);
    }

    #[test]
    fn a_new_identity_changes_nothing_else() {
        let found = with_new_identity(DOMAIN.as_bytes(), &mut || [0xff; 16]).unwrap();
        let expected = DOMAIN
            .replace("6f0a1f3a-7720-4c01-9d5e-0a6b2c4481f0", "ffffffff-ffff-4fff-bfff-ffffffffffff")
            .replace("address='52:54:00:aa:bb:01'", "address=\"52:54:00:ff:ff:ff\"");
        assert_eq!(String::from_utf8(found).unwrap(), expected);
    }

    #[test]
    fn what_is_no_definition_is_left_alone() {
        for other in ["<domstatus><domain/></domstatus>", "", "<domain>"] {
            assert_eq!(with_disks(other.as_bytes(), &[], |_| None), None, "{other}");
        }
        assert_eq!(with_disks(b"<domain n='\xff'/>", &[], |_| None), None);
    }
}
