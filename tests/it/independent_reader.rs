//! The independent reader in Python, which follows docs/FORMAT.md and shares no code with the library, reads what that
//! wrote, and notices each flipped bit. It proves the document; it is also what would restore backups if this program were lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use abbild::chunker::SEGMENT_BYTES;
use abbild::repo::branch_filter::looks_like_code;
use abbild::repo::ids::{BackupId, ChunkId, ObjectId};
use abbild::repo::index::IndexPlace;
use abbild::repo::intake::{self, Intake, SegmentWriter, State};
use abbild::repo::keys::{self, KdfCost, KeyFile, Secret};
use abbild::repo::manifest::{Capture, Consistency, DiskRecord, FileRecord, Manifest, Statistics};
use abbild::repo::map::{MapShape, NODE_SEGMENTS, encode_ids};
use abbild::repo::store::DirectoryStore;
use abbild::repo::{RepoError, Repository, session};
use zeroize::Zeroizing;

const PASSPHRASE: &str = "a passphrase with spaces, and ümläuts";
const CHEAP: KdfCost = KdfCost::Fixed { memory_kib: 64, passes: 1 };

/// A repository in a folder, with one backup of two disks and two definition files.
struct World {
    folder: tempfile::TempDir,
    disks: Vec<Content>,
    files: Vec<(&'static str, Vec<u8>)>,
    backup: BackupId,
}

/// A disk as its segments that are not all zeros, so that a disk of many GiB fits in memory.
struct Content {
    size: u64,
    segments: Vec<(u64, Vec<u8>)>,
}

impl World {
    fn build() -> World {
        World::of_epochs(1)
    }

    /// Everything but its first generation belongs to the last of so many epochs.
    fn of_epochs(epochs: u16) -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(DirectoryStore::create(&folder.path().join("repository")).unwrap());
        let passphrase = Secret::Passphrase(Zeroizing::new(PASSPHRASE.to_owned()));
        let mut repository =
            Repository::create(store.clone(), &passphrase, "a passphrase", CHEAP, |_| IndexPlace::Memory).unwrap();
        for epoch in 1..epochs {
            let old = repository.slot();
            repository.begin_epoch(&passphrase, "a passphrase", CHEAP).unwrap();
            keys::remove(store.as_ref(), old).unwrap();
            repository = Repository::open(store.clone(), &passphrase, |_| IndexPlace::Memory).unwrap();
            assert_eq!(repository.epoch(), epoch);
        }
        fs::write(folder.path().join("passphrase"), format!("{PASSPHRASE}\n")).unwrap();
        let key_file = KeyFile::generate("the test");
        key_file.save(&folder.path().join("key")).unwrap();
        repository.add_key(&Secret::KeyFile(key_file), "a key file", CHEAP).unwrap();

        let disks = vec![small_disk(), wide_disk(), Content { size: 1 << 30, segments: Vec::new() }];
        let long_file: Vec<u8> = noise(SEGMENT_BYTES + 1000, 9);
        let files =
            vec![("web1.vmx", b"displayName = \"web1\"\n".to_vec()), ("web1.nvram", long_file), ("empty", vec![])];
        let state = State::default();
        let committed = intake::run(
            &repository,
            &state,
            "backup",
            |intake| {
                let mut writer = intake.writer();
                let manifest = take_in(intake, &mut writer, &disks, &files)?;
                writer.flush()?;
                Ok::<Manifest, RepoError>(manifest)
            },
            |_| {},
        )
        .unwrap();
        // A session left behind, so that the reader sees one.
        session::begin(repository.store(), repository.keys(), "a host that died", "backup").unwrap();
        World { folder, disks, files, backup: committed.manifest.backup }
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn read(&self, repository: &Path, arguments: &[&str]) -> Output {
        reader(repository, &["--password-file", self.path("passphrase").to_str().unwrap()], arguments)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Text, noise, zero runs inside and between segments, the same content twice, an end that is no multiple of anything.
fn small_disk() -> Content {
    let text = b"Whoever restores this reads it again. ".repeat(30_000);
    let mut first = vec![0; SEGMENT_BYTES];
    first[512..512 + text.len()].copy_from_slice(&text);
    first[2 << 20..3 << 20].copy_from_slice(&noise(1 << 20, 1));
    let code = code(1 << 19);
    assert!(looks_like_code(&code), "or nothing of it is filtered");
    first[3 << 20..(3 << 20) + code.len()].copy_from_slice(&code);
    let mut short_zeros = noise(SEGMENT_BYTES, 2);
    short_zeros[100_000..108_000].fill(0);
    short_zeros[1_000_000..1_100_000].fill(0);
    let mut last = noise(777_777, 3);
    last[700_000..].fill(0);
    let segments = vec![(0, first.clone()), (1, short_zeros), (3, first), (4, last)];
    Content { size: 4 * SEGMENT_BYTES as u64 + 777_777, segments }
}

/// Three nodes, the middle one all zeros.
fn wide_disk() -> Content {
    let segments = vec![(1, noise(SEGMENT_BYTES, 4)), (2 * NODE_SEGMENTS + 6, noise(512, 5))];
    Content { size: (2 * NODE_SEGMENTS + 6) * SEGMENT_BYTES as u64 + 512, segments }
}

/// Calls, jumps and reads of a few hundred places, near and far, with other bytes between them.
fn code(len: usize) -> Vec<u8> {
    let mut bytes = noise(len, 6);
    for at in (0..len - 16).step_by(16) {
        let opcode = [&[0xe8][..], &[0xe9], &[0x0f, 0x84], &[0x8d, 0x3d]][usize::from(bytes[at] % 4)];
        let field = at + opcode.len();
        let target = u32::from(bytes[at + 8]) << 12;
        bytes[at..field].copy_from_slice(opcode);
        bytes[field..field + 4].copy_from_slice(&target.wrapping_sub(field as u32 + 4).to_le_bytes());
    }
    bytes
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

fn take_in(
    intake: &Intake<'_>,
    writer: &mut SegmentWriter<'_, '_>,
    disks: &[Content],
    files: &[(&'static str, Vec<u8>)],
) -> Result<Manifest, RepoError> {
    let mut records = Vec::new();
    for (number, disk) in disks.iter().enumerate() {
        records.push(DiskRecord {
            slot: format!("scsi0:{number}"),
            file_name: format!("disk{number}.vmdk"),
            size: disk.size,
            root: map_of(writer, disk)?,
            variant: "raw".to_owned(),
            properties: vec![("adapter".to_owned(), "lsilogic".to_owned())],
            layers: serde_json::json!([]),
            statistics: Statistics::default(),
        });
    }
    let mut file_records = Vec::new();
    for (name, content) in files {
        let segments: Result<Vec<ChunkId>, RepoError> =
            content.chunks(SEGMENT_BYTES).map(|segment| writer.store_segment(segment)).collect();
        file_records.push(FileRecord {
            name: (*name).to_owned(),
            len: content.len() as u64,
            mode: 0o644,
            modified_ns: -1,
            segments: segments?,
        });
    }
    let now = jiff::Timestamp::now();
    Ok(Manifest {
        version: abbild::repo::manifest::MANIFEST_VERSION,
        backup: intake.backup_id(),
        machine: "web1".to_owned(),
        identity: "name:web1".to_owned(),
        machine_kind: "vmware".to_owned(),
        instant: now,
        finished: now,
        consistency: Consistency::Application,
        capture: Capture { way: "offline".to_owned(), level: "current".to_owned(), snapshot_taken: None },
        disks: records,
        files: file_records,
        parent: None,
        statistics: Statistics::default(),
        warnings: Vec::new(),
        notes: Vec::new(),
        tags: Vec::new(),
        copied_from: None,
        host: "host".to_owned(),
        made_by: "the test".to_owned(),
        session: ObjectId([0; 16]),
        generation: 0,
    })
}

/// Stores a disk with its map; gives the root.
fn map_of(writer: &mut SegmentWriter<'_, '_>, disk: &Content) -> Result<ChunkId, RepoError> {
    let shape = MapShape::new(disk.size).unwrap();
    let mut lists = vec![ChunkId::ZERO; usize::try_from(shape.segments()).unwrap()];
    for (number, segment) in &disk.segments {
        assert_eq!(segment.len(), shape.segment_len(*number));
        lists[usize::try_from(*number).unwrap()] = writer.store_segment(segment)?;
    }
    let mut store_ids = |ids: &[ChunkId]| {
        if ids.iter().all(|id| *id == ChunkId::ZERO) { Ok(ChunkId::ZERO) } else { writer.store_map(&encode_ids(ids)) }
    };
    let nodes: Vec<ChunkId> =
        lists.chunks(usize::try_from(NODE_SEGMENTS).unwrap()).map(&mut store_ids).collect::<Result<_, _>>()?;
    store_ids(&nodes)
}

fn reader(repository: &Path, secret: &[&str], arguments: &[&str]) -> Output {
    let python = std::env::var("ABBILD_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/abbild_reader.py");
    let output = Command::new(&python).arg(script).arg(repository).args(secret).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("cannot run {python}: {error}; ABBILD_TEST_PYTHON names another"));
    assert_ne!(
        output.status.code(),
        Some(2),
        "{python} cannot run the reader. It needs: pip install cryptography zstandard blake3 argon2-cffi \
         (ABBILD_TEST_PYTHON names the interpreter to use)\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn refused(output: &Output, expected: &str, what: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {message}");
    assert!(message.starts_with("error: ") && message.contains(expected), "{what}: {message}");
}

#[track_caller]
fn same_content(file: &Path, disk: &Content) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::open(file).unwrap();
    assert_eq!(file.metadata().unwrap().len(), disk.size);
    let (mut found, zeros) = (vec![0; SEGMENT_BYTES], vec![0; SEGMENT_BYTES]);
    let shape = MapShape::new(disk.size).unwrap();
    // Of the segments that are zeros only those around the others are compared: the wide disk has 8 GiB of them.
    let around = disk.segments.iter().flat_map(|(number, _)| number.saturating_sub(1)..number + 2);
    for number in around.filter(|number| *number < shape.segments()) {
        let len = shape.segment_len(number);
        file.read_exact_at(&mut found[..len], shape.segment_at(number)).unwrap();
        let expected = disk.segments.iter().find(|(at, _)| *at == number).map_or(&zeros[..len], |(_, bytes)| bytes);
        assert!(found[..len] == *expected, "segment {number} differs");
    }
    use std::os::unix::fs::MetadataExt;
    let written: usize = disk.segments.iter().map(|(_, bytes)| bytes.len()).sum();
    let allocated = file.metadata().unwrap().blocks() * 512;
    assert!(allocated <= written as u64 + (64 << 10), "{allocated} bytes allocated for {written}");
}

#[test]
fn the_reader_gives_every_disk_and_file_back_for_each_secret() {
    gives_all_back(&World::build());
}

#[test]
fn the_reader_follows_changes_of_keys() {
    gives_all_back(&World::of_epochs(3));
}

fn gives_all_back(world: &World) {
    let backup = world.backup.to_string();
    let target = world.path("out");
    let to = target.to_str().unwrap();
    let secrets = [
        ["--password-file".to_owned(), world.path("passphrase").display().to_string()],
        ["--key-file".to_owned(), world.path("key").display().to_string()],
    ];
    for secret in &secrets {
        let secret: Vec<&str> = secret.iter().map(String::as_str).collect();
        let listed = reader(&world.repository(), &secret, &[]);
        succeeded(&listed);
        let line: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!((&line["backup"], &line["machine"]), (&backup.as_str().into(), &"web1".into()));
        for (number, disk) in world.disks.iter().enumerate() {
            let arguments = ["--backup", &backup, "--disk", &number.to_string(), "--to", to];
            succeeded(&reader(&world.repository(), &secret, &arguments));
            same_content(&target, disk);
        }
        for (name, content) in &world.files {
            succeeded(&reader(&world.repository(), &secret, &["--backup", &backup, "--file", name, "--to", to]));
            assert!(fs::read(&target).unwrap() == *content, "{name}");
        }
    }
    succeeded(&world.read(&world.repository(), &["--check"]));
}

#[test]
fn a_wrong_secret_opens_nothing() {
    let world = World::build();
    fs::write(world.path("wrong"), PASSPHRASE.to_uppercase()).unwrap();
    let secret = ["--password-file", world.path("wrong").to_str().unwrap()].map(str::to_owned);
    let output = reader(&world.repository(), &[&secret[0], &secret[1]], &[]);
    refused(&output, "opens no key slot", "another passphrase");
    KeyFile::generate("another").save(&world.path("other-key")).unwrap();
    let output = reader(&world.repository(), &["--key-file", world.path("other-key").to_str().unwrap()], &[]);
    refused(&output, "opens no key slot", "another key file");
}

/// In each kind of object a bit is flipped at its start, its end, and places between; `--check` names the object each time.
#[test]
fn a_flipped_bit_in_any_kind_of_object_is_noticed() {
    let world = World::build();
    let repository = world.repository();
    for folder in ["config", "keys", "packs", "index", "manifests", "sessions", "generations"] {
        let objects = files_below(&repository.join(folder));
        assert!(!objects.is_empty(), "the repository has {folder}");
        for object in objects {
            let sound = fs::read(&object).unwrap();
            let name = object.strip_prefix(&repository).unwrap().to_str().unwrap().to_owned();
            let last = sound.len() - 1;
            // Magic, kind, epoch, salt, commitment, first part; then the middle, the trailer's parts, the end.
            let places = [0, 8, 11, 20, 60, 85, last / 2, last - 120, last - 42, last - 20, last];
            for at in places.into_iter().filter(|at| *at <= last) {
                let mut damaged = sound.clone();
                damaged[at] ^= 1 << (at % 8);
                fs::write(&object, damaged).unwrap();
                refused(&world.read(&repository, &["--check"]), &name, &format!("{name}, byte {at}"));
            }
            fs::write(&object, &sound[..last]).unwrap();
            refused(&world.read(&repository, &["--check"]), &name, &format!("{name} without its last byte"));
            fs::write(&object, &sound).unwrap();
        }
    }
    succeeded(&world.read(&repository, &["--check"]));
}

/// Sound objects under each other's names: nothing but the binding of names can notice.
#[test]
fn exchanged_objects_are_noticed() {
    let world = World::build();
    let repository = world.repository();
    for folder in ["packs", "keys"] {
        let objects = files_below(&repository.join(folder));
        let [first, second, ..] = objects.as_slice() else { panic!("two {folder} at least") };
        let (a, b) = (fs::read(first).unwrap(), fs::read(second).unwrap());
        fs::write(first, &b).unwrap();
        refused(&world.read(&repository, &["--check"]), "", &format!("two {folder} of one content"));
        fs::write(second, &a).unwrap();
        refused(&world.read(&repository, &["--check"]), "", &format!("exchanged {folder}"));
        fs::write(first, &a).unwrap();
        fs::write(second, &b).unwrap();
    }
    // A manifest of another repository with the same secret would need the same master secret: there is none. One of
    // this repository under another name is refused.
    let manifest = &files_below(&repository.join("manifests"))[0];
    let moved = manifest.with_file_name("00112233445566778899aabbccddeeff");
    fs::rename(manifest, &moved).unwrap();
    refused(&world.read(&repository, &[]), "key commitment", "a manifest under another name");
}

fn files_below(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut files: Vec<PathBuf> =
        fs::read_dir(path).unwrap().flat_map(|entry| files_below(&entry.unwrap().path())).collect();
    files.sort();
    files
}
