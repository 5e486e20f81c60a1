//! qemu-img and qemu-io: makers of fixtures and judges of what an image contains. A missing tool is a failed test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs `tool` in `folder`; fails with what it said.
#[track_caller]
pub fn run(tool: &str, folder: &Path, args: &[&str]) {
    let output = Command::new(tool).current_dir(folder).args(args).output();
    let output = output.unwrap_or_else(|err| panic!("{tool} is needed by this test (package qemu-utils): {err}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args:?}: {said}");
}

/// `qemu-img ARGS` in `folder`.
#[track_caller]
pub fn img(folder: &Path, args: &[&str]) {
    run("qemu-img", folder, args);
}

/// Writes into `image` with qemu-io commands such as `write -P 7 0 64k`.
#[track_caller]
pub fn write(folder: &Path, image: &str, format: &str, commands: &[String]) {
    let mut args = vec!["-f", format];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(image);
    run("qemu-io", folder, &args);
}

/// The guest's bytes of the VMDK `image` and its chain, as qemu-img reads them.
#[track_caller]
pub fn content(folder: &Path, image: &str) -> Vec<u8> {
    let raw = raw_copy(folder, image);
    let content = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    content
}

/// The guest's bytes of the qcow2 `image` and its chain; `options` choose a snapshot (`-l snapshot.name=NAME`).
#[track_caller]
pub fn qcow2_content(folder: &Path, image: &str, options: &[&str]) -> Vec<u8> {
    img(folder, &[&["convert", "-f", "qcow2", "-O", "raw"], options, &[image, "judge.raw"]].concat());
    let content = std::fs::read(folder.join("judge.raw")).unwrap();
    std::fs::remove_file(folder.join("judge.raw")).unwrap();
    content
}

/// The same as a sparse file.
#[track_caller]
pub fn raw_copy(folder: &Path, image: &str) -> PathBuf {
    img(folder, &["convert", "-f", "vmdk", "-O", "raw", image, "judge.raw"]);
    folder.join("judge.raw")
}

/// The guest's bytes of `image`, which is in that format, as qemu-img reads them.
#[track_caller]
pub fn content_as(folder: &Path, image: &str, format: &str) -> Vec<u8> {
    img(folder, &["convert", "-f", format, "-O", "raw", image, "judge.raw"]);
    let raw = folder.join("judge.raw");
    let content = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    content
}
