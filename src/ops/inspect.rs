//! What an image is, and what is on the disk in it: joins the format's own account with the guest's volumes.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::disk::Disk;
use crate::formats::{self, OpenPolicy};
use crate::guest::detect::Content;
use crate::guest::partitions::{Partition, PartitionTable};
use crate::guest::volumes::{Unavailable, volumes};
use crate::units::ByteLen;

/// What the disk of an inspected image is called in the names of its volumes.
const DISK: &str = "disk0";

/// A report on an image file, its chain, and what is on its disk.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The image and its chain.
    #[serde(flatten)]
    pub image: formats::Inspection,
    /// What is on the disk; `None` if the image is too broken to look.
    pub contents: Option<Contents>,
}

/// What is on a disk.
#[derive(Debug, Default, Serialize)]
pub struct Contents {
    /// How it is divided; `None` if that cannot be read.
    pub table: Option<PartitionTable>,
    /// Partitions, logical volumes, or the whole disk.
    pub volumes: Vec<VolumeReport>,
    /// What is there and cannot be read.
    pub unavailable: Vec<Unavailable>,
    /// What is odd but harmless, each in one line.
    pub warnings: Vec<String>,
    /// What could not be read, each in one line; the image itself may be sound.
    pub faults: Vec<String>,
}

/// One volume.
#[derive(Debug, Serialize)]
pub struct VolumeReport {
    /// As it stands in paths.
    pub name: String,
    /// Its length in bytes.
    pub size: ByteLen,
    /// What lies on it.
    #[serde(flatten)]
    pub content: Content,
    /// Its entry in the table, if it is a partition.
    pub partition: Option<Partition>,
}

/// Describes the image at `path` as far as it can be opened. Of the disk only headers are read.
pub fn inspect(path: &Path, policy: &OpenPolicy) -> Inspection {
    let mut image = formats::inspect(path, policy);
    if !image.faults.is_empty() {
        return Inspection { image, contents: None };
    }
    match formats::open(path, policy) {
        Ok(opened) => Inspection { image, contents: Some(contents(Arc::new(opened.disk()))) },
        Err(error) => {
            image.faults.push(error.to_string());
            Inspection { image, contents: None }
        }
    }
}

fn contents(disk: Arc<dyn Disk>) -> Contents {
    let found = volumes(&[(DISK.to_string(), disk)]);
    let report = |volume: crate::guest::volumes::Volume| VolumeReport {
        name: volume.name,
        size: volume.size,
        content: volume.content,
        partition: volume.partition,
    };
    Contents {
        table: found.tables.into_iter().next().map(|(_, table)| table),
        volumes: found.volumes.into_iter().map(report).collect(),
        unavailable: found.unavailable,
        warnings: found.warnings,
        faults: found.faults,
    }
}
