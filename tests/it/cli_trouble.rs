//! What goes wrong around a run: the user stops it, the medium is full, nobody reads what it prints.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cli::{Stage, expected_sum, sum};

/// Bytes that neither repeat nor compress, so that a backup of them takes its time.
fn incompressible(path: &Path, bytes: usize) {
    let mut data = vec![0; bytes];
    blake3::Hasher::new().update(path.as_os_str().as_encoded_bytes()).finalize_xof().fill(&mut data);
    std::fs::write(path, data).unwrap();
}

fn signal(child: &Child, name: &str) {
    let status =
        Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill is needed by this test");
    assert!(status.success());
}

#[test]
fn ctrl_c_ends_a_backup_within_a_second_and_the_next_run_goes_on() {
    for name in ["-INT", "-TERM"] {
        let stage = Stage::empty();
        incompressible(&stage.path("disk.img"), 512 << 20);
        stage.run(&["init"]).ok();
        let mut command = stage.command(&["backup", "disk.img", "-v"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Something is stored: the backup is at work.
        let packs = stage.path("data/abbild/repository/packs");
        let began = Instant::now();
        while !packs.exists() || bytes_below(&packs) < 8 << 20 {
            assert!(began.elapsed() < Duration::from_secs(60), "no pack came");
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
            std::thread::sleep(Duration::from_millis(5));
        }
        let stopped = Instant::now();
        signal(&child, name);
        let status = child.wait().unwrap();
        let took = stopped.elapsed();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((status.code(), status.signal()), (Some(130), None), "{said}");
        assert!(took < Duration::from_secs(1), "{name}: {took:?}");
        assert!(said.contains("cause: interrupted\n  hint: nothing is lost: the next run goes on"), "{said}");

        assert_eq!(stage.run(&["list", "--json"]).ok().json()["backups"].as_array().unwrap().len(), 0);
        let backup = stage.run(&["backup", "disk.img", "--json"]).ok().json();
        assert_eq!(backup["size"], 512 << 20);
        stage.run(&["check"]).ok();
    }
}

#[test]
fn ctrl_c_ends_a_restore_within_a_second_and_leaves_no_half_of_a_disk() {
    let stage = Stage::empty();
    incompressible(&stage.path("disk.img"), 512 << 20);
    stage.run(&["backup", "disk.img"]).ok();
    let out = stage.path("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("disk.raw"), "precious").unwrap();
    let mut command = stage.command(&["restore", "disk", "--disk", "0", "--to", "out/disk.raw", "--overwrite"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while std::fs::read_dir(&out).unwrap().count() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "no file came");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(2));
    }
    let stopped = Instant::now();
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}", stopped.elapsed());
    assert!(said.contains("hint: the target is as it was before"), "{said}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    assert_eq!(std::fs::read(out.join("disk.raw")).unwrap(), b"precious");
}

fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(
            |entry| {
                if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().map_or(0, |m| m.len()) }
            },
        )
        .sum()
}

/// A small filesystem in memory, unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: PathBuf, size: &str) -> Tmpfs {
        std::fs::create_dir_all(&path).unwrap();
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path).status();
        assert!(status.expect("mount is needed by this test").success(), "this test mounts a tmpfs: run it as root");
        Tmpfs(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_repository_or_target_is_said_to_be_full() {
    let stage = Stage::new();
    let full = Tmpfs::mount(stage.path("full"), "24m");
    incompressible(&stage.path("disk.img"), 64 << 20);
    std::fs::write(stage.path("later.img"), [1; 512]).unwrap();
    let there = ["--repo", "full/repo", "--key-file", "key"];
    stage.run(&[&["init"][..], &there].concat()).ok();
    let run = stage.run(&[&["backup", "web1", "disk.img", "later.img", "--json"][..], &there].concat()).ended(14);
    assert!(run.stderr.contains("hint: make room there") && run.stderr.contains("1 machine not backed up"), "{run:?}");
    let lines = run.json_lines();
    assert_eq!((lines.len(), &lines[1]["error"]["exit_code"]), (2, &14.into()), "{run:?}");
    // What was there before is whole, and the failed run has left no backup.
    stage.run(&[&["check", "--read-data"][..], &there].concat());
    let listed = stage.run(&[&["list", "--json"][..], &there].concat()).ok().json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1, "{listed}");
    stage.run(&[&["restore", "web1", "--disk", "0", "--to", "web1.raw"][..], &there].concat()).ok();
    assert_eq!(sum(&stage.path("web1.raw")), expected_sum("current"));
    drop(full);

    stage.backup("current");
    let full = Tmpfs::mount(stage.path("full"), "1m");
    stage.run(&["restore", "web1", "--disk", "0", "--to", "full/web1.raw"]).ended(14).said("make room there");
    assert_eq!(std::fs::read_dir(stage.path("full")).unwrap().count(), 0, "a part of a file was left");
    drop(full);
}

#[test]
fn a_pipe_that_nobody_reads_is_no_error_and_a_full_stdout_is_one() {
    let stage = Stage::new();
    for arguments in
        [&["backup", "web1"][..], &["list"], &["show", "web1"], &["inspect", "web1/web1.vmdk", "--map"], &["--help"]]
    {
        let mut child = stage.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take()); // closed before anything is written
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.contains("panicked")), (Some(0), false), "{arguments:?}: {said}");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = stage.command(&["list"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(14), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn wrong_usage_is_told_as_json_too() {
    let stage = Stage::empty();
    let run = stage.run(&["list", "--json", "--nonsense"]).ended(2);
    assert_eq!(run.json()["error"]["exit_code"], 2);
    assert!(run.stderr.contains("--nonsense"), "{run:?}");
    stage.run(&[]).ended(2);
    stage.run(&["backup"]).ended(2);
    stage.run(&["--version"]).ok();
    stage.run(&["-q", "-v", "list"]).ended(2);
}

#[test]
fn colours_are_for_terminals_or_on_request() {
    let stage = Stage::empty();
    let plain = stage.run(&["list", "--repo", "x"]).ended(10);
    assert!(!plain.stderr.contains('\x1b'), "{plain:?}");
    let coloured = stage.run(&["list", "--repo", "x", "--color", "always"]).ended(10);
    assert!(coloured.stderr.starts_with("\x1b["), "{coloured:?}");
}

#[test]
fn names_from_a_machine_write_no_escape_sequences_to_the_terminal() {
    let stage = Stage::new();
    let vmsd = stage.path("web1/web1.vmsd");
    let text = std::fs::read_to_string(&vmsd).unwrap().replace("before upgrade", "evil|1B[2J");
    std::fs::write(&vmsd, text).unwrap();
    let backup = stage.run(&["backup", "web1", "--snapshot", "1"]).ok();
    let shown = [backup.stdout, stage.run(&["list"]).ok().stdout, stage.run(&["show", "web1"]).ok().stdout].concat();
    assert!(shown.contains("evil") && !shown.contains('\x1b'), "{shown:?}");
}
