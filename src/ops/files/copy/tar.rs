//! Copies as a stream: a PAX archive, as GNU tar, bsdtar and others read it.
//!
//! What does not fit the plain header stands in a PAX header before it: long names and names that are no ASCII, times below
//! the second, large numbers, extended attributes (`SCHILY.xattr.…`), access control lists (`SCHILY.acl.…`). Files with holes
//! are sparse in GNU's PAX form 1.0. Source: POSIX pax, and the manual of GNU tar, "Sparse formats".
//!
//! A stream cannot take anything back: content is in memory, or was read once to its end, before its header is written.

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use super::acl;
use super::{Losses, Node, Sink};
use crate::guest::tree::{NodeKind, Time};
use crate::ops::Control;
use crate::ops::files::FilesError;

/// Files up to this size are read once, into memory.
const IN_MEMORY_BYTES_MAX: u64 = 4 << 20;
/// Most runs of data of a file that is stored as sparse; what has more is stored in full.
const RUNS_MAX: usize = 1 << 18;
/// The largest number of the plain header's seven octal digits.
const SEVEN_DIGITS_MAX: u64 = 0o7_777_777;
/// The largest number of its eleven digits.
const ELEVEN_DIGITS_MAX: u64 = 0o77_777_777_777;
const BLOCK: usize = 512;

/// An archive being written.
pub struct TarSink<W: Write> {
    archive: Builder<W>,
    losses: Losses,
}

type Records = Vec<(String, Vec<u8>)>;

impl<W: Write> TarSink<W> {
    /// An archive on `out`.
    pub fn new(out: W) -> TarSink<W> {
        TarSink { archive: Builder::new(out), losses: Losses::default() }
    }

    /// Writes the end.
    ///
    /// # Errors
    /// [`FilesError::Stream`].
    pub fn finish(&mut self) -> Result<(), FilesError> {
        self.archive.finish().and_then(|()| self.archive.get_mut().flush()).map_err(FilesError::Stream)
    }

    fn append(&mut self, mut header: Header, records: &Records, content: &mut dyn Read) -> Result<(), FilesError> {
        header.set_cksum();
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.archive.append_pax_extensions(records).map_err(FilesError::Stream)?;
        self.archive.append(&header, content).map_err(FilesError::Stream)
    }

    /// A node without content.
    fn plain(&mut self, node: &Node<'_>, kind: EntryType, link: Option<&[u8]>) -> Result<(), FilesError> {
        let mut path = if node.path.is_empty() { b".".to_vec() } else { node.path.to_vec() };
        if kind == EntryType::Directory {
            path.push(b'/');
        }
        let (mut header, mut records) = self.header(node, kind, &path)?;
        if let Some(link) = link {
            put_name(&mut header.as_ustar_mut().expect("made so").linkname, link, "linkpath", &mut records);
        }
        self.append(header, &records, &mut io::empty())
    }

    fn header(&mut self, node: &Node<'_>, kind: EntryType, path: &[u8]) -> Result<(Header, Records), FilesError> {
        let metadata = node.metadata;
        let (mut header, mut records) = (Header::new_ustar(), Records::new());
        header.set_entry_type(kind);
        put_name(&mut header.as_ustar_mut().expect("made so").name, path, "path", &mut records);
        header.set_mode(metadata.mode.into());
        header.set_uid(small(metadata.uid.into(), SEVEN_DIGITS_MAX, "uid", &mut records));
        header.set_gid(small(metadata.gid.into(), SEVEN_DIGITS_MAX, "gid", &mut records));
        header.set_size(0);
        let whole = u64::try_from(metadata.modified.seconds).unwrap_or(0).min(ELEVEN_DIGITS_MAX);
        header.set_mtime(whole);
        if metadata.modified != (Time { seconds: i64::try_from(whole).unwrap_or(0), nanoseconds: 0 }) {
            records.push(("mtime".to_owned(), decimal(metadata.modified).into_bytes()));
        }
        if let Some((major, minor)) = metadata.device {
            let fits = header.set_device_major(major).and_then(|()| header.set_device_minor(minor));
            fits.map_err(FilesError::Stream)?;
        }
        if kind != EntryType::Link {
            self.attributes(node, &mut records);
        }
        Ok((header, records))
    }

    fn attributes(&mut self, node: &Node<'_>, records: &mut Records) {
        for attribute in node.attributes {
            let list = match attribute.name.as_slice() {
                acl::ACCESS => Some("SCHILY.acl.access"),
                acl::DEFAULT => Some("SCHILY.acl.default"),
                _ => None,
            };
            let record = match (list, std::str::from_utf8(&attribute.name)) {
                (Some(key), _) => acl::to_text(&attribute.value).map(|text| (key.to_owned(), text.into_bytes())),
                // `=` ends a key; GNU tar writes and reads it so.
                (None, Ok(name)) => {
                    let name = name.replace('%', "%25").replace('=', "%3D");
                    Some((format!("SCHILY.xattr.{name}"), attribute.value.clone()))
                }
                (None, Err(_)) => None,
            };
            match record {
                Some(record) => records.push(record),
                None => {
                    let reason = format!("an archive cannot have {:?}", String::from_utf8_lossy(&attribute.name));
                    self.losses.lost("extended attributes", node.place, &reason);
                }
            }
        }
    }

    /// A file with holes: a map, then only the data.
    fn sparse(&mut self, node: &Node<'_>, runs: &[(u64, u64)], control: Control<'_>) -> Result<(), FilesError> {
        let size = node.metadata.size;
        verify(node, control)?;
        let map = sparse_map(runs, size);
        let stored = runs.iter().map(|(start, end)| end - start).sum::<u64>() + map.len() as u64;
        let (folder, name) = match node.path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => node.path.split_at(at + 1),
            None => (&b""[..], node.path),
        };
        // The name that readers without this form give it.
        let path = [folder, b"GNUSparseFile.0/", name].concat();
        let (mut header, mut records) = self.header(node, EntryType::Regular, &path)?;
        records.push(("GNU.sparse.major".to_owned(), b"1".to_vec()));
        records.push(("GNU.sparse.minor".to_owned(), b"0".to_vec()));
        records.push(("GNU.sparse.name".to_owned(), node.path.to_vec()));
        records.push(("GNU.sparse.realsize".to_owned(), size.to_string().into_bytes()));
        header.set_size(small(stored, ELEVEN_DIGITS_MAX, "size", &mut records));
        let mut content = Content { node, runs: runs.iter(), run: (0, 0) };
        self.append(header, &records, &mut map.as_slice().chain(&mut content))
    }
}

impl<W: Write> Sink for TarSink<W> {
    fn enter(&mut self, node: &Node<'_>) -> Result<(), FilesError> {
        self.plain(node, EntryType::Directory, None)
    }

    fn leave(&mut self, _: &Node<'_>) -> Result<(), FilesError> {
        Ok(())
    }

    fn file(&mut self, node: &Node<'_>, control: Control<'_>) -> Result<(), FilesError> {
        let size = node.metadata.size;
        let (mut runs, mut data): (Vec<(u64, u64)>, u64) = (Vec::new(), 0);
        node.readable().data_runs(size, &mut |start, end| {
            data += end - start;
            let has_room = runs.len() < RUNS_MAX;
            match runs.last_mut() {
                Some((_, last)) if *last == start => *last = end,
                _ if has_room => runs.push((start, end)),
                _ => {}
            }
            Ok(())
        })?;
        if data < size && runs.len() < RUNS_MAX {
            return self.sparse(node, &runs, control);
        }
        let in_memory = if size <= IN_MEMORY_BYTES_MAX {
            let mut bytes = vec![0; usize::try_from(size).expect("a few MiB")];
            node.readable().read_data(size, control, &mut |at, piece| {
                let at = usize::try_from(at).expect("inside the file");
                bytes[at..at + piece.len()].copy_from_slice(piece);
                Ok(())
            })?;
            Some(bytes)
        } else {
            verify(node, control)?;
            None
        };
        let (mut header, mut records) = self.header(node, EntryType::Regular, node.path)?;
        header.set_size(small(size, ELEVEN_DIGITS_MAX, "size", &mut records));
        let whole = [(0, size)];
        match in_memory {
            Some(bytes) => self.append(header, &records, &mut bytes.as_slice()),
            None => self.append(header, &records, &mut Content { node, runs: whole.iter(), run: (0, 0) }),
        }
    }

    fn hard_link(&mut self, node: &Node<'_>, first: &[u8]) -> Result<bool, FilesError> {
        self.plain(node, EntryType::Link, Some(first)).map(|()| true)
    }

    fn symlink(&mut self, node: &Node<'_>, target: &[u8]) -> Result<(), FilesError> {
        self.plain(node, EntryType::Symlink, Some(target))
    }

    fn special(&mut self, node: &Node<'_>) -> Result<(), FilesError> {
        let kind = match node.metadata.kind {
            NodeKind::CharacterDevice => EntryType::Char,
            NodeKind::BlockDevice => EntryType::Block,
            NodeKind::Fifo => EntryType::Fifo,
            _ => {
                self.losses.not_tried(
                    "sockets",
                    node.place,
                    &"archives have none, and without its program it is nothing",
                );
                return Ok(());
            }
        };
        self.plain(node, kind, None)
    }

    fn losses(&mut self) -> &mut Losses {
        &mut self.losses
    }
}

/// Reads a file to its end, to know that it can be.
fn verify(node: &Node<'_>, control: Control<'_>) -> Result<(), FilesError> {
    node.readable().read_data(node.metadata.size, control, &mut |_, _| Ok(()))
}

/// The data of a file, run after run.
struct Content<'c> {
    node: &'c Node<'c>,
    runs: std::slice::Iter<'c, (u64, u64)>,
    /// What is left of the present run.
    run: (u64, u64),
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.run.0 == self.run.1 {
            let Some(next) = self.runs.next() else { return Ok(0) };
            self.run = *next;
        }
        let (at, end) = self.run;
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
        let read = self.node.filesystem.read_at(self.node.id, at, &mut buf[..len]).map_err(io::Error::other)?;
        if read < len {
            return Err(io::Error::other(format!("{} is shorter than it was a moment ago", self.node.place)));
        }
        self.run.0 += len as u64;
        Ok(len)
    }
}

/// A name in its field of the header; if it does not fit or is no ASCII, also as a record.
fn put_name(field: &mut [u8; 100], name: &[u8], key: &str, records: &mut Records) {
    let len = name.len().min(field.len());
    field[..len].copy_from_slice(&name[..len]);
    if name.len() > field.len() || !name.is_ascii() {
        records.push((key.to_owned(), name.to_vec()));
    }
}

/// A number for the header; one that is too large stands in a record, and 0 in the header.
fn small(number: u64, max: u64, key: &str, records: &mut Records) -> u64 {
    if number <= max {
        return number;
    }
    records.push((key.to_owned(), number.to_string().into_bytes()));
    0
}

/// Seconds with their fraction; before 1970 both count downwards.
fn decimal(time: Time) -> String {
    let text = if time.seconds < 0 && time.nanoseconds > 0 {
        let whole = (time.seconds + 1).unsigned_abs();
        format!("-{whole}.{:09}", 1_000_000_000 - time.nanoseconds)
    } else if time.nanoseconds > 0 {
        format!("{}.{:09}", time.seconds, time.nanoseconds)
    } else {
        return time.seconds.to_string();
    };
    text.trim_end_matches('0').to_owned()
}

/// Decimal lines, filled up to whole blocks: number of runs, then start and length of each. A hole at the end needs an empty
/// run behind it: GNU tar makes the file no longer than its last run.
fn sparse_map(runs: &[(u64, u64)], size: u64) -> Vec<u8> {
    let end = if runs.last().is_none_or(|(_, end)| *end < size) { Some((size, size)) } else { None };
    let mut map = format!("{}\n", runs.len() + usize::from(end.is_some()));
    for (start, end) in runs.iter().chain(&end) {
        map.push_str(&format!("{start}\n{}\n", end - start));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_also_before_1970() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1_700_000_000, 500_000_000, "1700000000.5"),
            (1, 1, "1.000000001"),
            (-1, 0, "-1"),
            (-1, 250_000_000, "-0.75"),
            (-2, 999_999_999, "-1.000000001"),
        ] {
            assert_eq!(decimal(Time { seconds, nanoseconds }), text);
        }
    }

    #[test]
    fn maps_fill_blocks() {
        assert!(sparse_map(&[], 7).starts_with(b"1\n7\n0\n\0"));
        let map = sparse_map(&[(4096, 8192), (1 << 40, (1 << 40) + 1)], (1 << 40) + 1);
        assert!(map.starts_with(b"2\n4096\n4096\n1099511627776\n1\n\0"));
        assert_eq!(map.len(), 512);
    }
}
