//! Where the members of a tar archive lie: an `.ova` is one, and what is in it is read in place, never unpacked.
//!
//! In here: listing members (ustar, GNU and pax), and opening the file or member that a path means: `web1.ova/web1.ovf`
//! leads through the archive. Not in here: what a member contains, which files may be opened.
//!
//! An archive is untrusted. Its names are only ever compared with the name that is looked for; none becomes a path of this
//! host. Source: POSIX.1-2017 "pax Interchange Format" and "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use tar::{EntryType, Header, PaxExtensions};

/// Headers, names and sizes come in blocks; every member begins on one.
const BLOCK_BYTES: u64 = 512;
/// Most members we list, the nameless ones that only carry a long name included; an appliance has a dozen.
const MEMBERS_MAX: usize = 4096;
/// Longest extended header or long name: it is held in memory. Linux has paths of 4 KiB.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name as the archive has it, without a leading `./`; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// Where its content begins in the archive.
    pub at: u64,
    /// Length of its content.
    pub len: u64,
    /// What it is.
    pub kind: MemberKind,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// A file, stored whole.
    File,
    /// A folder.
    Folder,
    /// Anything that is no plain run of bytes in the archive, in words.
    Other(&'static str),
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file or the system failed.
    #[error("cannot read {}", file.display())]
    Io {
        /// The archive, or the plain file that was asked for.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is damaged, or no tar archive.
    #[error("{}: {field} at offset {at:#x}: expected {expected}, found {found}", archive.display())]
    Corrupt {
        /// The archive.
        archive: PathBuf,
        /// Which structure; names the member as far as it is known.
        field: String,
        /// Where it lies.
        at: u64,
        /// What a sound archive has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// The member that was asked for cannot be read.
    #[error("{}: member {name:?}: expected {expected}, found {found}", archive.display())]
    Member {
        /// The archive.
        archive: PathBuf,
        /// The name looked for.
        name: String,
        /// What can be read.
        expected: &'static str,
        /// What there is.
        found: String,
    },
}

/// A file, or a member of an archive: bytes from `at` to `at + len` of an open file.
#[derive(Debug)]
pub struct Opened {
    /// The file itself, or the archive.
    pub file: File,
    /// Where the bytes begin.
    pub at: u64,
    /// How many there are.
    pub len: u64,
    /// The member's name, if it is one.
    pub member: Option<String>,
}

/// The archive and the member that `path` means, if it leads through a file; no file is opened.
pub fn through(path: &Path) -> Option<(PathBuf, String)> {
    // The common case, a path that simply is there (or is not, in a folder that is), costs one look at the parent.
    let archive = path.ancestors().skip(1).find(|above| !above.as_os_str().is_empty() && above.exists())?;
    if !archive.is_file() {
        return None;
    }
    let name = path.strip_prefix(archive).ok()?.to_str()?;
    Some((archive.to_path_buf(), name.to_owned()))
}

/// Opens a file, or the member of an archive that the path leads to.
///
/// # Errors
/// [`ArchiveError`] with the file, or archive and member.
pub fn open(path: &Path) -> Result<Opened, ArchiveError> {
    let io = |file: &Path, source| ArchiveError::Io { file: file.to_path_buf(), source };
    let (file_path, member) = match through(path) {
        Some((archive, name)) => (archive, Some(name)),
        None => (path.to_path_buf(), None),
    };
    // Without NONBLOCK, opening a pipe under that name would wait for ever.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(&file_path).map_err(|e| io(&file_path, e))?;
    let len = file.metadata().map_err(|e| io(&file_path, e))?.len();
    match member {
        None => Ok(Opened { file, at: 0, len, member: None }),
        Some(name) => {
            let found = member_of(&file, len, &file_path, &name)?;
            Ok(Opened { file, at: found.at, len: found.len, member: Some(name) })
        }
    }
}

/// The one file of that name in an open archive.
///
/// # Errors
/// [`ArchiveError::Member`] if there is none, more than one, or no plain file; [`ArchiveError::Corrupt`].
pub fn member_of(file: &File, len: u64, archive: &Path, name: &str) -> Result<Member, ArchiveError> {
    let members = members(file, len, archive)?;
    let refused = |expected, found: String| ArchiveError::Member {
        archive: archive.to_path_buf(),
        name: name.to_owned(),
        expected,
        found,
    };
    let mut fitting = members.into_iter().filter(|member| member.name == name);
    let Some(first) = fitting.next() else {
        return Err(refused("a member of that name", "none".to_owned()));
    };
    match (first.kind, fitting.count()) {
        (_, more @ 1..) => Err(refused("one member of that name", format!("{}", more + 1))),
        (MemberKind::File, 0) => Ok(first),
        (MemberKind::Folder, 0) => Err(refused("a file", "a folder".to_owned())),
        (MemberKind::Other(what), 0) => Err(refused("a file stored whole", what.to_owned())),
    }
}

/// Lists the members of an open archive of `len` bytes, in its order. Reads headers only.
///
/// # Errors
/// [`ArchiveError::Corrupt`] at the first header that is wrong, or a member that the archive does not hold whole.
pub fn members(file: &File, len: u64, archive: &Path) -> Result<Vec<Member>, ArchiveError> {
    let mut walk = Walk { file, len, archive, at: 0, extension: Extension::default() };
    let mut members = Vec::new();
    for _ in 0..MEMBERS_MAX {
        match walk.next()? {
            Step::End => return Ok(members),
            Step::Extension => {}
            Step::Member(member) => members.push(member),
        }
    }
    Err(walk.corrupt("members", walk.at, format!("at most {MEMBERS_MAX}"), "more"))
}

/// Whether a member's name can serve as the name of a file in some folder: plain parts, none of which leads elsewhere.
pub fn is_plain_name(name: &str) -> bool {
    let path = Path::new(name);
    !name.is_empty() && !name.ends_with('/') && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Where the listing is.
struct Walk<'a> {
    file: &'a File,
    len: u64,
    archive: &'a Path,
    at: u64,
    extension: Extension,
}

/// What headers before a member say about it.
#[derive(Default)]
struct Extension {
    name: Option<String>,
    len: Option<u64>,
    is_sparse: bool,
}

enum Step {
    End,
    Extension,
    Member(Member),
}

impl Walk<'_> {
    fn next(&mut self) -> Result<Step, ArchiveError> {
        let at = self.at;
        // Two blocks of zeros end an archive. Many end without: their last member is whole all the same.
        if at == self.len {
            return Ok(Step::End);
        }
        let mut block = [0; BLOCK_BYTES as usize];
        self.read("header", at, &mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Step::End);
        }
        let header = Header::from_byte_slice(&block);
        let sum: u32 =
            (0..).zip(&block).map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u32::from(*byte) }).sum();
        if header.cksum().ok() != Some(sum) {
            let found = header.cksum().map_or_else(|_| "no number".to_owned(), |found| found.to_string());
            return Err(self.corrupt("header checksum", at, format!("{sum} (a tar archive)"), &found));
        }
        let own_name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        let extension = std::mem::take(&mut self.extension);
        let name = extension.name.clone().unwrap_or(own_name);
        let name = name.trim_start_matches("./").to_owned();
        let field = format!("size of member {:?}", shortened(&name));
        let len = match extension.len {
            Some(len) => len,
            None => header
                .entry_size()
                .map_err(|error| self.corrupt(&field, at, "a number".to_owned(), &error.to_string()))?,
        };
        let content = at + BLOCK_BYTES; // the header was read, so it lies in the file
        let end = content.checked_add(len).filter(|end| *end <= self.len);
        let Some(end) = end else {
            let expected = format!("at most the {} bytes that follow", self.len - content);
            return Err(self.corrupt(&field, at, expected, &format!("{len} (a truncated archive)")));
        };
        // The last member's padding may be missing.
        self.at = end.next_multiple_of(BLOCK_BYTES).min(self.len);
        let kind = match header.entry_type() {
            EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                self.extension = extension;
                self.extend(header.entry_type(), content, len)?;
                return Ok(Step::Extension);
            }
            EntryType::XGlobalHeader => {
                self.extension = extension;
                return Ok(Step::Extension);
            }
            EntryType::Regular | EntryType::Continuous if extension.is_sparse => MemberKind::Other("a sparse file"),
            // Old archives mark a folder by the slash at the end of its name.
            EntryType::Regular | EntryType::Continuous if name.ends_with('/') => MemberKind::Folder,
            EntryType::Regular | EntryType::Continuous => MemberKind::File,
            EntryType::Directory => MemberKind::Folder,
            EntryType::GNUSparse => MemberKind::Other("a sparse file"),
            EntryType::Link => MemberKind::Other("a hard link"),
            EntryType::Symlink => MemberKind::Other("a symbolic link"),
            EntryType::Char | EntryType::Block | EntryType::Fifo => MemberKind::Other("a device or pipe"),
            _ => MemberKind::Other("a member of an unknown kind"),
        };
        Ok(Step::Member(Member { name, at: content, len, kind }))
    }

    /// Takes in a header that is about the member after it.
    fn extend(&mut self, kind: EntryType, at: u64, len: u64) -> Result<(), ArchiveError> {
        if len > EXTENSION_BYTES_MAX {
            let expected = format!("at most {EXTENSION_BYTES_MAX} bytes");
            return Err(self.corrupt("extended header", at, expected, &len.to_string()));
        }
        let mut content = vec![0; usize::try_from(len).expect("64 KiB at most")];
        self.read("extended header", at, &mut content)?;
        match kind {
            EntryType::GNULongName => {
                let name = content.split(|byte| *byte == 0).next().unwrap_or_default();
                self.extension.name = Some(String::from_utf8_lossy(name).into_owned());
            }
            EntryType::XHeader => {
                for record in PaxExtensions::new(&content) {
                    let record = record.map_err(|error| {
                        self.corrupt("extended header", at, "records".to_owned(), &error.to_string())
                    })?;
                    match record.key_bytes() {
                        b"path" => {
                            self.extension.name = Some(String::from_utf8_lossy(record.value_bytes()).into_owned());
                        }
                        b"size" => {
                            let text = String::from_utf8_lossy(record.value_bytes()).into_owned();
                            let len = text.parse().map_err(|_| {
                                self.corrupt(
                                    "size in the extended header",
                                    at,
                                    "a number".to_owned(),
                                    &shortened(&text),
                                )
                            })?;
                            self.extension.len = Some(len);
                        }
                        key if key.starts_with(b"GNU.sparse.") => self.extension.is_sparse = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn read(&self, field: &str, at: u64, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        let left = self.len.saturating_sub(at);
        if left < buffer.len() as u64 {
            return Err(self.corrupt(
                field,
                at,
                format!("{} bytes", buffer.len()),
                &format!("{left} (a truncated archive)"),
            ));
        }
        let failed = |source| ArchiveError::Io { file: self.archive.to_path_buf(), source };
        self.file.read_exact_at(buffer, at).map_err(failed)
    }

    fn corrupt(&self, field: &str, at: u64, expected: String, found: &str) -> ArchiveError {
        let (field, found) = (field.to_owned(), found.to_owned());
        ArchiveError::Corrupt { archive: self.archive.to_path_buf(), field, at, expected, found }
    }
}

/// Text of the archive as an error may quote it.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    text.chars().take(CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive_of(bytes: &[u8]) -> (tempfile::NamedTempFile, Result<Vec<Member>, ArchiveError>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let members = members(file.as_file(), bytes.len() as u64, Path::new("x.ova"));
        (file, members)
    }

    fn block(name: &str, kind: EntryType, len: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(len);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn member(name: &str, kind: EntryType, content: &[u8]) -> Vec<u8> {
        let mut bytes = block(name, kind, content.len() as u64);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn pax(records: &[(&str, &str)]) -> Vec<u8> {
        let line = |key: &str, value: &str| {
            let rest = format!(" {key}={value}\n");
            let len = (1..).find(|digits| format!("{}", digits + rest.len()).len() == *digits).unwrap() + rest.len();
            format!("{len}{rest}")
        };
        let text: String = records.iter().map(|(key, value)| line(key, value)).collect();
        member("PaxHeader", EntryType::XHeader, text.as_bytes())
    }

    #[track_caller]
    fn lists(bytes: &[u8], expected: &[(&str, u64, u64, MemberKind)]) {
        let found = archive_of(bytes).1.unwrap();
        let found: Vec<_> = found.iter().map(|m| (m.name.as_str(), m.at, m.len, m.kind)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn members_of_all_dialects() {
        const FILE: MemberKind = MemberKind::File;
        lists(&[], &[]);
        lists(&[0; 1024], &[]);
        let two = [member("a.ovf", EntryType::Regular, b"<x/>"), member("./b", EntryType::Regular, &[7; 513])].concat();
        lists(&two, &[("a.ovf", 512, 4, FILE), ("b", 1536, 513, FILE)]);
        lists(&[two.clone(), vec![0; 1024], vec![9; 512]].concat(), &[("a.ovf", 512, 4, FILE), ("b", 1536, 513, FILE)]);
        lists(&two[..1536 + 513], &[("a.ovf", 512, 4, FILE), ("b", 1536, 513, FILE)]); // no padding at the end

        let long = "d/".repeat(100) + "disk.vmdk";
        let gnu = [member("././@LongLink", EntryType::GNULongName, format!("{long}\0").as_bytes())].concat();
        lists(&[gnu, member("cut", EntryType::Regular, b"1")].concat(), &[(&long, 1536, 1, FILE)]);
        // The size of the pax header counts, also for where the next member begins.
        let sized =
            [pax(&[("path", &long), ("size", "600")]), block("x", EntryType::Regular, 0), vec![1; 1024]].concat();
        let next = member("y", EntryType::Regular, b"");
        lists(&[sized, next].concat(), &[(&long, 1536, 600, FILE), ("y", 3072, 0, FILE)]);

        let others = [
            member("d/", EntryType::Directory, b""),
            member("old/", EntryType::Regular, b""),
            member("l", EntryType::Symlink, b""),
            pax(&[("GNU.sparse.major", "1")]),
            member("s", EntryType::Regular, b""),
        ];
        let kinds: Vec<_> = archive_of(&others.concat()).1.unwrap().iter().map(|m| m.kind).collect();
        let other = MemberKind::Other;
        let (folder, link, sparse) = (MemberKind::Folder, other("a symbolic link"), other("a sparse file"));
        assert_eq!(kinds, [folder, folder, link, sparse]);
    }

    #[test]
    fn sizes_beyond_eight_gibibytes_are_numbers_in_base_256() {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..1].copy_from_slice(b"x");
        header.set_size(9 << 30);
        header.set_cksum();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(header.as_bytes(), 0).unwrap();
        let len = 512 + (9 << 30) + 1024;
        file.set_len(len).unwrap();
        assert_eq!(members(&file, len, Path::new("x.ova")).unwrap()[0].len, 9 << 30);
        let error = members(&file, len / 2, Path::new("x.ova")).unwrap_err().to_string();
        assert!(error.contains("size of member \"x\" at offset 0x0") && error.contains("truncated"), "{error}");
    }

    #[track_caller]
    fn refused(bytes: &[u8], said: &str) {
        let error = archive_of(bytes).1.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }

    #[test]
    fn hostile_archives_are_refused() {
        refused(b"hello", "header at offset 0x0: expected 512 bytes, found 5 (a truncated archive)");
        refused(&[7; 512], "header checksum at offset 0x0: expected 3784 (a tar archive), found no number");
        let mut flipped = member("a", EntryType::Regular, b"");
        flipped[0] = b'b';
        refused(&flipped, "header checksum");
        refused(&block("big", EntryType::Regular, 1), "at most the 0 bytes that follow");
        refused(&block("n", EntryType::GNULongName, 1 << 20), "truncated");
        let long = [block("n", EntryType::GNULongName, 1 << 20), vec![b'x'; 1 << 20]].concat();
        refused(&long, "extended header at offset 0x200: expected at most 65536 bytes");
        refused(&[pax(&[("size", "-1")]), block("x", EntryType::Regular, 0)].concat(), "expected a number, found -1");
        let huge = [pax(&[("size", "18446744073709551615")]), block("x", EntryType::Regular, 0)].concat();
        refused(&huge, "at most the 0 bytes that follow, found 18446744073709551615");
        refused(&member("a", EntryType::Regular, b"").repeat(MEMBERS_MAX + 1), "members at offset");
    }

    #[test]
    fn a_path_leads_through_an_archive_to_one_plain_file() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("x.ova");
        let parts = [
            member("a", EntryType::Regular, b"12345"),
            member("sub/b", EntryType::Regular, b"67"),
            member("../../etc/shadow", EntryType::Regular, b"8"),
            member("twice", EntryType::Regular, b""),
            member("twice", EntryType::Regular, b""),
            member("link", EntryType::Symlink, b""),
        ];
        std::fs::write(&archive, parts.concat()).unwrap();
        let content = |path: PathBuf| -> Result<Vec<u8>, ArchiveError> {
            let opened = open(&path)?;
            let mut bytes = vec![0; opened.len as usize];
            opened.file.read_exact_at(&mut bytes, opened.at).unwrap();
            Ok(bytes)
        };
        assert_eq!(content(archive.join("a")).unwrap(), b"12345");
        assert_eq!(content(archive.join("sub/b")).unwrap(), b"67");
        assert_eq!(content(archive.join("../../etc/shadow")).unwrap(), b"8"); // the member, not the host's file
        assert_eq!(content(archive.clone()).unwrap().len() as u64, std::fs::metadata(&archive).unwrap().len());
        for (name, said) in [
            ("c", "expected a member of that name, found none"),
            ("twice", "expected one member of that name, found 2"),
            ("link", "expected a file stored whole, found a symbolic link"),
        ] {
            let error = content(archive.join(name)).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(matches!(open(&folder.path().join("none")), Err(ArchiveError::Io { .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(noise in proptest::collection::vec(0u8.., 0..3000), at in 0usize..1100, value in 0u8..) {
            let _ = archive_of(&noise).1;
            let mut bytes = [pax(&[("path", "x")]), member("a", EntryType::Regular, b"1")].concat();
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            let _ = archive_of(&bytes).1;
        }
    }
}
