//! What the filesystem in memory keeps and forgets, state by state.

use super::*;

/// What each of many power cuts leaves of `/d/f` (`None`: no such name), as a set.
fn outcomes(fs: &MemFs, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..400).map(|seed| content(&fs.after_power_cut(seed), path)).collect()
}

fn content(fs: &MemFs, path: &str) -> Option<Vec<u8>> {
    let file = fs.open(Path::new(path)).ok()?;
    let mut bytes = vec![0; fs.len(&file).unwrap() as usize];
    fs.read_at(&file, 0, &mut bytes).unwrap();
    Some(bytes)
}

fn with_folder() -> MemFs {
    let fs = MemFs::new();
    fs.mkdir(Path::new("/d")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    fs
}

fn written(fs: &MemFs, path: &str) -> MemFile {
    let mut file = fs.create_new(Path::new(path)).unwrap();
    fs.write_all(&mut file, b"ab").unwrap();
    file
}

fn set(outcomes: &[Option<&[u8]>]) -> BTreeSet<Option<Vec<u8>>> {
    outcomes.iter().map(|o| o.map(<[u8]>::to_vec)).collect()
}

#[test]
fn an_unsynced_file_may_be_anything_that_a_disk_can_leave() {
    let fs = with_folder();
    let file = written(&fs, "/d/f");
    let all = set(&[None, Some(b""), Some(b"a"), Some(b"ab"), Some(b"\0"), Some(b"\0\0"), Some(b"a\0")]);
    assert_eq!(outcomes(&fs, "/d/f"), all);
    fs.sync_file(&file).unwrap();
    assert_eq!(outcomes(&fs, "/d/f"), set(&[None, Some(b"ab")]), "content durable, name not");
    assert_eq!(content(&fs.after_power_cut_worst(), "/d/f"), None);
    fs.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&fs, "/d/f"), set(&[Some(b"ab")]));
    assert_eq!(content(&fs.after_power_cut_worst(), "/d/f"), Some(b"ab".to_vec()));
}

#[test]
fn a_failed_flush_never_becomes_a_good_one() {
    let fs = with_folder();
    let file = written(&fs, "/d/f");
    fs.sync_dir(Path::new("/d")).unwrap();
    fs.plan(fs.operations() + 1, Fault::Io);
    fs.sync_file(&file).unwrap_err();
    fs.sync_file(&file).unwrap();
    assert_eq!(content(&fs, "/d/f"), Some(b"ab".to_vec()), "still in the cache");
    assert_eq!(content(&fs.after_power_cut_worst(), "/d/f"), Some(b"".to_vec()), "but not on the medium");
}

#[test]
fn a_folder_needs_its_parent_flushed() {
    let fs = MemFs::new();
    fs.mkdir(Path::new("/d")).unwrap();
    let file = written(&fs, "/d/f");
    fs.sync_file(&file).unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&fs, "/d/f"), set(&[None, Some(b"ab")]));
    fs.sync_dir(Path::new("/")).unwrap();
    assert_eq!(outcomes(&fs, "/d/f"), set(&[Some(b"ab")]));
}

#[test]
fn a_rename_leaves_old_new_or_both_and_never_none() {
    let fs = with_folder();
    let file = written(&fs, "/d/f");
    fs.sync_file(&file).unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    fs.rename_noreplace(Path::new("/d/f"), Path::new("/g")).unwrap();
    let names = |fs: &MemFs| (content(fs, "/d/f").is_some(), content(fs, "/g").is_some());
    let all = |fs: &MemFs| (0..100).map(|seed| names(&fs.after_power_cut(seed))).collect::<BTreeSet<_>>();
    assert_eq!(all(&fs), BTreeSet::from([(true, false), (false, true), (true, true)]));
    assert_eq!(names(&fs.after_power_cut_worst()), (true, false));

    let new_first = fs.snapshot();
    new_first.sync_dir(Path::new("/")).unwrap();
    assert_eq!(all(&new_first), BTreeSet::from([(false, true), (true, true)]));
    new_first.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(all(&new_first), BTreeSet::from([(false, true)]));

    fs.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(all(&fs), BTreeSet::from([(false, true)]), "the old folder carries the whole rename");
}

#[test]
fn a_removal_needs_its_flush_too() {
    let fs = with_folder();
    fs.sync_file(&written(&fs, "/d/f")).unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    fs.remove_file(Path::new("/d/f")).unwrap();
    assert_eq!(outcomes(&fs, "/d/f"), set(&[None, Some(b"ab")]));
    fs.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&fs, "/d/f"), set(&[None]));
}

#[test]
fn an_open_file_outlives_its_name_and_is_freed_after() {
    let fs = with_folder();
    drop(written(&fs, "/d/f"));
    let file = fs.open(Path::new("/d/f")).unwrap();
    fs.remove_file(Path::new("/d/f")).unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    let mut bytes = [0; 2];
    assert_eq!(fs.read_at(&file, 0, &mut bytes).unwrap(), 2);
    drop(file);
    drop(written(&fs, "/d/g"));
    fs.remove_file(Path::new("/d/g")).unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(fs.lock().files.len(), 0);
}

#[test]
fn each_fault_does_what_it_says_once_or_for_good() {
    for (fault, content_after, next_fails) in [
        (Fault::Io, &b""[..], false),
        (Fault::NoSpace, b"", false),
        (Fault::Torn, b"a", false),
        (Fault::PowerCut, b"", true),
    ] {
        let fs = with_folder();
        let mut file = fs.create_new(Path::new("/d/f")).unwrap();
        fs.plan(fs.operations() + 1, fault);
        let error = fs.write_all(&mut file, b"ab").unwrap_err();
        assert_eq!(error.kind() == io::ErrorKind::StorageFull, fault == Fault::NoSpace);
        assert_eq!(fs.power_is_out(), next_fails);
        assert_eq!(fs.sync_file(&file).is_err(), next_fails);
        assert_eq!(content(&fs.snapshot(), "/d/f").unwrap(), content_after, "{fault:?}");
    }
    let fs = with_folder();
    fs.plan(fs.operations() + 1, Fault::Torn);
    assert!(fs.mkdir(Path::new("/e")).is_err());
    assert_eq!(fs.mkdir(Path::new("/e")).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "done, reply lost");
}
