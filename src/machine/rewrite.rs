//! Definition files for a machine whose disks were restored under other names: the same lines, with other file names.
//!
//! Pure: bytes in, bytes out. All other lines stay to the letter, whatever their encoding.

/// The `.vmx` with each slot's `fileName` replaced; `disks` are slots (`scsi0:0`) and new file names.
pub fn vmx_with_disks(vmx: &[u8], disks: &[(String, String)]) -> Vec<u8> {
    let mut rewritten = Vec::with_capacity(vmx.len());
    for line in vmx.split_inclusive(|byte| *byte == b'\n') {
        match disks.iter().find(|(slot, _)| names_file_of(line, slot)) {
            Some((slot, file)) => {
                let ending = if line.ends_with(b"\r\n") { "\r\n" } else { "\n" };
                rewritten.extend_from_slice(format!("{slot}.fileName = \"{}\"{ending}", vmx_value(file)).as_bytes());
            }
            None => rewritten.extend_from_slice(line),
        }
    }
    rewritten
}

/// A `.vmsd` of a machine without snapshots.
pub fn vmsd_without_snapshots() -> &'static [u8] {
    b".encoding = \"UTF-8\"\nsnapshot.numSnapshots = \"0\"\n"
}

fn names_file_of(line: &[u8], slot: &str) -> bool {
    let key = line.split(|byte| *byte == b'=').next().unwrap_or_default();
    let key = key.trim_ascii().to_ascii_lowercase();
    key == format!("{slot}.filename").to_ascii_lowercase().as_bytes()
}

/// A UUID as VMware spells it: `56 4d 1f 3a 77 20 4c 01-9d 5e 0a 6b 2c 44 81 f0`.
pub fn vmx_uuid(uuid: &str) -> String {
    let digits: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let bytes: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
    bytes.chunks(8).map(|half| half.join(" ")).collect::<Vec<_>>().join("-")
}

/// A value with what the syntax needs escaped as `|` and two hex digits.
pub fn vmx_value(value: &str) -> String {
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

    #[test]
    fn only_the_named_lines_change() {
        let vmx = b".encoding = \"UTF-8\"\r\ndisplayName = \"caf\xe9\"\r\n SCSI0:0.filename= \"a-000001.vmdk\"\r\nscsi0:10.fileName = \"b\"";
        let disks = [("scsi0:0".to_owned(), "a \"new\".vmdk".to_owned())];
        let expected = b".encoding = \"UTF-8\"\r\ndisplayName = \"caf\xe9\"\r\nscsi0:0.fileName = \"a |22new|22.vmdk\"\r\nscsi0:10.fileName = \"b\"";
        assert_eq!(vmx_with_disks(vmx, &disks), expected);
    }
}
