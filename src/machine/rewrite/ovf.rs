//! An OVF descriptor with other files behind its disks.

use std::path::Path;

use quick_xml::events::attributes::Attribute;

use super::NewImage;
use super::xml::{Edit, edited};
use crate::machine::ovf;

const STREAM_OPTIMIZED: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// The descriptor with the files of its disks replaced, and the names of files that it refers to and that are no disks.
/// `None` if it is none that can be rewritten.
pub fn with_disks(descriptor: &[u8], disks: &[NewImage]) -> Option<(Vec<u8>, Vec<String>)> {
    let text = std::str::from_utf8(descriptor).ok()?;
    let stored = ovf::disk_files(Path::new("x.ovf"), descriptor).ok()?;
    let image = |file_id: Option<&str>, disk_id: Option<&str>| {
        let stored = stored.iter().find(|stored| match (file_id, disk_id) {
            (Some(id), _) => stored.file_id == id,
            (_, id) => id.is_some() && stored.disk_id.as_deref() == id,
        })?;
        disks.iter().find(|disk| disk.slot == stored.slot)
    };
    let mut others = Vec::new();
    let rewritten = edited(text, |found| {
        let attribute = |name: &str| {
            let local = |attribute: &Attribute<'_>| String::from(attribute.key.local_name().as_ref());
            let mut attributes = found.tag.attributes();
            let found = attributes.with_checks(false).flatten().find(|attribute| local(attribute) == name);
            found.map(|attribute| attribute.value.into_owned())
        };
        let names: Vec<&str> = found.path.iter().map(String::as_str).collect();
        match names.as_slice() {
            ["Envelope", "References", "File"] => match image(attribute("id").as_deref(), None) {
                Some(image) => Edit::Tag(found.with_attributes(&[
                    ("href", Some(&image.file)),
                    ("size", Some(&image.file_bytes.to_string())),
                    ("chunkSize", None),
                    ("compression", None),
                ])),
                None => {
                    others.extend(attribute("href"));
                    Edit::Keep
                }
            },
            ["Envelope", _, "Disk"] => match image(None, attribute("diskId").as_deref()) {
                Some(_) => {
                    Edit::Tag(found.with_attributes(&[("format", Some(STREAM_OPTIMIZED)), ("populatedSize", None)]))
                }
                None => Edit::Keep,
            },
            _ => Edit::Keep,
        }
    })?;
    Some((rewritten.into_bytes(), others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_change() {
        let text = "<ovf:Envelope xmlns:ovf='x'>\n<ovf:References><ovf:File ovf:id='f1' ovf:href='old.vmdk' ovf:size='7'/>\
            <ovf:File ovf:id='f2' ovf:href='cd.iso'/></ovf:References>\n<ovf:DiskSection><ovf:Disk ovf:diskId='d1' \
            ovf:fileRef='f1' ovf:capacity='1' ovf:format='y'/></ovf:DiskSection>\n<ovf:VirtualSystem><!-- kept -->\
            <ovf:VirtualHardwareSection><Item><ResourceType>17</ResourceType><HostResource>ovf:/disk/d1</HostResource>\
            </Item></ovf:VirtualHardwareSection></ovf:VirtualSystem></ovf:Envelope>";
        let image = NewImage { slot: "disk0".to_owned(), file: "new.vmdk".to_owned(), driver: "vmdk", file_bytes: 99 };
        let (found, others) = with_disks(text.as_bytes(), &[image]).unwrap();
        let expected = text
            .replace(
                "<ovf:File ovf:id='f1' ovf:href='old.vmdk' ovf:size='7'/>",
                "<ovf:File ovf:id=\"f1\" ovf:href=\"new.vmdk\" ovf:size=\"99\"/>",
            )
            .replace(
                "<ovf:Disk ovf:diskId='d1' ovf:fileRef='f1' ovf:capacity='1' ovf:format='y'/>",
                &format!(
                    "<ovf:Disk ovf:diskId=\"d1\" ovf:fileRef=\"f1\" ovf:capacity=\"1\" ovf:format=\"{STREAM_OPTIMIZED}\"/>"
                ),
            );
        assert_eq!(String::from_utf8(found).unwrap(), expected);
        assert_eq!(others, ["cd.iso"]);
        assert_eq!(with_disks(b"<x/>", &[]), None);
    }
}
