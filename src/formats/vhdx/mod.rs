//! VHDX: the format of Hyper-V since 2012; checkpoints are the same format called `.avhdx`. Everything little-endian.
//!
//! - `header` raw headers, region table, metadata table → `layout` checked
//! - `log` what was being written when the file was last closed, as an overlay in memory; the source is never written
//! - `metadata` sizes, flags and the parent locator
//! - `image` fixed, dynamic and differencing disks
//! - `chain` from the newest checkpoint down to the base
//! - [`writer`] dynamic
//!
//! Sources: Microsoft, \[MS-VHDX\] "Virtual Hard Disk v2 (VHDX) File Format"; where it is silent, QEMU's block/vhdx.c.

pub(crate) mod chain;
pub(crate) mod header;
pub(crate) mod image;
pub(crate) mod layout;
pub(crate) mod log;
pub(crate) mod metadata;
pub mod writer;

use uuid::Uuid;

/// Offsets and lengths of regions and blocks are counted in these.
const MIB: u64 = 1 << 20;

/// What the format calls its regions and items.
mod guid {
    use super::Uuid;

    /// Region: the block allocation table.
    pub const BAT: Uuid = Uuid::from_u128(0x2dc27766_f623_4200_9d64_115e9bfd4a08);
    /// Region: the metadata.
    pub const METADATA: Uuid = Uuid::from_u128(0x8b7ca206_4790_4b9a_b8fe_575f050f886e);
    /// Item: block size and flags.
    pub const FILE_PARAMETERS: Uuid = Uuid::from_u128(0xcaa16737_fa36_4d43_b3b6_33f0aa44e76b);
    /// Item: size of the disk.
    pub const DISK_SIZE: Uuid = Uuid::from_u128(0x2fa54224_cd1b_4876_b211_5dbed83bf4b8);
    /// Item: SCSI page 83 identity of the disk.
    pub const DISK_ID: Uuid = Uuid::from_u128(0xbeca12ab_b2e6_4523_93ef_c309e000c746);
    /// Item: logical sector size.
    pub const LOGICAL_SECTOR: Uuid = Uuid::from_u128(0x8141bf1d_a96f_4709_ba47_f233a8faab5f);
    /// Item: physical sector size.
    pub const PHYSICAL_SECTOR: Uuid = Uuid::from_u128(0xcda348c7_445d_4471_9cc9_e9885251c556);
    /// Item: how to find the parent.
    pub const PARENT_LOCATOR: Uuid = Uuid::from_u128(0xa8d35f2d_b30b_454d_abf7_d3d84834ab0c);
    /// Kind of parent locator: a VHDX.
    pub const LOCATOR_TYPE_VHDX: Uuid = Uuid::from_u128(0xb04aefb7_d19e_4a81_b789_25b8e9445913);
}
