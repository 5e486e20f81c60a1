//! Rock Ridge: what POSIX needs to know of a node, from fields of its directory record.
//!
//! `PX` mode, links, owner, group 8 each (and a serial number that nobody needs) · `PN` device 8, 8 · `NM` flags 1, a piece
//! of the name · `SL` flags 1, components of a link's target: flags 1, length 1, text · `TF` flags 1, dates · `CL` where the
//! directory went that should be here 8, `RE` a directory that should be elsewhere · `ZF` compressed · `SF` sparse.

use nom::Parser;
use nom::bytes::complete::take;
use nom::combinator::map_parser;

use super::susp::Field;
use super::zisofs::Compressed;
use super::{both, corrupt, date};
use crate::guest::GuestError;
use crate::guest::tree::{NAME_BYTES_MAX, Time};

/// Longest target of a link: Linux has no longer paths.
const TARGET_BYTES_MAX: usize = 4096;

/// What Rock Ridge says about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RockRidge {
    pub posix: Option<Posix>,
    pub device: Option<(u32, u32)>,
    pub name: Option<Vec<u8>>,
    pub target: Option<Vec<u8>>,
    pub created: Option<Time>,
    pub modified: Option<Time>,
    pub accessed: Option<Time>,
    pub changed: Option<Time>,
    /// The block of the directory whose place this is.
    pub child: Option<u32>,
    /// It is shown elsewhere.
    pub relocated: bool,
    pub compressed: Option<Compressed>,
    pub sparse: bool,
}

/// Mode and owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posix {
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Whether a root's fields show that the volume has Rock Ridge.
pub(crate) fn is_there(fields: &[Field]) -> bool {
    fields.iter().any(|field| matches!(&field.signature, b"PX" | b"RR" | b"NM" | b"TF"))
        || fields.iter().any(|field| {
            let ids: [&[u8]; 3] = [b"RRIP_1991A", b"IEEE_P1282", b"IEEE_1282"];
            field.signature == *b"ER" && ids.iter().any(|id| field.data.get(4..).is_some_and(|it| it.starts_with(id)))
        })
}

/// Reads the fields of a record.
pub(crate) fn read(fields: &[Field]) -> Result<RockRidge, GuestError> {
    let mut node = RockRidge::default();
    let mut target = Target::default();
    for Field { signature, data, at } in fields {
        let at = *at;
        match signature {
            b"PX" => {
                let [mode, links, uid, gid] = numbers("mode and owners (PX)", data, at)?;
                node.posix = Some(Posix { mode, links, uid, gid });
            }
            b"PN" => {
                let [high, low] = numbers("device (PN)", data, at)?;
                node.device = Some(device(high, low));
            }
            b"NM" => add_name(&mut node.name, data, at)?,
            b"SL" => target.add(data, at)?,
            b"TF" => node.add_times(data, at)?,
            b"CL" => {
                let [block] = numbers("relocated directory (CL)", data, at)?;
                node.child = Some(block);
            }
            b"RE" => node.relocated = true,
            b"ZF" => node.compressed = Some(Compressed::read(data, at)?),
            b"SF" => node.sparse = true,
            _ => {}
        }
    }
    node.target = target.bytes;
    Ok(node)
}

/// Numbers in both byte orders.
fn numbers<const N: usize>(field: &'static str, data: &[u8], at: u64) -> Result<[u32; N], GuestError> {
    let mut numbers = [0; N];
    let mut rest = data;
    for number in &mut numbers {
        let parsed = map_parser(take(8usize), both).parse(rest);
        let (left, both) = parsed.map_err(|_: nom::Err<nom::error::Error<&[u8]>>| {
            corrupt(field, at, format!("{} bytes", N * 8), format!("{} bytes", data.len()))
        })?;
        *number = both.agreed(field, at)?;
        rest = left;
    }
    Ok(numbers)
}

/// Half of the writers store major and minor, the others a `dev_t` of 64 bits; there the high half is 0 for all that has
/// less than 32 bits.
fn device(high: u32, low: u32) -> (u32, u32) {
    if high == 0 && low > 0xff { (low >> 8 & 0xfff, low & 0xff | low >> 12 & 0xfff00) } else { (high, low) }
}

fn add_name(name: &mut Option<Vec<u8>>, data: &[u8], at: u64) -> Result<(), GuestError> {
    const CURRENT_OR_PARENT: u8 = 2 | 4;
    let Some((flags, piece)) = data.split_first() else {
        return Err(corrupt("name (NM)", at, "flags", "nothing"));
    };
    if flags & CURRENT_OR_PARENT != 0 {
        return Ok(());
    }
    let name = name.get_or_insert_default();
    if name.len() + piece.len() > NAME_BYTES_MAX {
        return Err(corrupt("name (NM)", at, format!("at most {NAME_BYTES_MAX} bytes"), "more"));
    }
    name.extend(piece);
    Ok(())
}

impl RockRidge {
    fn add_times(&mut self, data: &[u8], at: u64) -> Result<(), GuestError> {
        const LONG: u8 = 0x80;
        let Some((flags, mut rest)) = data.split_first() else {
            return Err(corrupt("dates (TF)", at, "flags", "nothing"));
        };
        let len = if flags & LONG != 0 { date::LONG_BYTES } else { date::SHORT_BYTES };
        // Of those that follow (backup, expiration, effective) nobody asks.
        let wanted = [&mut self.created, &mut self.modified, &mut self.accessed, &mut self.changed];
        for (bit, place) in wanted.into_iter().enumerate() {
            if flags & 1 << bit == 0 {
                continue;
            }
            let Some((bytes, left)) = rest.split_at_checked(len) else {
                return Err(corrupt("dates (TF)", at, format!("{len} bytes for each of its dates"), "fewer"));
            };
            *place = match bytes.first_chunk() {
                Some(long) => Some(date::long(long)),
                None => bytes.first_chunk().map(date::short),
            };
            rest = left;
        }
        Ok(())
    }
}

/// The target of a link, as its components come.
#[derive(Default)]
struct Target {
    bytes: Option<Vec<u8>>,
    /// The next component belongs to the one before.
    goes_on: bool,
    /// A slash is needed before the next component.
    needs_slash: bool,
}

impl Target {
    fn add(&mut self, data: &[u8], at: u64) -> Result<(), GuestError> {
        const CONTINUE: u8 = 1;
        const CURRENT: u8 = 2;
        const PARENT: u8 = 4;
        const ROOT: u8 = 8;
        let wrong = |expected: &str, found: String| Err(corrupt("link target (SL)", at, expected, found));
        let Some((_, mut rest)) = data.split_first() else { return wrong("flags", "nothing".into()) };
        while let [flags, len, after @ ..] = rest {
            let Some((text, left)) = after.split_at_checked(usize::from(*len)) else {
                return wrong("a component that fits", format!("{len} bytes"));
            };
            let piece = match flags & !CONTINUE {
                0 => text,
                CURRENT => b".",
                PARENT => b"..",
                ROOT => b"/",
                other => return wrong("a known kind of component", format!("flags {other:#x}")),
            };
            let bytes = self.bytes.get_or_insert_default();
            if self.needs_slash && !self.goes_on {
                bytes.push(b'/');
            }
            bytes.extend(piece);
            if bytes.len() > TARGET_BYTES_MAX {
                return wrong("at most 4096 bytes", "more".into());
            }
            self.goes_on = flags & CONTINUE != 0;
            self.needs_slash = flags & ROOT == 0;
            rest = left;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(signature: &[u8; 2], data: &[u8]) -> Field {
        Field { signature: *signature, data: data.to_vec(), at: 0 }
    }

    #[track_caller]
    fn target(pieces: &[&[u8]], expected: &[u8]) {
        let fields: Vec<Field> = pieces.iter().map(|piece| field(b"SL", piece)).collect();
        assert_eq!(read(&fields).expect("sound").target.expect("a target"), expected);
    }

    #[test]
    fn targets_of_every_kind_of_component() {
        target(&[b"\0\0\x01a"], b"a");
        target(&[b"\0\x08\0\0\x01a\0\x01b"], b"/a/b");
        target(&[b"\0\x04\0\x02\0\0\x01a"], b".././a");
        target(&[b"\0\x08\0"], b"/");
        target(&[b"\0\0\x01a\0\0"], b"a/");
        // One component in two pieces, in one field and in two; then another one.
        target(&[b"\0\x01\x01a\0\x01b"], b"ab");
        target(&[b"\x01\x01\x01a", b"\x01\0\x01b", b"\0\0\x01c"], b"ab/c");
        let said = read(&[field(b"SL", b"\0\0\x05a")]).expect_err("too long").to_string();
        assert_eq!(said, "link target (SL) at 0x0 of the volume: expected a component that fits, found 5 bytes");
        let long: Vec<Field> = (0..20).map(|_| field(b"SL", &[&[0, 0, 250][..], &[b'x'; 250]].concat())).collect();
        assert!(read(&long).expect_err("too long").to_string().contains("at most 4096 bytes"));
    }

    #[test]
    fn names_in_pieces_and_devices_of_both_writers() {
        let name = |fields: &[Field]| read(fields).expect("sound").name;
        assert_eq!(name(&[field(b"NM", b"\x01one"), field(b"NM", b"\0two")]).expect("a name"), b"onetwo");
        assert_eq!(name(&[field(b"NM", b"\x02")]), None);
        let long: Vec<Field> = (0..5).map(|_| field(b"NM", &[1; 250])).collect();
        assert!(read(&long).expect_err("too long").to_string().contains("at most 1024 bytes"));
        assert_eq!(device(1, 3), (1, 3));
        assert_eq!(device(0, 0x103), (1, 3));
        assert_eq!(device(0, 200), (0, 200));
        assert_eq!(device(8, 70_000), (8, 70_000));
        assert_eq!(device(0, 0x30d1_f441), (500, 200_001 & 0xfffff));
    }

    #[test]
    fn both_byte_orders_must_agree() {
        let mut px: Vec<u8> =
            [0o100_644u32, 1, 5, 6].iter().flat_map(|n| [n.to_le_bytes(), n.to_be_bytes()]).flatten().collect();
        let posix = read(&[field(b"PX", &px)]).expect("sound").posix;
        assert_eq!(posix, Some(Posix { mode: 0o100_644, links: 1, uid: 5, gid: 6 }));
        px[31] = 7;
        let said = read(&[field(b"PX", &px)]).expect_err("differ").to_string();
        assert!(said.ends_with("expected 6 in both byte orders, found 7 in the second"), "{said}");
        assert!(read(&[field(b"PX", &px[..31])]).is_err());
    }
}
