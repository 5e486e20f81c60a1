//! Names inside images that would make us open what an image has no business with: secrets, devices, locations. One table
//! of names, tried in every place of every format where a name can stand.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::formats_built::descriptor;
use crate::formats_gallery::folder;
use crate::formats_vhd::{attempt, utf16};
use crate::{formats_vhd, formats_vhdx, qemu};

const OUTSIDE: &str = "is outside the allowed folders";
const NO_URL: &str = "only files are opened, no URLs and no devices";
const MISSING: &str = "is missing";

/// A name, and what we say about it.
const NAMES: [(&str, &str); 24] = [
    ("/etc/shadow", OUTSIDE),
    ("/etc/../etc/shadow", OUTSIDE),
    ("//etc/shadow", OUTSIDE),
    ("../../../../../../../../etc/shadow", OUTSIDE),
    (r"..\..\..\..\..\..\..\..\etc\shadow", OUTSIDE),
    ("link-to-shadow", OUTSIDE),
    ("link-to-etc/shadow", OUTSIDE),
    (r"C:\etc\shadow", MISSING),
    (r"\\.\PhysicalDrive0", MISSING),
    (r"\\server\share\disk", MISSING),
    ("/dev/null", OUTSIDE),
    ("/dev/zero", OUTSIDE),
    ("/dev/full", OUTSIDE),
    ("/proc/self/environ", OUTSIDE),
    ("/proc/self/fd/0", OUTSIDE),
    ("pipe", "is a pipe, not a regular file"),
    ("json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}", NO_URL),
    ("nbd://127.0.0.1/disk", NO_URL),
    ("nbd:unix:/run/nbd", NO_URL),
    ("http://127.0.0.1/disk", NO_URL),
    ("ssh://127.0.0.1/etc/shadow", NO_URL),
    ("host_device:/dev/null", NO_URL),
    ("fat:/etc", NO_URL),
    ("rbd:pool/disk", NO_URL),
];

/// Where a name stands: what of, what it is to the image, and how an image with it is laid out as `image` in a folder.
type Place = (&'static str, &'static str, fn(&Path, &str));

const PLACES: [Place; 12] = [
    ("vmdk parent", "parent", |folder, name| vmdk(folder, Some((name, "00c0ffee")), "RW 8 ZERO")),
    ("vmdk flat extent", "extent", |folder, name| vmdk(folder, None, &format!("RW 8 FLAT \"{name}\" 0"))),
    ("vmdk sparse extent", "extent", |folder, name| vmdk(folder, None, &format!("RW 8 SPARSE \"{name}\""))),
    ("qcow2 backing file", "backing file", |folder, name| {
        qemu::img(folder, &["create", "-q", "-u", "-f", "qcow2", "-b", "x", "-F", "raw", "image", "1M"]);
        // QEMU itself would look at a location at once: the name is put in afterwards, where there is room.
        let mut bytes = fs::read(folder.join("image")).unwrap();
        bytes[8..16].copy_from_slice(&32_768u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        bytes[32_768..32_768 + name.len()].copy_from_slice(name.as_bytes());
        fs::write(folder.join("image"), bytes).unwrap();
    }),
    ("qcow2 data file", "data file", |folder, name| {
        let stand_in = "x".repeat(name.len());
        qemu::img(folder, &["create", "-q", "-f", "qcow2", "-o", &format!("data_file={stand_in}"), "image", "1M"]);
        let mut bytes = fs::read(folder.join("image")).unwrap();
        let at = bytes.windows(name.len()).position(|window| window == stand_in.as_bytes()).unwrap();
        bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        fs::write(folder.join("image"), bytes).unwrap();
    }),
    ("vhd W2ru", "parent", |folder, name| vhd(folder, Some((b"W2ru", utf16(name))), "")),
    ("vhd W2ku", "parent", |folder, name| vhd(folder, Some((b"W2ku", utf16(name))), "")),
    ("vhd MacX", "parent", |folder, name| vhd(folder, Some((b"MacX", name.as_bytes().to_vec())), "")),
    ("vhd header", "parent", |folder, name| vhd(folder, None, name)),
    ("vhdx relative_path", "parent", |folder, name| vhdx(folder, "relative_path", name)),
    ("vhdx volume_path", "parent", |folder, name| vhdx(folder, "volume_path", name)),
    ("vhdx absolute_win32_path", "parent", |folder, name| vhdx(folder, "absolute_win32_path", name)),
];

fn vmdk(folder: &Path, parent: Option<(&str, &str)>, extent: &str) {
    fs::write(folder.join("image"), descriptor("custom", parent, &[extent])).unwrap();
}

fn vhd(folder: &Path, locator: Option<formats_vhd::Locator>, name: &str) {
    let parent = Some((7, locator.into_iter().collect(), name));
    let plan = formats_vhd::Plan { uuid: 2, parent, ..formats_vhd::plan(&[]) };
    fs::write(folder.join("image"), formats_vhd::build(&plan)).unwrap();
}

fn vhdx(folder: &Path, key: &str, name: &str) {
    let linkage = format!("{{{}}}", Uuid::from_bytes_le([7; 16]));
    let parent = Some(vec![("parent_linkage", linkage), (key, name.to_string())]);
    let plan = formats_vhdx::Plan { id: 2, parent, ..formats_vhdx::plan(&[]) };
    fs::write(folder.join("image"), formats_vhdx::build(&plan)).unwrap();
}

#[test]
fn no_name_in_an_image_leads_out_of_its_folder() {
    let mut faults = Vec::new();
    for (place, role, lay) in PLACES {
        for (name, expected) in NAMES {
            // In a descriptor a quote ends the name.
            if place.starts_with("vmdk") && name.contains('"') {
                continue;
            }
            let scene = folder();
            std::os::unix::fs::symlink("/etc/shadow", scene.path().join("link-to-shadow")).unwrap();
            std::os::unix::fs::symlink("/etc", scene.path().join("link-to-etc")).unwrap();
            qemu::run("mkfifo", scene.path(), &["pipe"]);
            lay(scene.path(), name);
            let began = Instant::now();
            let said = attempt(&scene.path().join("image"));
            let is_named = said.contains("/image") && said.contains(role) && said.contains(name);
            if !said.contains(expected) || !is_named || began.elapsed() > Duration::from_secs(5) {
                faults.push(format!("{place}, {name}: expected to be told: {expected}\n  found: {said}"));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
