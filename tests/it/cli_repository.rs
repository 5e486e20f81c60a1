//! Keys, places and what is found there: every way not to open a repository has its exit code and its hint.

use crate::cli::{Stage, text};

const PASSWORD: &str = "ABBILD_PASSWORD";

#[test]
fn a_repository_with_a_passphrase() {
    let stage = Stage::new();
    let here = ["--repo", "repo"];
    let with = |password: &str, arguments: &[&str]| stage.run_with(PASSWORD, password, &[arguments, &here].concat());
    with("right", &["init", "--label", "first"]).ok();
    with("right", &["backup", "web1"]).ok();
    let run = with("wrong", &["list"]).ended(12);
    assert_eq!(
        stage.redacted(&run.stderr),
        "error: the passphrase opens none of the 1 key slots of DIR/repo\n  hint: see which keys open it: abbild key list\n"
    );
    let error = with("wrong", &["list", "--json"]).ended(12).json();
    assert_eq!(error["error"]["exit_code"], 12, "{error}");
    stage.run(&["list", "--repo", "repo"]).ended(2).said("ABBILD_PASSWORD_COMMAND");

    std::fs::write(stage.path("password"), "right\nsecond line\n").unwrap();
    stage.run_with("ABBILD_PASSWORD_FILE", "password", &["list", "--repo", "repo"]).ok();
    stage.run_with("ABBILD_PASSWORD_COMMAND", "printf 'right\\n'", &["list", "--repo", "repo"]).ok();
    stage.run_with("ABBILD_PASSWORD_COMMAND", "exit 7", &["list", "--repo", "repo"]).ended(1).said("exit status: 7");
    stage.run_with("ABBILD_PASSWORD_COMMAND", "true", &["list", "--repo", "repo"]).ended(1);

    // A second key; the first goes; the passphrase changes.
    with("right", &["key", "add", "--new-key-file", "key", "--label", "cron"]).ok();
    stage.run(&["list", "--repo", "repo", "--key-file", "key"]).ok();
    let slots = stage.run(&["key", "list", "--json", "--repo", "repo"]).ok().json();
    let slots: Vec<_> = slots["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (text(s, "kind").to_owned(), text(s, "label").to_owned(), text(s, "slot").to_owned()))
        .collect();
    assert_eq!(slots.len(), 2, "{slots:?}");
    let first = &slots.iter().find(|(kind, label, _)| kind == "passphrase" && label == "first").unwrap().2;
    with("right", &["key", "remove", first]).ended(1).said("opened with it just now");
    std::fs::write(stage.path("new"), "better\n").unwrap();
    with("right", &["key", "passwd", "--new-password-file", "new"]).ok();
    with("right", &["list"]).ended(12);
    with("better", &["list"]).ok();
    let by_key = ["--repo", "repo", "--key-file", "key"];
    stage
        .run(&[&["key", "passwd", "--new-password-file", "new"][..], &by_key].concat())
        .ended(2)
        .said("abbild key add --passphrase");
    let listed = stage.run(&["key", "list", "--repo", "repo"]).ok().stdout;
    let slot = listed.lines().find(|line| line.contains("passphrase")).unwrap().split(' ').next().unwrap().to_owned();
    stage.run(&[&["key", "remove", &slot][..], &by_key].concat()).ok();
    with("better", &["list"]).ended(12);
    stage.run(&[&["key", "remove", "ffff"][..], &by_key].concat()).ended(1).said("there is no such slot");
    // An exported key is the key.
    let text = stage.run(&[&["key", "export"][..], &by_key].concat()).ok().stdout;
    std::fs::write(stage.path("typed"), text).unwrap();
    stage.run(&["list", "--repo", "repo", "--key-file", "typed"]).ok();
}

#[test]
fn a_key_exported_with_a_passphrase_opens_beside_it() {
    let stage = Stage::empty();
    stage.run_with(PASSWORD, "p", &["init", "--repo", "repo"]).ok();
    stage.run_with(PASSWORD, "p", &["key", "export", "--to", "paper", "--repo", "repo"]).ok();
    stage.run(&["list", "--repo", "repo", "--key-file", "paper"]).ok();
    stage.run_with(PASSWORD, "p", &["list", "--repo", "repo"]).ok();
}

#[test]
fn a_new_key_opens_all_and_the_old_ones_nothing() {
    let stage = Stage::new();
    let before = stage.backup("base");
    stage.run(&["key", "add", "--new-key-file", "laptop", "--label", "laptop"]).ok();
    let run = stage.run(&["key", "rotate", "--new-key-file", "fresh"]).ended(2).said("--yes");
    assert!(run.stderr.contains("laptop") && !stage.path("fresh").exists(), "{run:?}");
    let run = stage.run(&["key", "rotate", "--new-key-file", "fresh", "--yes", "--json"]).ok().json();
    assert_eq!((&run["epoch"], run["removed"].as_array().unwrap().len()), (&1.into(), 2));
    for old in [&["list"][..], &["list", "--key-file", "laptop"], &["backup", "web1"]] {
        stage.run(old).ended(12);
    }
    // Both epochs are read, the new one is written, and a key that is added opens both.
    let fresh = ["--key-file", "fresh"];
    stage.run(&[&["backup", "web1", "--full"][..], &fresh].concat()).ok();
    stage.run(&[&["key", "add", "--new-key-file", "second"][..], &fresh].concat()).ok();
    let second = ["--key-file", "second"];
    stage.run(&[&["check", "--read-data"][..], &second].concat()).ok();
    let listed = stage.run(&[&["list", "--json"][..], &second].concat()).ok().json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 2, "{listed} {before:?}");
    stage.run(&[&["restore", "web1@latest", "--disk", "0", "--to", "new.raw"][..], &second].concat()).ok();
    stage.run(&[&["forget", "--keep-last", "1"][..], &second].concat()).ok();
    stage.run(&[&["prune", "--max-unused", "0"][..], &second].concat()).ok();
    stage.run(&[&["check", "--read-data"][..], &fresh].concat()).ok();
}

#[test]
fn a_folder_that_was_named_is_never_made_unasked() {
    let stage = Stage::new();
    for arguments in [&["backup", "web1"][..], &["list"], &["stats"], &["check"], &["show", "x"], &["key", "list"]] {
        let run = stage.run(&[arguments, &["--repo", "mount"]].concat()).ended(10);
        assert_eq!(
            run.stderr,
            "error: mount holds no repository\n  hint: check the name, or create one: abbild init --repo mount\n"
        );
    }
    assert!(!stage.path("mount").exists());
    std::fs::create_dir(stage.path("mount")).unwrap();
    stage.run_with("ABBILD_REPOSITORY", "mount", &["backup", "web1"]).ended(10);
    assert_eq!(std::fs::read_dir(stage.path("mount")).unwrap().count(), 0);
    stage.run(&["list"]).ended(10);
    stage.run(&["list", "--repo", "s3://bucket"]).ended(2);

    stage.run(&["init", "--repo", "mount"]).ended(2);
    stage.run(&["init", "--repo", "mount", "--key-file", "keys/new"]).ok().said("made the key file keys/new");
    stage.run(&["backup", "web1", "--repo", "mount", "--key-file", "keys/new"]).ok();
    stage.run(&["init", "--repo", "mount", "--key-file", "keys/new"]).ended(1).said("is not empty");
    stage.run(&["init", "--repo", "web1", "--key-file", "keys/new"]).ended(1).said("is not empty");
}

#[test]
fn a_key_that_is_not_one() {
    let stage = Stage::new();
    stage.backup("base");
    std::fs::write(stage.path("bad"), "abbild key file 1\n00\n").unwrap();
    stage.run(&["list", "--key-file", "bad"]).ended(12).said("expected 64 hex digits");
    stage.run(&["list", "--key-file", "none"]).ended(12).said("--key-file or ABBILD_KEY_FILE");
    stage.run(&["init", "--repo", "other", "--key-file", "other-key"]).ok();
    stage.run(&["list", "--key-file", "other-key"]).ended(12);
}

#[test]
fn damage_is_found_named_and_has_its_code() {
    let stage = Stage::new();
    stage.backup("current");
    stage.run(&["check", "--read-data"]).ok();
    let pack = stage.objects("packs").into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let sound = std::fs::read(&pack).unwrap();
    let mut damaged = sound.clone();
    damaged[4000] ^= 1;
    overwrite(&pack, &damaged);
    let name = pack.file_name().unwrap().to_str().unwrap();
    stage.run(&["check"]).ok(); // no data read, as it says
    let run = stage.run(&["check", "--read-data", "--json"]).ended(13).said("the repository is damaged: 1 fault");
    assert!(run.json()["faults"][0]["what"].as_str().unwrap().contains(name), "{run:?}");
    stage.run(&["restore", "web1", "--disk", "0", "--to", "x.raw"]).ended(13).said("abbild check --read-data");
    assert!(!stage.path("x.raw").exists());
    // A pack that is gone.
    std::fs::remove_file(&pack).unwrap();
    stage.run(&["check"]).ended(13);
    let run = stage.run(&["restore", "web1", "--disk", "0", "--to", "x.raw"]).ended(13);
    assert!(!stage.path("x.raw").exists(), "{run:?}");
    // It is back: nothing is left of the trouble.
    overwrite(&pack, &sound);
    stage.run(&["index", "rebuild"]).ok();
    stage.run(&["check", "--read-data=100%"]).ok();
    stage.run(&["restore", "web1", "--disk", "0", "--to", "x.raw"]).ok();
    for bad in ["--read-data=0", "--read-data=101%", "--read-data=x"] {
        stage.run(&["check", bad]).ended(2);
    }
}

fn overwrite(path: &std::path::Path, bytes: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_manifest_that_cannot_be_read_hides_no_other() {
    let stage = Stage::new();
    stage.backup("base");
    stage.backup("current");
    let manifests = stage.objects("manifests");
    let mut bytes = std::fs::read(&manifests[0]).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    overwrite(&manifests[0], &bytes);
    // This host has read it before, and would not read it for a list again.
    std::fs::remove_dir_all(stage.path("cache")).unwrap();
    let run = stage.run(&["list", "--json"]).ended(13).said("cannot be read");
    let listed = run.json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["unreadable"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn the_cache_can_be_deleted_or_put_elsewhere() {
    let stage = Stage::new();
    stage.backup("current");
    std::fs::remove_dir_all(stage.path("cache")).unwrap();
    stage.run(&["restore", "web1", "--disk", "0", "--to", "x.raw", "--cache-dir", "elsewhere"]).ok();
    assert!(stage.path("elsewhere/index.sqlite").exists() && !stage.path("cache").exists());
    let report = stage.run(&["index", "rebuild", "--json"]).ok().json();
    assert!(report["packs"].as_u64().unwrap() >= 2, "{report}");
}

#[test]
fn what_there_is_in_text_and_json() {
    let stage = Stage::new();
    let backup = stage.backup("after upgrade");
    let id = text(&backup, "backup");
    let listed = stage.run(&["list", "web1"]).ok().stdout;
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "BACKUP", "LEVEL", "SIZE", "STORED"]);
    assert_eq!(rows[1][..6], [&id[..8], text(&backup, "name"), "after", "upgrade", "100.0", "MiB"]);
    assert!(listed.lines().all(|line| line.len() <= 80), "{listed}");
    stage.run(&["list", "web2"]).ended(1).said("web1@latest");

    let shown = stage.run(&["show", id]).ok().stdout;
    for line in [
        "level       after upgrade\n",
        "0     scsi0:0  100.0 MiB  web1-000001.vmdk  vmdk monolithicSparse\n",
        "web1.vmx",
    ] {
        assert!(shown.contains(line), "{line:?} is not in\n{shown}");
    }
    let shown = stage.run(&["show", id, "--json"]).ok().json();
    assert_eq!((text(&shown, "machine_kind"), text(&shown, "backup")), ("vmware", id));

    let statistics = stage.run(&["stats", "--json"]).ok().json();
    assert_eq!((&statistics["backups"], &statistics["logical"]), (&1.into(), &(100 << 20).into()), "{statistics}");
    assert!(stage.run(&["stats"]).ok().stdout.starts_with("1 backup of 1 machine\n"));

    let report = stage.run(&["check", "--json"]).ok().json();
    assert_eq!((&report["backups"], &report["packs_read"]), (&1.into(), &0.into()), "{report}");
    assert!(stage.run(&["check"]).ok().stdout.starts_with("no fault found: 1 backup, "));

    let version = stage.run(&["version", "--json"]).ok().json();
    assert_eq!(text(&version, "version"), env!("CARGO_PKG_VERSION"));
}

#[test]
fn an_image_is_described_without_a_repository() {
    let stage = Stage::new();
    let run = stage.run(&["inspect", "web1/web1-000002.vmdk", "--map"]).ok();
    assert!(run.stdout.contains("disk       100.0 MiB (104857600 bytes)\n"), "{run:?}");
    assert!(run.stdout.contains("    2  web1.vmdk         4.5 MiB"), "{run:?}");
    let lines = stage.run(&["inspect", "web1/web1-000002.vmdk", "--map", "--json"]).ok().json_lines();
    assert_eq!(lines[0]["layers"].as_array().unwrap().len(), 3);
    let mapped: u64 = lines[1..].iter().map(|run| run["len"].as_u64().unwrap()).sum();
    assert_eq!(mapped, 100 << 20);
    assert!(!stage.path("cache").exists() && !stage.path("data").exists());

    std::fs::remove_file(stage.path("web1/web1.vmdk")).unwrap();
    let run = stage.run(&["inspect", "web1/web1-000002.vmdk", "--json"]).ended(13).said("web1.vmdk is missing");
    assert_eq!(run.json()["faults"].as_array().unwrap().len(), 1, "{run:?}");
    stage.run(&["inspect", "nothing"]).ended(1);
}
