//! Definition files for a machine whose disks were restored under other names: the same text, with other file names, and
//! with another identity where that is asked for.
//!
//! Pure: bytes in, bytes out. What need not change stays to the letter.

pub mod libvirt;
pub mod ovf;
pub mod vmx;
mod xml;

/// A restored disk: its slot in the definition, and the image to name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// Its place on the machine, as the definition was read.
    pub slot: String,
    /// How the definition is to name it.
    pub file: String,
    /// QEMU's name of its format.
    pub driver: &'static str,
    /// Length of the file in bytes.
    pub file_bytes: u64,
}
