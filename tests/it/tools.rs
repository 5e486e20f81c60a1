//! Programs that make partition tables, filesystems and volumes in files, and those that judge them. A missing tool is a
//! failed test.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `tool` of Debian's `package` in `folder`, with `input`; fails with what it said, or gives what it printed.
#[track_caller]
pub fn run_with(tool: &str, package: &str, folder: &Path, args: &[&str], input: &str) -> String {
    let (output, said) = attempt(tool, package, folder, args, input);
    assert!(said.is_ok(), "{tool} {args:?}: {}", said.unwrap_err());
    output
}

/// The same without input.
#[track_caller]
pub fn run(tool: &str, package: &str, folder: &Path, args: &[&str]) -> String {
    run_with(tool, package, folder, args, "")
}

/// What it printed, and what it complained about if it failed.
#[track_caller]
fn attempt(tool: &str, package: &str, folder: &Path, args: &[&str], input: &str) -> (String, Result<(), String>) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(tool);
    // The tools' own words, dates and seeds must not depend on where the tests run.
    command.current_dir(folder).args(args).env("PATH", path).env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|err| panic!("{tool} is needed by this test (package {package}): {err}"));
    // A tool that does not read its input is fine.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (printed, if output.status.success() { Ok(()) } else { Err(said) })
}

/// A file of zeros.
pub fn blank(folder: &Path, name: &str, len: u64) {
    std::fs::File::create(folder.join(name)).unwrap().set_len(len).unwrap();
}

/// What `blkid` finds out about an image; empty if nothing.
#[track_caller]
pub fn blkid(folder: &Path, image: &str) -> BTreeMap<String, String> {
    // Exit code 2 means that nothing was found.
    let (printed, _) = attempt("blkid", "util-linux", folder, &["-p", "-o", "udev", image], "");
    let pairs = printed.lines().filter_map(|line| line.strip_prefix("ID_FS_")?.split_once('='));
    let mut found: BTreeMap<String, String> = pairs.map(|(key, value)| (key.to_string(), value.to_string())).collect();
    // In the plain forms of label and UUID characters are replaced.
    for key in ["LABEL", "UUID"] {
        if let Some(encoded) = found.remove(&format!("{key}_ENC")) {
            found.insert(key.to_string(), decoded(&encoded));
        }
    }
    found
}

/// Text with `\x20` for some of its bytes.
fn decoded(text: &str) -> String {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(code, 16).unwrap());
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).unwrap()
}
