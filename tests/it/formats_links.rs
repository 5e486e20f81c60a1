//! Chains of three in every format that has redo logs: they are backed up and restored equal; with one link broken
//! (another identity, no parent, a circle) nothing is backed up, and the error names the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use abbild::formats;
use abbild::formats::OpenPolicy;
use abbild::ops::backup::{BackupOptions, backup};
use abbild::ops::machines;
use abbild::repo::Repository;
use abbild::repo::ids::BackupId;
use abbild::repo::store::faulty::MemFs;

use crate::formats_gallery::{
    LayLevel, LevelPlan, cowd_level, folder, level_name, rows, sesparse_level, vdi_level, vhd_level, vhdx_level,
};
use crate::formats_model::{Model, awkward};
use crate::formats_vmdk::replace_padded;
use crate::qemu;
use crate::world::{content_of, create_on, quiet};

/// What happens to the link between the middle and the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Sound,
    /// The base is not the one that the middle was made over.
    OtherIdentity,
    Missing,
    /// The base is itself a redo log, over the top.
    Circle,
}

/// A format with redo logs: its name, who lays out a chain, the words for a base that is another one.
type Family = (&'static str, fn(&Path, &Model, Link) -> PathBuf, &'static str);

const FAMILIES: [Family; 7] = [
    ("vmdk hosted", hosted, "parent identity: expected"),
    ("vmdk COWD", |folder, model, link| built(folder, model, link, cowd_level), "parent identity: expected"),
    ("vmdk seSparse", |folder, model, link| built(folder, model, link, sesparse_level), "parent identity: expected"),
    ("qcow2", qcow2, "expected an image in the format qcow2, as its overlay says, found vmdk"),
    ("vhd", |folder, model, link| built(folder, model, link, vhd_level), "parent identity: expected"),
    ("vhdx", |folder, model, link| built(folder, model, link, vhdx_level), "parent identity: expected"),
    ("vdi", vdi, "parent identity: expected"),
];

fn built(folder: &Path, model: &Model, link: Link, lay: LayLevel) -> PathBuf {
    let [base, middle, top] = [0, 1, 2].map(level_name);
    let id_of_base = if link == Link::OtherIdentity { 9 } else { 1 };
    let over_top = (link == Link::Circle).then_some((top.as_str(), 3));
    let level = |level: usize, name: &str, parent: Option<(&str, u8)>| {
        lay(&LevelPlan { folder, model, level, name, id: level as u8 + 1, parent, unit: None });
    };
    level(0, &base, over_top);
    level(1, &middle, Some((&base, id_of_base)));
    level(2, &top, Some((&middle, 2)));
    if link == Link::Missing {
        fs::remove_file(folder.join(base)).unwrap();
    }
    folder.join(top)
}

/// Has no names: a base with another UUID would only be missing. One that was written to since has the same UUID.
fn vdi(folder: &Path, model: &Model, link: Link) -> PathBuf {
    let top = built(folder, model, if link == Link::OtherIdentity { Link::Sound } else { link }, vdi_level);
    if link == Link::OtherIdentity {
        let base = folder.join(level_name(0));
        let mut bytes = fs::read(&base).unwrap();
        bytes[408..424].fill(9);
        fs::write(base, bytes).unwrap();
    }
    top
}

fn created(folder: &Path, model: &Model, name: &str) -> PathBuf {
    rows().into_iter().find(|row| row.name == name).unwrap().lay(folder, model)
}

fn hosted(folder: &Path, model: &Model, link: Link) -> PathBuf {
    let top = created(folder, model, "vmdk redo logs");
    let base = folder.join("0.vmdk");
    let rewrite = |path: &Path, old: &str, new: &str| {
        let bytes = replace_padded(&fs::read(path).unwrap(), old.as_bytes(), new);
        fs::write(path, bytes).unwrap();
    };
    let id = |path: &Path| {
        formats::open(path, &OpenPolicy::named_by_user(path).unwrap()).unwrap().layers[0].content_id.clone()
    };
    match link {
        Link::Sound => {}
        Link::OtherIdentity => {
            // QEMU writes no leading zeros.
            let own = u32::from_str_radix(&id(&base), 16).unwrap();
            rewrite(&base, &format!("CID={own:x}\n"), "CID=0badf00d\n");
        }
        Link::Missing => fs::remove_file(base).unwrap(),
        Link::Circle => {
            let lines = format!("parentCID={}\nparentFileNameHint=\"2.vmdk\"", id(&top));
            rewrite(&base, "parentCID=ffffffff", &lines);
        }
    }
    top
}

/// Knows no identity: what can be noticed is another format.
fn qcow2(folder: &Path, model: &Model, link: Link) -> PathBuf {
    let top = created(folder, model, "qcow2 overlays");
    match link {
        Link::Sound => {}
        Link::OtherIdentity => {
            qemu::img(folder, &["convert", "-O", "vmdk", "0.qcow2", "other.vmdk"]);
            fs::rename(folder.join("other.vmdk"), folder.join("0.qcow2")).unwrap();
        }
        Link::Missing => fs::remove_file(folder.join("0.qcow2")).unwrap(),
        Link::Circle => qemu::img(folder, &["rebase", "-u", "-b", "2.qcow2", "-F", "qcow2", "0.qcow2"]),
    }
    top
}

/// Backs up the machine whose image `top` is; what went wrong, with all causes.
fn back_up(repository: &Arc<Repository>, top: &Path) -> Result<BackupId, String> {
    let options = BackupOptions::default();
    let in_full = |err: &dyn std::error::Error| {
        let causes = std::iter::successors(err.source(), |cause| cause.source());
        causes.fold(err.to_string(), |line, cause| format!("{line}: {cause}"))
    };
    let machine = machines::read(top).map_err(|err| in_full(&err))?;
    let committed = backup(repository, &machine, &options, quiet(&AtomicBool::new(false)));
    committed.map(|committed| committed.manifest.backup).map_err(|err| in_full(&err))
}

#[test]
fn a_chain_of_three_is_backed_up_and_a_broken_one_is_refused_by_name() {
    let model = awkward();
    let content = model.content();
    for (family, lay, other_base) in FAMILIES {
        let repository = create_on(&MemFs::new());
        let count = || repository.manifests(&mut |_, err| panic!("{err}")).unwrap().len();
        for link in [Link::Sound, Link::OtherIdentity, Link::Missing, Link::Circle] {
            let scene = folder();
            let top = lay(scene.path(), &model, link);
            let outcome = back_up(&repository, &top);
            let expected = match link {
                Link::Sound => {
                    let id = outcome.unwrap_or_else(|said| panic!("{family}: {said}"));
                    assert!(content_of(&repository, id).unwrap() == content, "{family}: restored otherwise");
                    assert_eq!(count(), 1);
                    continue;
                }
                Link::OtherIdentity => other_base,
                Link::Missing => "is missing",
                Link::Circle => "is in the chain above it already",
            };
            let said = outcome.expect_err("a broken chain");
            assert!(said.contains(expected), "{family}, {link:?}: expected to be told: {expected}\nfound: {said}");
            let name_of = |level: usize| match family {
                "vmdk hosted" => format!("/{level}.vmdk"),
                "qcow2" => format!("/{level}.qcow2"),
                _ => format!("/{}", level_name(level)),
            };
            let named = match link {
                Link::Circle => [0, 2], // the base that goes on, and where to
                Link::OtherIdentity if family == "qcow2" => [0, 0],
                _ if family == "vdi" && link == Link::Missing => [1, 1], // its parent has no name
                Link::Missing => [1, 0],
                _ => [1, 0],
            };
            for level in named {
                assert!(said.contains(&name_of(level)), "{family}, {link:?}: does not name {}: {said}", name_of(level));
            }
            assert_eq!(count(), 1, "{family}, {link:?}: nothing was committed");
        }
    }
}
