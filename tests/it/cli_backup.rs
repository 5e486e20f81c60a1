//! The nightly backup: levels, several machines, what is said, and how it ends.

use crate::cli::{Stage, expected_sum, sum, text};

#[test]
fn every_level_comes_back_byte_for_byte() {
    let stage = Stage::new();
    for (level, sum_of, parent) in [
        ("base", "base", false),
        ("before upgrade", "base", true),
        ("after upgrade", "level1", true),
        ("current", "current", true),
    ] {
        let backup = stage.backup(level);
        assert_eq!((text(&backup, "machine"), text(&backup, "level")), ("web1", level));
        assert_eq!(backup["parent"].is_string(), parent, "{backup}");
        assert_eq!(backup["disks"][0]["slot"], "scsi0:0");
        assert_eq!(backup["size"], 100 << 20);
        assert_eq!(backup["warnings"].as_array().unwrap().len(), 0, "{backup}");
        assert_eq!(backup["notes"][0], "ide1:0: skipped: a CD-ROM drive (cdrom-image)");
        let raw = format!("{sum_of}-{}.raw", level.len());
        stage.run(&["restore", text(&backup, "backup"), "--disk", "0", "--to", &raw]).ok();
        assert_eq!(sum(&stage.path(&raw)), expected_sum(sum_of), "{level}");
    }
    // The same again costs next to nothing, and says so.
    let again = stage.backup("current");
    assert_eq!((again["read"].as_u64(), again["new"].as_u64()), (Some(0), Some(0)), "{again}");
    let full = stage.run(&["backup", "web1", "--full", "--json"]).ok().json();
    assert!(full["read"].as_u64().unwrap() > 4 << 20, "{full}");
}

#[test]
fn a_default_repository_that_is_gone_is_not_made_anew() {
    let stage = Stage::new();
    stage.backup("base");
    let repository = stage.path("data/abbild/repository");
    assert!(repository.join("config").exists(), "the stage's default repository is where this story thinks");
    std::fs::rename(&repository, stage.path("unmounted")).unwrap();
    stage.run(&["backup", "web1"]).ended(10).said("is a disk not mounted?");
    assert!(!repository.exists(), "nothing was made in its place");
    std::fs::rename(stage.path("unmounted"), &repository).unwrap();
    stage.run(&["backup", "web1"]).ok();
}

#[test]
fn the_first_backup_makes_the_default_repository_and_says_what_to_keep() {
    let stage = Stage::new();
    let run = stage.run(&["backup", "web1"]).ok();
    assert_eq!(
        stage.redacted(&run.stderr),
        "made the key file DIR/config/abbild/key\n\
         created the repository DIR/data/abbild/repository\n\
         only the key file DIR/config/abbild/key opens it: without it all backups are lost\n\
         save it now, on paper or elsewhere: abbild key export\n"
    );
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines[0].starts_with("web1@20") && lines[0].contains(": backup "), "{run:?}");
    assert!(lines[1].starts_with("  100.0 MiB in 1 disk: "), "{run:?}");
    let quiet = stage.run(&["backup", "web1", "-q"]).ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let told = stage.run(&["backup", "web1", "-v"]).ok();
    for line in ["web1: note: ide1:0: skipped: a CD-ROM drive", "web1: scsi0:0: 100.0 MiB\n", "web1: scsi0:0: "] {
        assert!(told.stderr.contains(line), "{line} is not in {told:?}");
    }
}

#[test]
fn a_mistyped_machine_has_no_effects() {
    let stage = Stage::new();
    let run = stage.run(&["backup", "wbe1"]).ended(1);
    assert_eq!(
        stage.redacted(&run.stderr),
        "error: cannot back up wbe1\n  cause: cannot read wbe1\n  cause: No such file or directory (os error 2)\n  \
         hint: name a machine's folder or definition, a disk image or a block device\n"
    );
    assert!(!stage.path("data").exists() && !stage.path("config").exists());
}

#[test]
fn one_machine_that_fails_does_not_stop_the_others() {
    let stage = Stage::new();
    std::fs::create_dir(stage.path("empty")).unwrap();
    std::fs::write(stage.path("disk.img"), vec![7; 1 << 20]).unwrap();
    let run = stage.run(&["backup", "empty", "web1", "nothing", "disk.img", "--json"]).ended(3);
    let lines = run.json_lines();
    let kinds: Vec<bool> = lines.iter().map(|line| line["error"].is_object()).collect();
    assert_eq!(kinds, [true, false, true, false], "{run:?}");
    assert_eq!(lines[0]["machine"], "empty");
    assert_eq!(lines[0]["error"]["exit_code"], 1);
    assert_eq!(text(&lines[1], "machine"), "web1");
    assert!(run.stderr.contains("error: cannot back up empty"), "{run:?}");
    // Only failures: the code says failed, not warnings.
    stage.run(&["backup", "empty", "nothing"]).ended(1);
    let listed = stage.run(&["list", "--json"]).ok().json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 2, "{listed}");
}

#[test]
fn a_snapshot_that_is_not_there_names_those_that_are() {
    let stage = Stage::new();
    let run = stage.run(&["backup", "web1", "--snapshot", "yesterday", "--json"]).ended(1);
    let error = &run.json()["error"];
    assert_eq!(text(error, "message"), "web1 was not backed up");
    assert!(error["causes"][0].as_str().unwrap().contains("\"before upgrade\" (number 1)"), "{error}");
    assert!(text(error, "hint").contains("--snapshot"), "{error}");
    stage.run(&["backup", "web1", "--snapshot", ""]).ended(2);
}

#[test]
fn a_running_machine_is_refused_with_the_ways_out() {
    let stage = Stage::new();
    std::fs::create_dir(stage.path("web1/web1.vmx.lck")).unwrap();
    std::fs::write(stage.path("web1/web1.vmx.lck/M1.lck"), "").unwrap();
    let run = stage.run(&["backup", "web1"]).ended(1).said("web1 is in use");
    assert!(run.stderr.contains("--snapshot \"after upgrade\" | \"before upgrade\""), "{run:?}");
    stage.run(&["backup", "web1", "--snapshot", "after upgrade"]).ok();
}

#[test]
fn warnings_are_in_the_text_in_the_json_and_in_the_exit_code() {
    let stage = Stage::new();
    let vmx = stage.path("web1/web1.vmx");
    let raw = "scsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"r.vmdk\"\nscsi0:1.deviceType = \"rawDisk\"\n";
    std::fs::write(&vmx, std::fs::read_to_string(&vmx).unwrap() + raw).unwrap();
    let run =
        stage.run(&["backup", "web1", "--json", "-q"]).ended(3).said("warning: web1: scsi0:1: skipped: a raw device");
    assert_eq!(run.stderr.matches("warning:").count(), 1, "{run:?}");
    assert!(run.json()["warnings"][0].as_str().unwrap().contains("a raw device"));
    assert!(stage.run(&["list"]).ok().stdout.contains(" !"));
}

#[test]
fn an_image_whose_guest_wrote_a_foreign_magic_is_read_as_raw_on_request() {
    let stage = Stage::empty();
    let mut bytes = vec![3; 1 << 20];
    bytes[..4].copy_from_slice(b"KDMV");
    std::fs::write(stage.path("disk.img"), &bytes).unwrap();
    stage.run(&["backup", "disk.img"]).ended(1).said("back it up with --raw");
    stage.run(&["backup", "disk.img", "--raw"]).ok();
    stage.run(&["restore", "disk", "--disk", "disk0", "--to", "back.img"]).ok();
    assert!(std::fs::read(stage.path("back.img")).unwrap() == bytes);
    let stage = Stage::new();
    stage.run(&["backup", "web1", "--raw"]).ended(2).said("--raw is for image files");
}
