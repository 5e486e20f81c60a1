//! Short names in code page 437, long names in pieces of 13 units.
//!
//! A piece: `number 1 | 5 units | attributes 1 | type 1 | checksum of the short name 1 | 6 units | 0 2 | 2 units`. Pieces lie
//! before the short name, the last one first and marked with 0x40; a name that ends inside a piece is followed by a zero.
//!
//! Sources: fatgen103, "FAT Long Directory Entries"; code page 437 as Linux has it, in whose vfat it is the default.

use super::entry::ShortEntry;
use crate::guest::clusters::content::Record;
use crate::guest::clusters::name;

/// Units of a piece.
const PIECE_UNITS: usize = 13;
/// Pieces of a name at most: 255 units and a zero.
const PIECES_MAX: u8 = 20;
/// Marks the piece that comes first, the last of the name.
const LAST: u8 = 0x40;
/// In the first byte, stands for 0xe5, which there means a deleted entry.
const KANJI_E5: u8 = 0x05;
/// Case bits: this part of the name is shown in small letters.
const SMALL_BASE: u8 = 0x08;
const SMALL_EXTENSION: u8 = 0x10;

/// Characters 0x80 to 0xff of code page 437.
const UPPER_HALF: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The short name as it is shown.
pub(super) fn short(entry: &ShortEntry) -> Vec<u8> {
    let mut stored = entry.name;
    if stored[0] == KANJI_E5 {
        stored[0] = 0xe5;
    }
    let mut shown = String::with_capacity(stored.len() + 1);
    let (base, extension) = stored.split_at(8);
    shown.extend(part(base, entry.case & SMALL_BASE != 0));
    let extension: String = part(extension, entry.case & SMALL_EXTENSION != 0).collect();
    if !extension.is_empty() {
        shown.push('.');
        shown += &extension;
    }
    shown.into_bytes()
}

/// A part of a short name without the spaces at its end.
fn part(stored: &[u8], small: bool) -> impl Iterator<Item = char> {
    let len = stored.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    stored[..len].iter().map(move |byte| if small { small_letter(*byte) } else { character(*byte) })
}

/// A character of code page 437.
fn character(byte: u8) -> char {
    if byte.is_ascii() {
        return char::from(byte);
    }
    UPPER_HALF.chars().nth(usize::from(byte & 0x7f)).expect("128 characters")
}

/// The small letter of a character, if the code page has one.
fn small_letter(byte: u8) -> char {
    let capital = character(byte);
    match capital.to_lowercase().next() {
        Some(small) if small.is_ascii() || UPPER_HALF.contains(small) => small,
        _ => capital,
    }
}

/// Pieces of a long name, as they come.
#[derive(Debug, Default)]
pub(super) struct LongName {
    units: Vec<u16>,
    checksum: u8,
    /// The piece that must come next; 0 when all are there.
    awaited: Option<u8>,
}

impl LongName {
    /// Takes the next piece. One that does not continue what came before begins a new name, or is none.
    pub fn push(&mut self, record: &Record) {
        let (number, checksum) = (record[0], record[13]);
        if number & LAST != 0 {
            let count = number & !LAST;
            self.awaited = (1..=PIECES_MAX).contains(&count).then_some(count);
            self.checksum = checksum;
            self.units = vec![0; usize::from(count) * PIECE_UNITS];
        }
        let continues = self.awaited.is_some_and(|awaited| awaited > 0 && awaited == number & !LAST);
        if !continues || checksum != self.checksum {
            self.awaited = None;
            return;
        }
        let index = usize::from(number & !LAST) - 1;
        let stored = [&record[1..11], &record[14..26], &record[28..32]].concat();
        let units = stored.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
        self.units[index * PIECE_UNITS..].iter_mut().zip(units).for_each(|(place, unit)| *place = unit);
        self.awaited = Some(number & !LAST).map(|number| number - 1);
    }

    /// The name, if all of it is there and belongs to the short one; what follows begins anew.
    pub fn take(&mut self, short: &ShortEntry) -> Option<Vec<u8>> {
        let complete = self.awaited.take() == Some(0) && self.checksum == short.checksum();
        let units = self.units.split(|unit| *unit == 0).next().filter(|_| complete)?;
        Some(name::bytes(units)).filter(|name| name::is_sound(name))
    }

    /// Forgets what came.
    pub fn clear(&mut self) {
        self.awaited = None;
    }
}

/// Whether both are the same but for case: every character by itself, as Windows compares.
pub(super) fn same_but_for_case(one: &[u8], other: &[u8]) -> bool {
    fn capital(character: char) -> char {
        let mut capitals = character.to_uppercase();
        match (capitals.next(), capitals.next()) {
            (Some(only), None) => only,
            _ => character,
        }
    }
    let (Ok(one), Ok(other)) = (std::str::from_utf8(one), std::str::from_utf8(other)) else {
        return false; // what is no text has no case
    };
    one.chars().map(capital).eq(other.chars().map(capital))
}
