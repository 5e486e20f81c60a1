//! Backups as folders, through the kernel: what a mount shows is what the guest's disks held.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::cli::Stage;
use crate::guest_files::awkward;
use crate::guest_tree::{Field, compare, of_folder, run};
use crate::qemu;

/// Ends a mount whatever becomes of the test.
struct Mounted<'s> {
    stage: &'s Stage,
    place: PathBuf,
}

impl<'s> Mounted<'s> {
    fn new(stage: &'s Stage, backups: &[&str]) -> Mounted<'s> {
        let place = stage.path("mnt");
        fs::create_dir_all(&place).unwrap();
        stage.run(&[&["mount"], backups, &["mnt"]].concat()).ok();
        Mounted { stage, place }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let ended = self.stage.run(&["umount", "mnt"]);
        if ended.code != 0 {
            self.stage.run(&["umount", "--lazy", "mnt"]);
        }
        assert!(ended.code == 0 || std::thread::panicking(), "{ended:?}");
    }
}

#[test]
fn a_mount_shows_what_the_kernel_shows_of_the_image() {
    let stage = Stage::empty();
    let expected = awkward(&stage, &["mkfs.ext4", "-q"], "ro,noload");
    stage.run(&["backup", "vm.img"]).ok();
    let mount = Mounted::new(&stage, &["vm@latest"]);
    // What the kernel makes up for a mount of its own; birth times are nothing FUSE can tell.
    let left_out = [Field::Created, Field::DirectorySize];
    compare("a mount", &expected, &of_folder(&mount.place.join("volumes/disk0")), &left_out);

    let mut disk = fs::File::open(mount.place.join("disks/disk0.raw")).unwrap();
    let mut image = fs::File::open(stage.path("vm.img")).unwrap();
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = image.read(&mut theirs).unwrap();
        disk.read_exact(&mut ours[..len]).unwrap();
        assert!(ours[..len] == theirs[..len]);
        if len == 0 {
            break;
        }
    }
    qemu::img(&mount.place.join("disks"), &["compare", "-f", "vmdk", "-F", "raw", "disk0.vmdk", "disk0.raw"]);
    let report = stage.run(&["inspect", "mnt/disks/disk0.vmdk", "--json"]).ok().json();
    assert_eq!(report["virtual_size"], 400 << 20, "{report}");
    assert!(fs::write(mount.place.join("volumes/disk0/new"), "x").is_err(), "nothing can be written");
}

#[test]
fn all_backups_are_there_by_machine_and_time() {
    let stage = Stage::new();
    stage.backup("base");
    stage.backup("current");
    let mount = Mounted::new(&stage, &[]);
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(mount.place.join(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["web1"]);
    let backups = names("web1");
    assert_eq!((backups.len(), backups[2].as_str()), (3, "latest"), "{backups:?}");
    assert_eq!(fs::read_link(mount.place.join("web1/latest")).unwrap().to_str(), Some(backups[1].as_str()));
    assert_eq!(names("web1/latest"), ["definition", "disks", "files", "volumes"]);
    let vmx = fs::read(mount.place.join("web1/latest/definition/web1.vmx")).unwrap();
    assert_eq!(vmx, fs::read(stage.path("web1/web1.vmx")).unwrap());
    assert!(fs::metadata(mount.place.join("web1/latest/disks/disk0.raw")).unwrap().len() > 1 << 20);
}

#[test]
fn more_guests_than_are_kept_open_stay_readable() {
    let stage = Stage::empty();
    let names: Vec<String> = (0..7).map(|number| format!("vm{number}")).collect();
    for name in &names {
        let folder = stage.path("root");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("name"), name).unwrap();
        let image = stage.path(&format!("{name}.img"));
        fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        run("mke2fs", &["-q", "-F", "-d", folder.to_str().unwrap(), image.to_str().unwrap()]);
        stage.run(&["backup", &format!("{name}.img")]).ok();
    }
    let mount = Mounted::new(&stage, &[]);
    let open = |name: &String| {
        let place = mount.place.join(name).join("latest/files/disk0");
        (place.join("name"), fs::File::open(place.join("name")).unwrap(), name.clone())
    };
    let files: Vec<_> = names.iter().map(open).collect();
    for _ in 0..2 {
        for (path, file, name) in &files {
            assert_eq!(fs::read_to_string(path).unwrap(), *name);
            assert_eq!(file.metadata().unwrap().len(), 3);
            let listed: Vec<_> =
                fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(listed.len(), 2, "{listed:?}");
        }
    }
}

#[test]
fn an_ordinary_user_mounts_reads_and_searches() {
    const USER: u32 = 65_534;
    assert!(rustix::process::geteuid().is_root(), "this story becomes another user: it needs root");
    let stage = Stage::new();
    // Where the program was built may be closed to others.
    let program = stage.path("abbild");
    fs::copy(env!("CARGO_BIN_EXE_abbild"), &program).unwrap();
    fs::create_dir(stage.path("mnt")).unwrap();
    run("chown", &["-R", "65534:65534", stage.path("").to_str().unwrap()]);
    run("chmod", &["755", stage.path("").to_str().unwrap()]);
    let as_user = |user: u32, mut command: Command| {
        let output = command.current_dir(stage.path("")).uid(user).gid(user).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let abbild = |arguments: &[&str]| {
        let (code, printed, said) = as_user(USER, stage.command_at(&program, arguments));
        assert_eq!(code, Some(0), "{arguments:?}: {printed}{said}");
    };
    let tool = |user: u32, line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        as_user(user, command)
    };
    abbild(&["backup", "web1"]);
    abbild(&["mount", "web1@latest", "mnt"]);
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/guest/files.current.sha256");
    fs::copy(list, stage.path("list")).unwrap();
    let expected = fs::read_to_string(list).unwrap().lines().count();
    let outcome = std::panic::catch_unwind(|| {
        let listed = tool(USER, "cd mnt/files && sha256sum --check --strict ../../list | grep -c OK$");
        assert_eq!(listed, (Some(0), format!("{expected}\n"), String::new()));
        let found = tool(USER, "find mnt/files -type f | wc -l");
        assert_eq!(found, (Some(0), format!("{expected}\n"), String::new()));
        let said = tool(USER, "grep -r '^telnet' mnt/files/etc | cut -f 1");
        assert_eq!(
            said,
            (Some(0), "mnt/files/etc/services:telnet\nmnt/files/etc/services:telnets\n".to_owned(), String::new())
        );
        // What is in a guest is nobody else's business.
        let (code, printed, said) = tool(65_533, "ls mnt/files");
        assert!(code != Some(0) && printed.is_empty() && said.contains("Permission denied"), "{printed}{said}");
    });
    abbild(&["umount", "mnt"]);
    outcome.unwrap();
}

#[test]
fn where_a_mount_would_hide_something_it_is_refused() {
    let stage = Stage::new();
    stage.backup("current");
    let repository = stage.path("data/abbild/repository");
    let inside = repository.join("packs");
    for place in [repository.as_path(), repository.parent().unwrap(), inside.as_path()] {
        stage.run(&["mount", place.to_str().unwrap()]).ended(2).said("would hide the repository");
    }
    stage.run(&["mount", "web1"]).ended(2).said("web1 is not empty");
    stage.run(&["mount", "nowhere"]).ended(1).said("cannot mount at nowhere");
    fs::create_dir(stage.path("free")).unwrap();
    stage.run(&["mount", "db9@latest", "free"]).ended(1).said("db9@latest");
    stage.run(&["umount", "free"]).ended(1).said("is no mount of abbild");
}
