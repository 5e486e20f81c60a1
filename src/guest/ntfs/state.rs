//! In which state the guest left the volume: its label and dirty flag, its log, and whether Windows only sleeps.
//!
//! The log is not replayed: what it says is told as a warning. Its restart area: 0 newest number u64 | 12 client in use u16
//! (0xffff: none) | 14 flags u16 (2: clean). A page with one: `RSTR` | 4 sector ends | 16 page size u32 | 24 place of the
//! area u16. There are two, one page from each other.
//!
//! Source: linux-ntfs documentation, "$LogFile"; tried on volumes of mkntfs and on ones that were copied while mounted.

use super::Ntfs;
use super::content::Content;
use super::names;
use super::node::Node;
use super::record::{Reference, kind, units};
use super::volume::restore_sector_ends;
use crate::guest::GuestError;
use crate::units::GuestOffset;

/// Records of the system's own files.
const LOG: u64 = 2;
pub(super) const VOLUME: u64 = 3;

const VOLUME_FLAGS_AT: usize = 10;
const IS_DIRTY: u16 = 1;
/// Longest label is 128 characters.
const LABEL_BYTES_MAX: u64 = 1024;

const RESTART_MAGIC: &[u8] = b"RSTR";
const RESTART_PAGE_BYTES: usize = 4096;
const NO_CLIENT: u16 = 0xffff;
const LOG_IS_CLEAN: u16 = 2;

/// The label, and what is to be said about the volume.
pub(super) fn look(ntfs: &Ntfs, warnings: &mut Vec<String>) -> String {
    let mut label = String::new();
    match volume(ntfs) {
        Ok((name, dirty)) => {
            label = name;
            if dirty {
                warnings.push("the guest's system marked the volume as dirty: it wants to check it".to_owned());
            }
        }
        Err(err) => warnings.push(format!("the volume's label and state could not be read ({err})")),
    }
    match log_is_clean(ntfs) {
        Ok(true) => {}
        Ok(false) => warnings.push(
            "not unmounted, and its log was not replayed: the newest changes may be missing or half done".to_owned(),
        ),
        Err(err) => warnings.push(format!("the state of its log could not be read ({err})")),
    }
    if is_hibernated(ntfs) {
        warnings.push(
            "Windows is hibernated or was shut down for a fast start: the newest changes may be missing".to_owned(),
        );
    }
    label
}

fn system_file(ntfs: &Ntfs, number: u64) -> Result<Node, GuestError> {
    let record = ntfs.table.read(&ntfs.volume, number)?;
    ntfs.bare_node(Reference(number | u64::from(record.sequence) << 48))
}

/// The content of one of the system's own files.
pub(super) fn system_content(ntfs: &Ntfs, number: u64) -> Result<Content, GuestError> {
    let node = system_file(ntfs, number)?;
    ntfs.content(&node, kind::DATA, &[])?.ok_or_else(|| GuestError::Corrupt {
        field: "content of a system file",
        at: node.at,
        expected: "one".to_owned(),
        found: "none".to_owned(),
    })
}

fn volume(ntfs: &Ntfs) -> Result<(String, bool), GuestError> {
    let node = system_file(ntfs, VOLUME)?;
    let label = ntfs.small_content(&node, kind::VOLUME_NAME, "label", LABEL_BYTES_MAX)?.unwrap_or_default();
    let label: Vec<u16> = units(&label).collect();
    let information = ntfs.small_content(&node, kind::VOLUME_INFORMATION, "volume information", LABEL_BYTES_MAX)?;
    let flags = information.as_deref().and_then(|it| it.get(VOLUME_FLAGS_AT..VOLUME_FLAGS_AT + 2));
    let dirty = flags.is_some_and(|flags| u16::from_le_bytes([flags[0], flags[1]]) & IS_DIRTY != 0);
    Ok((String::from_utf8_lossy(&names::to_bytes(&label)).into_owned(), dirty))
}

/// Whether nothing in the log waits to be done.
fn log_is_clean(ntfs: &Ntfs) -> Result<bool, GuestError> {
    let log = system_content(ntfs, LOG)?;
    let mut newest: Option<(u64, bool)> = None;
    let mut empty = true;
    for page in [0, RESTART_PAGE_BYTES] {
        let mut bytes = vec![0; RESTART_PAGE_BYTES];
        let at = u64::try_from(page).expect("a small constant");
        let len = ntfs.read_content(&log, at, &mut bytes)?;
        empty &= len > 0 && bytes[..len].iter().all(|byte| *byte == 0xff);
        let state = restart_page(&mut bytes);
        if state.is_some_and(|state| newest.is_none_or(|newest| state.0 > newest.0)) {
            newest = state;
        }
    }
    // A log that was wiped (all ones) has nothing to say.
    Ok(newest.map_or(empty, |(_, clean)| clean))
}

/// The number of a restart page, and whether it says that all is done.
fn restart_page(page: &mut [u8]) -> Option<(u64, bool)> {
    if !page.starts_with(RESTART_MAGIC) {
        return None;
    }
    restore_sector_ends(page, "restart page of the log", GuestOffset(0)).ok()?;
    let word = |at: usize| page.get(at..at + 2).map(|it| u16::from_le_bytes([it[0], it[1]]));
    let area = usize::from(word(24)?);
    let number = u64::from_le_bytes(page.get(area..area + 8)?.try_into().ok()?);
    Some((number, word(area + 12)? == NO_CLIENT || word(area + 14)? & LOG_IS_CLEAN != 0))
}

/// Whether the file that Windows keeps its memory in is in use.
fn is_hibernated(ntfs: &Ntfs) -> bool {
    let look = || -> Result<bool, GuestError> {
        let root = ntfs.bare_node(ntfs.root)?;
        let Some(file) = ntfs.find(&root, b"hiberfil.sys")? else { return Ok(false) };
        let Some(content) = ntfs.content(&ntfs.bare_node(file)?, kind::DATA, &[])? else { return Ok(false) };
        let mut magic = [0; 4];
        Ok(ntfs.read_content(&content, 0, &mut magic)? == magic.len() && magic.eq_ignore_ascii_case(b"hibr"))
    };
    // Damage on the way shows where somebody asks for the file.
    look().unwrap_or(false)
}
