//! Files in guests, by the command: listed, printed, copied out, searched, compared. What the kernel shows of a filesystem
//! is the judge of its copies, GNU tar that of archives.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use crate::cli::{Stage, text};
use crate::guest_tree::{self as tree, Field, Mount, Tree, compare, of_folder};
use crate::world::noise;

/// What a copy cannot have, or has only as its own filesystem sees it.
const OF_THE_PLACE: [Field; 5] = [Field::Changed, Field::Created, Field::Allocated, Field::Data, Field::DirectorySize];

/// An image with a new filesystem, filled with an awkward tree; and what the kernel shows of it.
pub fn awkward(stage: &Stage, make: &[&str], read_only: &str) -> Tree {
    let image = stage.path("vm.img");
    fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
    let (tool, options) = make.split_first().unwrap();
    tree::run(tool, &[options, &[image.to_str().unwrap()]].concat());
    let mount = Mount::new(&image, &stage.path("mount"), "rw");
    tree::fill(mount.path());
    // Names that want to be somewhere else, and links that lead there.
    for (name, target) in [("out", "../../../etc/passwd"), ("root", "/"), ("self", "."), ("up", "..")] {
        symlink(target, mount.path().join("links").join(name)).unwrap();
    }
    mount.unmount();
    let mount = Mount::new(&image, &stage.path("mount"), read_only);
    let mut seen = of_folder(mount.path());
    mount.unmount();
    for named in seen.values_mut() {
        // XFS shows ACLs twice to root.
        let mut node = (*named.node).clone();
        node.attributes.retain(|(name, _)| !name.starts_with(b"trusted.SGI_ACL_"));
        named.node = Rc::new(node);
    }
    seen
}

fn comes_out_as_it_went_in(make: &[&str], read_only: &str) {
    let stage = Stage::empty();
    let expected = awkward(&stage, make, read_only);
    stage.run(&["backup", "vm.img"]).ok();

    let run = stage.run(&["cp", "-r", "vm@latest:", "out", "--json"]).ok();
    let copied = run.json();
    assert_eq!(copied["not_kept"]["lost"], serde_json::json!({}), "{run:?}");
    compare("cp -r", &expected, &of_folder(&stage.path("out")), &OF_THE_PLACE);
    let sparse = fs::metadata(stage.path("out/beyond 4 GiB")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    let left: Vec<_> = fs::read_dir(stage.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.as_bytes().starts_with(b".abbild")), "{left:?}");

    let archive = fs::File::create(stage.path("vm.tar")).unwrap();
    let status = stage.command(&["cp", "--tar", "vm@latest:/"]).stdout(archive).status().unwrap();
    assert!(status.success());
    let out = stage.path("out");
    let tar = |action: &str, folder: &Path| {
        let kept = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-p", "-C"];
        let mut command = Command::new("tar");
        command.args(kept).arg(folder).args([action, "-f"]).arg(stage.path("vm.tar"));
        let output = command.output().expect("tar is needed by this test");
        assert!(output.status.success(), "tar {action}: {}", String::from_utf8_lossy(&output.stderr));
    };
    tar("--compare", &out);
    fs::create_dir(stage.path("unpacked")).unwrap();
    tar("--extract", &stage.path("unpacked"));
    // GNU tar: sockets are not in archives, times are those of content only, of links neither ACLs nor attributes, and the
    // entries of an ACL are put in order.
    let plain = |tree: &Tree| -> Tree {
        let socket = |named: &tree::Named| named.node.kind == abbild::guest::tree::NodeKind::Socket;
        let mut plain: Tree = tree
            .iter()
            .filter(|(_, named)| !socket(named))
            .map(|(name, named)| (name.clone(), named.clone()))
            .collect();
        for named in plain.values_mut() {
            let mut node = (*named.node).clone();
            for (_, list) in node.attributes.iter_mut().filter(|(name, _)| name.starts_with(b"system.posix_acl_")) {
                let mut entries: Vec<[u8; 8]> = list[4..].as_chunks().0.to_vec();
                entries.sort_unstable();
                list.truncate(4);
                list.extend(entries.concat());
            }
            named.node = Rc::new(node);
        }
        plain
    };
    let left_out = [&OF_THE_PLACE[..], &[Field::Accessed]].concat();
    compare("tar", &plain(&expected), &plain(&of_folder(&stage.path("unpacked"))), &left_out);

    let same = stage.run(&["diff", "vm@latest", "vm.img", "--content=all", "--json"]).ok().json_lines();
    let summary = &same.last().unwrap()["summary"];
    assert_eq!((same.len(), summary["changed"].as_u64()), (1, Some(0)), "{same:?}");
    let total = u64::try_from(expected.len()).unwrap();
    assert_eq!(summary["same"].as_u64(), Some(total));
    let found = stage.command(&["find", "vm@latest:", "-0"]).output().unwrap();
    assert!(found.status.success());
    let mut names: Vec<&[u8]> = found.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.iter_mut().for_each(|name| *name = name.strip_prefix(b"vm@latest:/").unwrap());
    names.sort_unstable();
    assert!(names.into_iter().eq(expected.keys().map(Vec::as_slice)), "find does not name what is there");
}

#[test]
fn a_whole_ext4_comes_out_as_it_went_in() {
    let make = ["mke2fs", "-q", "-F", "-t", "ext4", "-I", "256", "-N", "3000", "-E", "nodiscard"];
    comes_out_as_it_went_in(&make, "ro");
}

#[test]
fn a_whole_xfs_comes_out_as_it_went_in() {
    comes_out_as_it_went_in(&["mkfs.xfs", "-q", "-f"], "ro,norecovery");
}

/// A machine with two partitions: a system, and what it mounts at `/home`.
struct Guest {
    stage: Stage,
    image: PathBuf,
}

const TIME: &str = "2026-11-20T02:15:00Z";

impl Guest {
    fn new(more: impl Fn(&Path)) -> Guest {
        let stage = Stage::empty();
        let root = stage.path("root");
        for (path, content) in [
            (
                "etc/fstab",
                "LABEL=root / ext4 defaults\nLABEL=home /home ext4 defaults\n/dev/sr0 /media iso9660 noauto\n",
            ),
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n"),
            ("etc/group", "root:x:0:\nstaff:x:1000:\n"),
            ("etc/hostname", "web1\n"),
            ("home/hidden", "below the other volume\n"),
        ] {
            write(&root.join(path), content);
        }
        symlink("hostname", root.join("etc/name")).unwrap();
        more(&root);
        write(&stage.path("home/anna/letter"), "dear all\n");
        let chown = |path: &str| std::os::unix::fs::chown(stage.path(path), Some(1000), Some(1000)).unwrap();
        ["home/anna", "home/anna/letter"].into_iter().for_each(chown);
        let set = ["-exec", "touch", "-h", "-d", TIME, "{}", "+"];
        tree::run("find", &[&[root.to_str().unwrap(), stage.path("home").to_str().unwrap()], &set[..]].concat());
        let image = stage.path("web1.img");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        crate::tools::run_with(
            "sfdisk",
            "fdisk",
            &stage.path(""),
            &["-q", "web1.img"],
            "label: gpt\nsize=40M\nsize=20M\n",
        );
        for (label, megabyte, size) in [("root", 1, "40m"), ("home", 41, "20m")] {
            let folder = stage.path(label);
            let offset = format!("offset={}", megabyte << 20);
            let options = ["-q", "-F", "-t", "ext4", "-I", "256", "-b", "1024", "-L", label, "-E", &offset, "-d"];
            let place = [folder.to_str().unwrap(), image.to_str().unwrap(), size];
            tree::run("mke2fs", &[&options[..], &place].concat());
        }
        Guest { stage, image }
    }

    fn backed_up(self) -> Guest {
        self.stage.run(&["backup", "web1.img"]).ok();
        self
    }
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn places_in_a_guest() {
    let guest = Guest::new(|root| {
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"etc/\xff\n\x1b[31m")), "").unwrap();
        tree::run("touch", &["-d", TIME, root.join("etc").to_str().unwrap()]);
    });
    let stage = guest.backed_up().stage;
    let ls = |place: &str| stage.run(&["ls", place]).ok().stdout;
    assert_eq!(ls("web1@latest:"), "etc\nhome\nlost+found\n");
    assert_eq!(ls("web1"), ls("web1:/"));
    assert_eq!(ls("web1:/etc"), "fstab\ngroup\nhostname\nname\npasswd\n\\xff\\n\\x1b[31m\n");
    assert_eq!(ls("web1:/home"), "anna\nlost+found\n");
    assert_eq!(ls("web1:disk0/p1/home"), "hidden\n");
    assert_eq!(ls("web1:disk0/p2"), ls("web1:/home"));
    assert_eq!(ls("web1.img:/home/anna"), "letter\n");
    let long = stage.run(&["ls", "-l", "web1:/home/anna", "web1:/etc/name"]).ok().stdout;
    let expected = "web1:/home/anna:\n-rw-r--r-- 1 anna staff 9 2026-11-20 02:15 letter\n\
        lrwxrwxrwx 1 root root 8 2026-11-20 02:15 web1:/etc/name -> hostname\n";
    assert_eq!(long, expected);
    let numeric = stage.run(&["ls", "-ln", "web1:disk0/p2/anna"]).ok().stdout;
    assert_eq!(numeric, "-rw-r--r-- 1 1000 1000 9 2026-11-20 02:15 letter\n");
    let node = stage.run(&["ls", "-d", "web1:/home/anna", "--json"]).ok().json();
    assert_eq!(
        (text(&node, "place"), text(&node, "owner"), text(&node, "kind")),
        ("web1:/home/anna", "anna", "directory")
    );
    let volumes = stage.run(&["ls", "--volumes", "web1", "--json"]).ok().json_lines();
    let names: Vec<&str> = volumes.iter().map(|volume| text(volume, "volume")).collect();
    assert_eq!(names, ["disk0/p1", "disk0/p2"]);

    assert_eq!(stage.run(&["cat", "web1:/etc/name", "web1:/home/anna/letter"]).ok().stdout, "web1\ndear all\n");
    stage
        .run(&["cat", "web1:/etc/shadow"])
        .ended(1)
        .said("cannot find web1:/etc/shadow\n  cause: there is no \"shadow\" in \"/etc\"");
    stage
        .run(&["cat", "web1:/etc"])
        .ended(1)
        .said("web1:/etc is a directory\n  hint: see what is in it: abbild ls web1:/etc");
    stage.run(&["cat", "web1:etc/name"]).ended(1).said("a path in the guest begins with a slash: web1:/etc/name");
    stage.run(&["cat", "web1:C:/x"]).ended(1).said("no volume is known to be drive C:");
    stage.run(&["cat", "--stream", "x", "web1:/etc/name"]).ended(1);
    stage.run(&["ls", ":/etc"]).ended(2).said("BACKUP:PATH, as in web1@latest:/etc/fstab");
    stage.run(&["ls", "web2:/etc"]).ended(1).said("see all: abbild list");
    stage.run(&["ls", "./gone.img:/etc"]).ended(1).said("gone.img");

    let find = |tests: &[&str]| {
        let found = stage.run(&[&["find", "web1:"], tests].concat()).ok().stdout;
        found.lines().map(|line| line.strip_prefix("web1:").unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(find(&["--name", "h*"]), ["/etc/hostname", "/home"]);
    assert_eq!(find(&["--iname", "LETTER"]), ["/home/anna/letter"]);
    assert_eq!(find(&["--path", "/etc/*n*", "--type", "f"]), ["/etc/hostname"]);
    assert_eq!(find(&["--type", "l"]), ["/etc/name"]);
    assert_eq!(find(&["--owner", "anna", "--size", "+8"]), ["/home/anna/letter"]);
    assert_eq!(find(&["--owner", "1000", "--size", "-9"]), ["/home/anna"; 0]);
    assert_eq!(find(&["--older", "2026-11-20T02:15:00", "--type", "f"]), ["/x"; 0]);
    assert_eq!(find(&["--newer", "2026-11-20T02:15", "--older", "2026-11-20T02:16", "--type", "l"]), ["/etc/name"]);
    assert_eq!(find(&["--max-depth", "1", "--name", "*[et]*"]), ["/etc", "/home", "/lost+found"]);
    stage.run(&["find", "web1:", "--owner", "nobody"]).ended(2).said("the guest knows no user");
    stage.run(&["find", "web1:", "--newer", "soon"]).ended(2);
}

#[test]
fn several_volumes_without_a_root_have_to_be_named() {
    let stage = Stage::empty();
    let folder = stage.path("");
    fs::create_dir(stage.path("data")).unwrap();
    write(&stage.path("data/file"), "here\n");
    fs::create_dir(stage.path("vm")).unwrap();
    for name in ["a.img", "b.img"] {
        let image = folder.join("vm").join(name);
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let options = ["-q", "-F", "-t", "ext4", "-L", &name[..1], "-d"];
        tree::run("mke2fs", &[&options[..], &[stage.path("data").to_str().unwrap(), image.to_str().unwrap()]].concat());
    }
    let table = stage.run(&["ls", "vm:"]).ok().said("reading the folder vm as it is now").stdout;
    assert_eq!(table, "VOLUME  KIND     SIZE  LABEL  NOTE\ndisk0   ext4  8.0 MiB  a\ndisk1   ext4  8.0 MiB  b\n");
    stage
        .run(&["cat", "vm:/file"])
        .ended(1)
        .said("several volumes\n  hint: name one of disk0, disk1, as in vm:disk0/PATH");
    assert_eq!(stage.run(&["cat", "vm:disk1/file"]).ok().stdout, "here\n");
    // One volume alone needs no name.
    assert_eq!(stage.run(&["cat", "vm/a.img:/file"]).ok().stdout, "here\n");
    fs::write(stage.path("vm/b.img"), vec![0; 8 << 20]).unwrap();
    assert_eq!(stage.run(&["cat", "vm:/file"]).ok().stdout, "here\n");
    fs::write(stage.path("vm/a.img"), vec![0; 8 << 20]).unwrap();
    stage.run(&["cat", "vm:/file"]).ended(1).said("there are no files to be read in vm");
}

/// In how many places of a pack damage is tried.
const PLACES: u64 = 61;

/// Flips the byte in this place of the largest pack.
fn flip_byte_at(stage: &Stage, place: u64) {
    let packs = stage.objects("packs");
    let largest = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let file = fs::File::options().read(true).write(true).open(largest).unwrap();
    let at = file.metadata().unwrap().len() * place / PLACES;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[test]
fn a_damaged_file_is_named_and_all_else_is_copied() {
    let content = noise(8 << 20, 5);
    let guest = Guest::new(|root| {
        fs::create_dir_all(root.join("var/log")).unwrap();
        fs::write(root.join("var/log/big"), &content).unwrap();
        write(&root.join("var/log/small"), "small\n");
    });
    let stage = guest.backed_up().stage;
    let cat = |place: &str| stage.command(&["cat", place]).output().unwrap();
    // Workers run side by side, so what lies where in a pack differs from run to run: the damage that is wanted hits the
    // file after its first MiB, and nothing else.
    let hit = (1..PLACES).find_map(|place| {
        flip_byte_at(&stage, place);
        let output = cat("web1:/var/log/big");
        let is_wanted = output.status.code() == Some(13)
            && output.stdout.len() > 1 << 20
            && cat("web1:/var/log/small").status.success()
            && cat("web1:/home/anna/letter").status.success();
        if !is_wanted {
            flip_byte_at(&stage, place);
        }
        is_wanted.then_some(output)
    });
    let output = hit.expect("most of the pack is the file");
    let (said, shown) = (String::from_utf8(output.stderr).unwrap(), output.stdout);
    let good = shown.len();
    assert!(good < content.len(), "{good}");
    assert!(shown == content[..good], "what came before the damage is wrong");
    assert!(said.contains(&format!("cannot read web1:/var/log/big: only its first {good} bytes are good")), "{said}");
    assert!(said.contains("hint: see which backups are hit: abbild check --read-data"), "{said}");

    let run = stage.run(&["cp", "-r", "web1:/", "out"]).ended(13).said("cannot read web1:/var/log/big");
    assert!(run.stdout.contains("; left out: 1"), "{run:?}");
    let names = |folder: &str| {
        let mut names: Vec<_> =
            fs::read_dir(stage.path(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("out/var/log"), ["small"]);
    assert_eq!(fs::read(stage.path("out/home/anna/letter")).unwrap(), b"dear all\n");
    stage.run(&["cp", "web1:/var/log/big", "alone"]).ended(13);
    assert!(!stage.path("alone").exists());

    let output = stage.command(&["cp", "--tar", "web1:/var"]).stderr(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(13));
    let listed = crate::tools::run_with("sh", "dash", &stage.path(""), &["-c", "cat > v.tar"], "");
    assert!(listed.is_empty());
    fs::write(stage.path("v.tar"), output.stdout).unwrap();
    let listed = crate::tools::run("tar", "tar", &stage.path(""), &["-tf", "v.tar"]);
    assert_eq!(listed, "var/\nvar/log/\nvar/log/small\n");
    stage.run(&["diff", "web1", "web1.img", "--content=all"]).ended(13).said("cannot read web1:/var/log/big");
    stage.run(&["find", "web1:", "--name", "big"]).ok();
}

#[test]
fn a_damaged_filesystem_is_damage_and_not_a_wrong_name() {
    let Guest { stage, image } = Guest::new(|_| ());
    let superblock = (1 << 20) + 1024;
    let inodes = fs::File::options().write(true).open(&image).unwrap();
    inodes.write_all_at(&[0xee; 4], superblock).unwrap();
    stage.run(&["ls", "web1.img:disk0/p1/"]).ended(13).said("cannot read disk0/p1").said("superblock");
    stage.run(&["ls", "--volumes", "web1.img"]).ok();
}

#[test]
fn copies_stay_where_they_were_sent() {
    let stage = Guest::new(|_| {}).backed_up().stage;
    write(&stage.path("precious/hostname"), "precious\n");
    let precious = || fs::read_to_string(stage.path("precious/hostname")).unwrap();
    // A link in place of a folder, and one in place of a file.
    fs::create_dir_all(stage.path("out/deep")).unwrap();
    symlink(stage.path("precious"), stage.path("out/etc")).unwrap();
    symlink("../precious/hostname", stage.path("out/hostname")).unwrap();
    for overwrite in [&[][..], &["--overwrite"]] {
        let run = stage.run(&[&["cp", "-r", "web1:/etc", "out"], overwrite].concat());
        run.ended(3).said("something that is no directory is in the way");
    }
    stage
        .run(&["cp", "web1:/etc/hostname", "out"])
        .ended(1)
        .said("hostname exists\n  hint: name another place, or replace it");
    assert_eq!((precious().as_str(), fs::read_dir(stage.path("precious")).unwrap().count()), ("precious\n", 1));
    stage.run(&["cp", "web1:/etc/hostname", "out", "--overwrite"]).ok();
    assert_eq!(precious(), "precious\n");
    assert!(fs::symlink_metadata(stage.path("out/hostname")).unwrap().is_file());
    assert_eq!(fs::read_to_string(stage.path("out/hostname")).unwrap(), "web1\n");
    // A folder in place of a file stays, whatever is allowed.
    fs::create_dir(stage.path("out/passwd")).unwrap();
    stage.run(&["cp", "web1:/etc/passwd", "out", "--overwrite"]).ended(1).said("a directory is in the way");
    // Names: of a folder, of a file, of what is not there.
    stage.run(&["cp", "web1:/etc/name", "out/deep/new"]).ok();
    assert_eq!(fs::read_to_string(stage.path("out/deep/new")).unwrap(), "web1\n");
    stage.run(&["cp", "-r", "web1:/etc/name", "web1:/home/anna", "out/deep"]).ok();
    assert_eq!(fs::read_link(stage.path("out/deep/name")).unwrap(), Path::new("hostname"));
    assert_eq!(fs::metadata(stage.path("out/deep/anna/letter")).unwrap().uid(), 1000);
    stage.run(&["cp", "web1:/home", "out/deep"]).ended(2).said("copy it with all that is in it: -r");
    stage.run(&["cp", "web1:/etc/name", "out/gone/new"]).ended(2).said("there is no folder out/gone");
    stage.run(&["cp", "web1:/etc/name", "web1:/etc/fstab", "out/gone"]).ended(2).said("make the folder first");
    stage.run(&["cp", "web1:/etc/name"]).ended(2).said("no place to copy");
    // Again over what is there: nothing is lost, everything is named.
    let again = stage.run(&["cp", "-r", "web1:/home/anna", "out/deep", "--json"]).ended(3).json();
    assert_eq!(again["copied"]["skipped"], 1);
}

#[test]
fn differences_between_two_backups() {
    let guest = Guest::new(|root| {
        write(&root.join("srv/same"), "same\n");
        write(&root.join("srv/gone/deep"), "x\n");
        write(&root.join("srv/touched"), "touched\n");
        write(&root.join("srv/longer"), "1\n");
        write(&root.join("srv/mode"), "1\n");
        write(&root.join("srv/forged"), "1\n");
    });
    let Guest { stage, image } = guest.backed_up();
    let first = text(&stage.run(&["list", "--json"]).ok().json()["backups"][0], "backup")[..12].to_owned();
    let place = stage.path("mount");
    fs::create_dir(&place).unwrap();
    let options = format!("loop,offset={},sizelimit={}", 1 << 20, 40 << 20);
    tree::run("mount", &["-o", &options, image.to_str().unwrap(), place.to_str().unwrap()]);
    let srv = place.join("srv");
    let old = fs::metadata(srv.join("forged")).unwrap().modified().unwrap();
    fs::remove_dir_all(srv.join("gone")).unwrap();
    fs::write(srv.join("new"), "new").unwrap();
    fs::write(srv.join("touched"), "touched\n").unwrap();
    fs::write(srv.join("longer"), "12\n").unwrap();
    fs::set_permissions(srv.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(srv.join("forged"), "2\n").unwrap();
    fs::File::options().write(true).open(srv.join("forged")).unwrap().set_modified(old).unwrap();
    tree::run("umount", &[place.to_str().unwrap()]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    stage.run(&["backup", "web1.img"]).ok();

    let diff = |options: &[&str]| stage.run(&[&["diff", &first, "web1@latest"], options].concat()).ok().stdout;
    let plain = "- /srv/gone\n- /srv/gone/deep\nM /srv/longer  (2 → 3 bytes, time)\nU /srv/mode  (mode 0644 → 0600)\n\
        + /srv/new\nM /srv/touched  (time)\n";
    assert_eq!(
        strip_summary(&diff(&[])),
        (plain.to_owned(), "1 added, 2 removed, 2 changed, 1 only in metadata".to_owned())
    );
    // What was read and is equal was only touched.
    let content = format!("M /srv/forged  (content)\n{plain}").replace("M /srv/touched", "U /srv/touched");
    let summary = "1 added, 2 removed, 2 changed, 2 only in metadata".to_owned();
    assert_eq!(strip_summary(&diff(&["--content"])), (content, summary));
    let below = diff(&["/srv/gone"]);
    assert_eq!(strip_summary(&below).0, "- /srv/gone\n- /srv/gone/deep\n");
    assert_eq!(strip_summary(&diff(&["/etc"])).0, "");
    let changes = stage.run(&["diff", &first, "web1", "/srv", "--json"]).ok().json_lines();
    assert_eq!(changes[0]["change"], "removed");
    assert_eq!(changes.last().unwrap()["summary"]["added"], 1);
    stage.run(&["diff", &first, "web1", "/nowhere"]).ended(1).said("there is no \"nowhere\"");
}

/// The lines, and the summary up to what is the same.
fn strip_summary(text: &str) -> (String, String) {
    let lines: Vec<&str> = text.lines().collect();
    let (last, lines) = lines.split_last().unwrap();
    let counts = last.rsplit_once(", ").map_or(*last, |(counts, _)| counts).to_owned();
    (lines.iter().map(|line| format!("{line}\n")).collect(), counts)
}

#[test]
fn nobody_reads_on_and_nothing_is_said() {
    let stage = Guest::new(|root| fs::write(root.join("big"), noise(4 << 20, 1)).unwrap()).backed_up().stage;
    for arguments in [&["cat", "web1:/big"][..], &["find", "web1:"]] {
        let mut child = stage.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
}
