//! `.vmx` and `.vmsd`: lines are replaced whole or stay to the letter, whatever their encoding.

use super::NewImage;
use crate::machine::write::Target;
use crate::machine::write::identity::{self, Random};

/// The `.vmx` with each slot's `fileName` replaced.
pub fn with_disks(vmx: &[u8], disks: &[NewImage]) -> Vec<u8> {
    let mut rewritten = Vec::with_capacity(vmx.len());
    for line in vmx.split_inclusive(|byte| *byte == b'\n') {
        let key = key_of(line);
        match disks.iter().find(|disk| key == format!("{}.filename", disk.slot).to_ascii_lowercase()) {
            Some(NewImage { slot, file, .. }) => {
                let ending = if line.ends_with(b"\r\n") { "\r\n" } else { "\n" };
                rewritten.extend_from_slice(format!("{slot}.fileName = \"{}\"{ending}", value(file)).as_bytes());
            }
            None => rewritten.extend_from_slice(line),
        }
    }
    rewritten
}

/// The `.vmx` of another machine: new UUIDs, and new addresses for its network cards.
pub fn with_new_identity(vmx: &[u8], random: Random<'_>) -> Vec<u8> {
    const UUIDS: [&str; 6] = ["uuid.bios", "uuid.location", "uuid.action", "vc.uuid", "vm.genid", "vm.genidx"];
    const ADDRESS: [&str; 5] =
        ["address", "addresstype", "generatedaddress", "generatedaddressoffset", "checkmacaddress"];
    let mut cards: Vec<String> = Vec::new();
    let mut rewritten = Vec::with_capacity(vmx.len());
    for line in vmx.split_inclusive(|byte| *byte == b'\n') {
        let key = key_of(line);
        let card = key.split_once('.').filter(|(device, _)| is_card(device));
        if let Some((device, _)) = card
            && !cards.iter().any(|known| known == device)
        {
            cards.push(device.to_owned());
        }
        if !UUIDS.contains(&key.as_str()) && !card.is_some_and(|(_, property)| ADDRESS.contains(&property)) {
            rewritten.extend_from_slice(line);
        }
    }
    let ending = if vmx.windows(2).any(|pair| pair == b"\r\n") { "\r\n" } else { "\n" };
    if !rewritten.is_empty() && !rewritten.ends_with(b"\n") {
        rewritten.extend_from_slice(ending.as_bytes());
    }
    let mut set = |key: String, value: &str| {
        rewritten.extend_from_slice(format!("{key} = \"{value}\"{ending}").as_bytes());
    };
    set("uuid.bios".to_owned(), &uuid(&identity::uuid(random)));
    set("uuid.action".to_owned(), "keep");
    for (card, address) in cards.iter().zip(identity::addresses(Target::Vmx, cards.len(), random)) {
        set(format!("{card}.addressType"), "static");
        set(format!("{card}.address"), &address);
    }
    rewritten
}

fn is_card(device: &str) -> bool {
    device.strip_prefix("ethernet").is_some_and(|n| !n.is_empty() && n.bytes().all(|digit| digit.is_ascii_digit()))
}

/// A `.vmsd` of a machine without snapshots.
pub fn list_without_snapshots() -> &'static [u8] {
    b".encoding = \"UTF-8\"\nsnapshot.numSnapshots = \"0\"\n"
}

/// The key of a line in lower case; what has none gives something that is no key.
fn key_of(line: &[u8]) -> String {
    let key = line.split(|byte| *byte == b'=').next().unwrap_or_default();
    String::from_utf8_lossy(key.trim_ascii()).to_ascii_lowercase()
}

/// A UUID as VMware spells it: `56 4d 1f 3a 77 20 4c 01-9d 5e 0a 6b 2c 44 81 f0`.
pub fn uuid(uuid: &str) -> String {
    let digits: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let bytes: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
    bytes.chunks(8).map(|half| half.join(" ")).collect::<Vec<_>>().join("-")
}

/// A value with what the syntax needs escaped as `|` and two hex digits.
pub fn value(value: &str) -> String {
    value.chars().fold(String::new(), |mut text, c| {
        if matches!(c, '"' | '|') || c.is_ascii_control() {
            text.push_str(&format!("|{:02X}", u32::from(c)));
        } else {
            text.push(c);
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMX: &[u8] = b".encoding = \"UTF-8\"\r\ndisplayName = \"caf\xe9\"\r\n SCSI0:0.filename= \"a-000001.vmdk\"\r\nscsi0:10.fileName = \"b\"";

    #[test]
    fn only_the_named_lines_change() {
        let file = "a \"new\".vmdk".to_owned();
        let disks = [NewImage { slot: "scsi0:0".to_owned(), file, driver: "vmdk", file_bytes: 0 }];
        let expected = b".encoding = \"UTF-8\"\r\ndisplayName = \"caf\xe9\"\r\nscsi0:0.fileName = \"a |22new|22.vmdk\"\r\nscsi0:10.fileName = \"b\"";
        assert_eq!(with_disks(VMX, &disks), expected);
        assert_eq!(uuid("564d1f3a-7720-4c01-9d5e-0a6b2c4481f0"), "56 4d 1f 3a 77 20 4c 01-9d 5e 0a 6b 2c 44 81 f0");
    }

    #[test]
    fn a_new_identity_leaves_nothing_of_the_old_one() {
        let vmx = b"uuid.bios = \"56 4d\"\nUUID.location = \"56 4d\"\nethernet0.present = \"TRUE\"\n\
            ethernet0.addressType = \"generated\"\nethernet0.generatedAddress = \"00:0C:29:44:81:F0\"\n\
            ethernet0.virtualDev = \"vmxnet3\"\nmemsize = \"512\"";
        let text = String::from_utf8(with_new_identity(vmx, &mut || [0xff; 16])).unwrap();
        assert_eq!(
            text,
            "ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vmxnet3\"\nmemsize = \"512\"\n\
             uuid.bios = \"ff ff ff ff ff ff 4f ff-bf ff ff ff ff ff ff ff\"\nuuid.action = \"keep\"\n\
             ethernet0.addressType = \"static\"\nethernet0.address = \"00:50:56:3f:ff:ff\"\n"
        );
    }
}
