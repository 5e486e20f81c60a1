//! A temporary folder, filled from a few bytes: image files are megabytes of which the fuzzer should see only what is not
//! zero.
//!
//! Layout of an input, little-endian; whatever is cut short is as if the rest were not there:
//!
//!     options 1 | entry …
//!     entry   kind 2 bits, name length 6 bits | name | content length 3 | content
//!             kind 0 and 1 a file, 2 a symlink (content is where it leads), 3 a folder
//!     file    length in sectors 4 | bytes more 2 | record …
//!     record  sector 4 | length 2 | bytes
//!
//! A length with all bits set means the rest, so that inserting a byte does not break it. The first file is the one that
//! is opened. Names are made harmless: nothing is ever made outside the folder.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use abbild::formats::FileState;

/// Longest file that is made: sparse, so it costs nothing but the reading of what claims to be in it.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most entries of a folder.
const ENTRIES_MAX: usize = 96;
/// Bytes in a sector.
const SECTOR: u64 = 512;
/// Options: make checksums right.
pub const REPAIR: u8 = 1;

/// What a folder is to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What a judge does besides; see [`REPAIR`].
    pub options: u8,
    /// In order; the first file is the one that is opened.
    pub entries: Vec<Entry>,
}

/// Something in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative, with `/` between folders.
    pub name: String,
    /// What it is.
    pub content: Content,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file of this length, zeros but for these bytes at these offsets.
    File(u64, Vec<(u64, Vec<u8>)>),
    /// A symlink that leads there.
    Link(String),
    /// A folder.
    Folder,
}

impl Content {
    /// A file of these bytes: its records are what is not zero, in whole sectors but for zeros at their end.
    #[allow(dead_code, reason = "the fuzzer only decodes")]
    pub fn file(bytes: &[u8]) -> Content {
        let mut records: Vec<(u64, Vec<u8>)> = Vec::new();
        for (number, sector) in (0u64..).zip(bytes.chunks(SECTOR as usize)) {
            if sector.iter().all(|byte| *byte == 0) {
                continue;
            }
            let at = number * SECTOR;
            match records.last_mut() {
                Some((start, run)) if *start + run.len() as u64 == at && run.len() < 32 << 10 => run.extend(sector),
                _ => records.push((at, sector.to_vec())),
            }
        }
        for (_, run) in &mut records {
            let end = run.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            run.truncate(end);
        }
        Content::File(bytes.len() as u64, records)
    }
}

/// Takes an input apart; any bytes are a plan.
pub fn decode(input: &[u8]) -> Plan {
    let mut rest = input;
    let mut plan = Plan { options: take(&mut rest, 1).first().copied().unwrap_or(0), entries: Vec::new() };
    while let Some(head) = take(&mut rest, 1).first().copied()
        && plan.entries.len() < ENTRIES_MAX
    {
        let name = harmless(take(&mut rest, usize::from(head & 0x3f)));
        let len = number(take(&mut rest, 3));
        let mut content = take(&mut rest, if len == 0xff_ffff { usize::MAX } else { len });
        let content = match head >> 6 {
            2 => Content::Link(String::from_utf8_lossy(content).replace('\0', "_")),
            3 => Content::Folder,
            _ => {
                let (sectors, more) = (number(take(&mut content, 4)), number(take(&mut content, 2)));
                Content::File((sectors as u64 * SECTOR + more as u64).min(FILE_BYTES_MAX), records(content))
            }
        };
        plan.entries.push(Entry { name, content });
    }
    plan
}

fn records(mut content: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    while !content.is_empty() {
        let (sector, len) = (number(take(&mut content, 4)), number(take(&mut content, 2)));
        let bytes = take(&mut content, if len == 0xffff { usize::MAX } else { len });
        records.push((sector as u64 * SECTOR, bytes.to_vec()));
    }
    records
}

/// The input that [`decode`] takes for `plan`.
#[allow(dead_code, reason = "the fuzzer only decodes")]
pub fn encode(plan: &Plan) -> Vec<u8> {
    let mut out = vec![plan.options];
    for entry in &plan.entries {
        let (kind, content) = match &entry.content {
            Content::File(len, records) => {
                let mut content = Vec::new();
                content.extend(u32::try_from(len / SECTOR).expect("a file below 2 TiB").to_le_bytes());
                content.extend(((len % SECTOR) as u16).to_le_bytes());
                for (at, bytes) in records {
                    content.extend(u32::try_from(at / SECTOR).expect("a file below 2 TiB").to_le_bytes());
                    content.extend(u16::try_from(bytes.len()).expect("records of at most 32 KiB").to_le_bytes());
                    content.extend(bytes);
                }
                (0, content)
            }
            Content::Link(to) => (2, to.as_bytes().to_vec()),
            Content::Folder => (3, Vec::new()),
        };
        out.push(kind << 6 | u8::try_from(entry.name.len()).ok().filter(|len| *len < 64).expect("short names"));
        out.extend(entry.name.as_bytes());
        out.extend(&u32::try_from(content.len()).expect("short content").to_le_bytes()[..3]);
        out.extend(content);
    }
    out
}

/// Takes up to `len` bytes off the front.
fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(len.min(rest.len()));
    *rest = left;
    taken
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// A relative path of ordinary names.
fn harmless(name: &[u8]) -> String {
    let part = |part: &[u8]| -> String {
        let chars = part.iter().map(|byte| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'{' | b'}' | b' ' => char::from(*byte),
            _ => '_',
        });
        let plain: String = chars.collect();
        if plain.bytes().all(|byte| byte == b'.') { "_".to_string() } else { plain }
    };
    name.split(|byte| *byte == b'/').map(part).collect::<Vec<_>>().join("/")
}

/// A folder of this process, which holds one plan at a time.
pub struct Stage {
    /// Removes everything at the end.
    _root: tempfile::TempDir,
    folder: PathBuf,
}

impl Stage {
    /// An empty folder in a temporary one, two levels deep, so that what looks into the folders above finds nothing of
    /// others.
    pub fn new() -> Stage {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = root.path().join("machines/web1");
        fs::create_dir_all(&folder).expect("a folder can be made in a temporary one");
        let folder = folder.canonicalize().expect("the folder was just made");
        Stage { _root: root, folder }
    }

    /// The folder, canonical.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes what the plan says in place of what was there; gives the first file. Of two entries that cannot both be,
    /// the first one is.
    pub fn fill(&self, plan: &Plan) -> Option<PathBuf> {
        fs::remove_dir_all(&self.folder).expect("what the stage made it can remove");
        fs::create_dir(&self.folder).expect("the folder above is there");
        let mut first = None;
        for entry in &plan.entries {
            let path = self.folder.join(&entry.name);
            let made = self.make_folders_of(&entry.name).and_then(|()| match &entry.content {
                Content::File(len, records) => new_file(&path, *len, records),
                Content::Link(to) => symlink(to, &path),
                Content::Folder => fs::create_dir(&path),
            });
            if made.is_ok() && matches!(entry.content, Content::File(..)) {
                first.get_or_insert(path);
            }
        }
        first
    }

    /// Makes the folders above an entry. A symlink is not followed: it leads anywhere.
    fn make_folders_of(&self, name: &str) -> io::Result<()> {
        let mut folder = self.folder.clone();
        for part in name.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev() {
            folder.push(part);
            match fs::symlink_metadata(&folder) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
                Err(_) => fs::create_dir(&folder)?,
            }
        }
        Ok(())
    }
}

fn new_file(path: &Path, len: u64, records: &[(u64, Vec<u8>)]) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(len)?;
    for (at, bytes) in records {
        let fits = usize::try_from(len.saturating_sub(*at)).unwrap_or(usize::MAX).min(bytes.len());
        file.write_all_at(&bytes[..fits], *at)?;
    }
    // A time long past: whoever writes to the file gives it another, however coarse the clock.
    file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))
}

/// What every file of the folder is: for a comparison before and after.
pub fn states(folder: &Path) -> Vec<FileState> {
    let mut states = Vec::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(kind) if kind.is_file() => states.extend(FileState::of_path(&entry.path()).ok()),
                _ => {}
            }
        }
    }
    states.sort_by(|one, other| one.path.cmp(&other.path));
    states
}
