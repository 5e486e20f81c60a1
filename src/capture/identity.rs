//! How the layers of a chain are known again on another day, and what an incremental backup may therefore reuse.
//!
//! If the whole chain of the last backup is now the lower part of a longer chain, unchanged, then only the redo logs above it
//! can hold anything new. A layer counts as unchanged if its files are the same files (device, inode), of the same length
//! and times, and its own content id is the same. After a copy or a restored host everything differs: then all is read again.

use std::os::unix::fs::FileTypeExt;

use serde::{Deserialize, Serialize};

use crate::formats::{FileState, Layer};
use crate::units::ByteLen;

/// What a layer was when it was backed up; part of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerIdentity {
    /// Format and variant.
    pub variant: String,
    /// The layer's own identity in its format; empty where it has none.
    pub content_id: String,
    /// Size of the disk as this layer has it.
    pub size: ByteLen,
    /// Every file it consists of.
    pub files: Vec<FileIdentity>,
}

/// What a file was when it was backed up. Its folder is not part of it: a moved machine keeps its inodes if it stayed on
/// its filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Its name in its folder.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
    /// Device number of the filesystem.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Last change of content, nanoseconds since 1970.
    pub modified_ns: i128,
    /// Last change of content or metadata, nanoseconds since 1970.
    pub changed_ns: i128,
    /// Whether it is a block device: its times are those of a name in `/dev`, and tell nothing of its content.
    #[serde(default)]
    pub is_device: bool,
}

impl LayerIdentity {
    /// The identity of an open layer.
    pub fn of(layer: &Layer) -> LayerIdentity {
        LayerIdentity {
            variant: layer.variant.clone(),
            content_id: layer.content_id.clone(),
            size: layer.disk.size(),
            files: layer.files.iter().map(FileIdentity::of).collect(),
        }
    }
}

impl FileIdentity {
    fn of(state: &FileState) -> FileIdentity {
        FileIdentity {
            name: state.path.file_name().unwrap_or(state.path.as_os_str()).to_string_lossy().into_owned(),
            len: state.len,
            device: state.device,
            inode: state.inode,
            modified_ns: state.modified_ns,
            changed_ns: state.changed_ns,
            // What cannot be looked at any more cannot be proven to be unchanged either.
            is_device: std::fs::metadata(&state.path).map_or(true, |meta| meta.file_type().is_block_device()),
        }
    }
}

/// How many of the lowest layers of `now` are the whole chain `before`; 0 unless all of `before` is the lower part of
/// `now`. Both newest layer first. Equal chains give their length: nothing has changed. Pure.
///
/// A chain of which only some layers are left gives 0: a redo log that was there and is gone was written down into its
/// parent or thrown away, and neither leaves the rest of the last backup true.
///
/// A chain with a block device below gives 0: it may have been written to without any trace outside of it.
pub fn common_frozen_base(before: &[LayerIdentity], now: &[LayerIdentity]) -> usize {
    if before.iter().flat_map(|layer| &layer.files).any(|file| file.is_device) {
        return 0;
    }
    if now.ends_with(before) { before.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer known by one letter.
    fn layer(letter: char) -> LayerIdentity {
        let file = FileIdentity {
            name: format!("{letter}.vmdk"),
            len: 65536,
            device: 2049,
            inode: u64::from(u32::from(letter)),
            modified_ns: 1_773_129_600_000_000_001,
            changed_ns: 1_773_129_600_000_000_002,
            is_device: false,
        };
        LayerIdentity {
            variant: "vmdk monolithicSparse".to_owned(),
            content_id: format!("{:08x}", u32::from(letter)),
            size: ByteLen(1 << 30),
            files: vec![file],
        }
    }

    #[track_caller]
    fn check(before: &str, now: &str, expected: usize) {
        let chain = |letters: &str| letters.chars().map(layer).collect::<Vec<_>>();
        assert_eq!(common_frozen_base(&chain(before), &chain(now)), expected, "{before} → {now}");
    }

    #[test]
    fn only_a_whole_chain_below_is_common() {
        check("", "", 0);
        check("", "a", 0);
        check("a", "", 0);
        check("a", "a", 1);
        check("a", "ba", 1);
        check("ba", "dcba", 2);
        check("cba", "cba", 3);
        check("ba", "a", 0); // a snapshot was removed, or the machine went back to an older one
        check("ba", "ca", 0);
        check("ba", "cb", 0);
        check("a", "ab", 0);
        check("ba", "bca", 0);
    }

    #[test]
    fn every_property_counts() {
        let differs = |change: &dyn Fn(&mut LayerIdentity)| {
            let mut other = layer('a');
            change(&mut other);
            common_frozen_base(&[layer('a')], &[layer('b'), other])
        };
        assert_eq!(differs(&|_| {}), 1);
        let changes: [&dyn Fn(&mut LayerIdentity); 11] = [
            &|l| l.variant.push('2'),
            &|l| l.content_id.push('2'),
            &|l| l.size.0 += 1,
            &|l| l.files.clear(),
            &|l| l.files[0].name.push('2'),
            &|l| l.files[0].len += 1,
            &|l| l.files[0].device += 1,
            &|l| l.files[0].inode += 1,
            &|l| l.files[0].modified_ns += 1,
            &|l| l.files[0].changed_ns += 1,
            &|l| l.files[0].is_device = true,
        ];
        for (index, change) in changes.iter().enumerate() {
            assert_eq!(differs(change), 0, "change {index}");
        }
    }

    #[test]
    fn a_block_device_is_never_known_to_be_unchanged() {
        let mut device = layer('a');
        device.files[0].is_device = true;
        let chain = [device];
        assert_eq!(common_frozen_base(&chain, &chain), 0);
        assert_eq!(common_frozen_base(&chain, &[layer('b'), chain[0].clone()]), 0);
    }

    #[test]
    fn survives_the_manifest() {
        let mut identity = layer('a');
        for nanoseconds in [0, -1, i128::from(i64::MAX), i128::from(i64::MIN)] {
            identity.files[0].modified_ns = nanoseconds;
            let text = serde_json::to_string(&identity).unwrap();
            assert_eq!(serde_json::from_str::<LayerIdentity>(&text).unwrap(), identity, "{text}");
        }
    }
}
