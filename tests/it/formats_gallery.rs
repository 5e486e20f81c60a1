//! The gallery: every way to store a disk that we read. A row lays out a model of `formats_model` in a folder and says
//! which file to open. qemu-img writes what it can; the rest is laid out by the builders of the format's own stories.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::formats_built::{cowd_of, descriptor, sesparse_of};
use crate::formats_model::{Model, SECTOR, is_zero};
use crate::formats_vhd::utf16;
use crate::{formats_vdi, formats_vhd, formats_vhdx, qemu};

/// A way to store disks.
pub struct Row {
    pub name: &'static str,
    /// Whether it stores the model's levels one by one; else it gets them as one.
    pub is_chain: bool,
    /// Largest disk, in bytes.
    pub size_max: u64,
    /// QEMU's name of the format, if it reads this variant.
    pub driver: Option<&'static str>,
    way: Way,
}

/// Who lays it out.
#[derive(Clone, Copy)]
enum Way {
    /// A sparse file.
    Raw,
    /// `qemu-img create` with these options, then qemu-io; a format, the ending of names, options of every level.
    Created(&'static str, &'static str, &'static str),
    /// The same over a raw base.
    OverRaw,
    /// `qemu-img convert` with these arguments.
    Converted(&'static str, &'static [&'static str]),
    /// Our own builder.
    Built(LayLevel),
}

/// Lays out one level of a model: its file, what it is called, its identity; the name and the identity of its parent.
pub type LayLevel = fn(&LevelPlan);

/// One level of a chain that a builder lays out.
pub struct LevelPlan<'a> {
    pub folder: &'a Path,
    pub model: &'a Model,
    /// Which level of the model.
    pub level: usize,
    pub name: &'a str,
    /// Fills its identity.
    pub id: u8,
    pub parent: Option<(&'a str, u8)>,
    /// Bytes of a block, grain or (VHDX) logical sector; `None`: what the builder finds fit.
    pub unit: Option<usize>,
}

/// A folder that is gone afterwards; in memory where the system has such a place, as many small files are written and
/// their durability is not what is tested.
pub fn folder() -> tempfile::TempDir {
    match Path::new("/dev/shm") {
        memory if memory.is_dir() => tempfile::tempdir_in(memory).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

const NO_LIMIT: u64 = u64::MAX;

impl Row {
    const fn new(name: &'static str, driver: &'static str, way: Way) -> Row {
        Row { name, is_chain: false, size_max: NO_LIMIT, driver: Some(driver), way }
    }

    const fn chain(self) -> Row {
        Row { is_chain: true, ..self }
    }

    const fn up_to(self, size_max: u64) -> Row {
        Row { size_max, ..self }
    }

    /// QEMU cannot read it, or reads it wrong.
    const fn unread(self) -> Row {
        Row { driver: None, ..self }
    }

    /// Lays `model` out in `folder`, which is empty; gives the file to open.
    pub fn lay(&self, folder: &Path, model: &Model) -> PathBuf {
        match self.way {
            _ if !self.is_chain && model.levels.len() > 1 => self.lay(folder, &model.flat()),
            Way::Raw => raw(folder, "disk.raw", model),
            Way::Created(format, ending, options) => created(folder, format, ending, options, model),
            Way::OverRaw => over_raw(folder, model),
            Way::Converted(format, args) => converted(folder, format, args, model),
            Way::Built(lay) => built(folder, lay, model),
        }
    }
}

const VHD_MAX: u64 = 2040 << 30;
const COWD_MAX: u64 = ((1 << 32) - 1) * 512;

/// All of them.
pub fn rows() -> Vec<Row> {
    use Way::{Built, Converted, Created, OverRaw, Raw};
    vec![
        Row::new("raw", "raw", Raw),
        Row::new("vmdk monolithicSparse", "vmdk", Created("vmdk", "vmdk", "subformat=monolithicSparse")),
        Row::new("vmdk monolithicFlat", "vmdk", Created("vmdk", "vmdk", "subformat=monolithicFlat")),
        Row::new("vmdk twoGbMaxExtentSparse", "vmdk", Created("vmdk", "vmdk", "subformat=twoGbMaxExtentSparse")),
        Row::new("vmdk twoGbMaxExtentFlat", "vmdk", Created("vmdk", "vmdk", "subformat=twoGbMaxExtentFlat")),
        Row::new("vmdk streamOptimized", "vmdk", Converted("vmdk", &["-o", "subformat=streamOptimized"])),
        Row::new("vmdk redo logs", "vmdk", Created("vmdk", "vmdk", "zeroed_grain=on")).chain(),
        Row::new("vmdk redo logs COWD", "vmdk", Built(cowd_level)).chain().up_to(COWD_MAX),
        Row::new("vmdk redo logs seSparse", "vmdk", Built(sesparse_level)).chain(),
        Row::new("qcow2 v2", "qcow2", Created("qcow2", "qcow2", "compat=0.10")),
        Row::new("qcow2 v3", "qcow2", Created("qcow2", "qcow2", "")),
        Row::new("qcow2 v3 512 B clusters", "qcow2", Created("qcow2", "qcow2", "cluster_size=512")).up_to(64 << 30),
        Row::new("qcow2 v3 2 MiB clusters", "qcow2", Created("qcow2", "qcow2", "cluster_size=2M")),
        Row::new("qcow2 zlib", "qcow2", Converted("qcow2", &["-c", "-o", "compression_type=zlib"])),
        Row::new("qcow2 zstd", "qcow2", Converted("qcow2", &["-c", "-o", "compression_type=zstd"])),
        Row::new("qcow2 extended L2", "qcow2", Created("qcow2", "qcow2", "extended_l2=on")),
        Row::new("qcow2 data file", "qcow2", Created("qcow2", "qcow2", "data_file=data.bin")),
        Row::new("qcow2 overlays", "qcow2", Created("qcow2", "qcow2", "")).chain(),
        Row::new("qcow2 overlays, extended L2", "qcow2", Created("qcow2", "qcow2", "extended_l2=on")).chain(),
        Row::new("qcow2 overlays on raw", "qcow2", OverRaw).chain(),
        Row::new("vhd fixed", "vpc", Created("vpc", "vhd", "subformat=fixed,force_size=on")).up_to(VHD_MAX),
        Row::new("vhd dynamic", "vpc", Created("vpc", "vhd", "force_size=on")).up_to(VHD_MAX),
        Row::new("vhd differencing", "vpc", Built(vhd_level)).chain().up_to(VHD_MAX).unread(),
        Row::new("vhdx fixed", "vhdx", Created("vhdx", "vhdx", "subformat=fixed")),
        Row::new("vhdx dynamic", "vhdx", Created("vhdx", "vhdx", "")),
        Row::new("vhdx differencing", "vhdx", Built(vhdx_level)).chain().unread(),
        Row::new("vdi fixed", "vdi", Created("vdi", "vdi", "static=on")),
        Row::new("vdi dynamic", "vdi", Created("vdi", "vdi", "")),
        Row::new("vdi differencing", "vdi", Built(vdi_level)).chain().unread(),
    ]
}

/// Writes a sparse file with the model's content.
pub fn raw(folder: &Path, name: &str, model: &Model) -> PathBuf {
    let path = folder.join(name);
    let file = File::create(&path).unwrap();
    file.set_len(model.size).unwrap();
    for (at, bytes) in model.stored_runs() {
        file.write_all_at(&bytes, at).unwrap();
    }
    path
}

/// One level of `model`, written into `image` by qemu-io.
fn write_level(folder: &Path, image: &str, format: &str, model: &Model, level: usize) {
    let patterns = tempfile::tempdir().unwrap();
    let mut commands = Vec::new();
    for (number, (sector, bytes)) in model.runs_of(level).into_iter().enumerate() {
        let (at, len) = (sector * SECTOR as u64, bytes.len());
        if is_zero(&bytes) {
            commands.push(format!("write -z {at} {len}"));
            continue;
        }
        let pattern = patterns.path().join(number.to_string());
        fs::write(&pattern, &bytes).unwrap();
        commands.push(format!("write -s {} {at} {len}", pattern.display()));
    }
    if !commands.is_empty() {
        qemu::write(folder, image, format, &commands);
    }
}

fn created(folder: &Path, format: &str, ending: &str, options: &str, model: &Model) -> PathBuf {
    for level in 0..model.levels.len() {
        let (name, below) = (format!("{level}.{ending}"), format!("{}.{ending}", level.max(1) - 1));
        let parent = (level > 0).then_some((below.as_str(), format));
        create(folder, &name, format, options, parent, model.size);
        write_level(folder, &name, format, model, level);
    }
    folder.join(format!("{}.{ending}", model.levels.len() - 1))
}

fn create(folder: &Path, name: &str, format: &str, options: &str, parent: Option<(&str, &str)>, size: u64) {
    let size = size.to_string();
    let mut args = vec!["create", "-q", "-f", format];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    if let Some((parent, format)) = parent {
        args.extend(["-b", parent, "-F", format]);
    }
    args.extend([name, &size]);
    qemu::img(folder, &args);
}

fn over_raw(folder: &Path, model: &Model) -> PathBuf {
    let base = Model { size: model.size, levels: model.levels[..1].to_vec() };
    raw(folder, "0.raw", &base);
    for level in 1..model.levels.len() {
        let below = if level == 1 { ("0.raw".to_string(), "raw") } else { (format!("{}.qcow2", level - 1), "qcow2") };
        let name = format!("{level}.qcow2");
        create(folder, &name, "qcow2", "", Some((&below.0, below.1)), model.size);
        write_level(folder, &name, "qcow2", model, level);
    }
    match model.levels.len() {
        1 => folder.join("0.raw"),
        levels => folder.join(format!("{}.qcow2", levels - 1)),
    }
}

fn converted(folder: &Path, format: &str, args: &[&str], model: &Model) -> PathBuf {
    let source = raw(folder, "source.raw", model);
    let name = format!("disk.{format}");
    qemu::img(folder, &[&["convert", "-f", "raw", "-O", format], args, &["source.raw", &name]].concat());
    fs::remove_file(source).unwrap();
    folder.join(name)
}

/// Names and identities of levels ascend from `0.ENDING` and 1 on; all builders take any name.
fn built(folder: &Path, lay: LayLevel, model: &Model) -> PathBuf {
    for level in 0..model.levels.len() {
        let (name, below) = (level_name(level), level_name(level.max(1) - 1));
        let parent = (level > 0).then_some((below.as_str(), level as u8));
        lay(&LevelPlan { folder, model, level, name: &name, id: level as u8 + 1, parent, unit: None });
    }
    folder.join(level_name(model.levels.len() - 1))
}

/// What the builders call a level.
pub fn level_name(level: usize) -> String {
    format!("level-{level}")
}

/// A VMDK's text: a base is flat, as on ESX; a redo log has one extent of `kind`.
fn vmdk_text(plan: &LevelPlan, create_type: &str, kind: &str, extent: &str) {
    let line = format!("RW {} {kind} \"{extent}\"", plan.model.sectors());
    let parent_cid = plan.parent.map(|(name, id)| (name, format!("{id:08x}")));
    let parent = parent_cid.as_ref().map(|(name, cid)| (*name, cid.as_str()));
    let text = descriptor(create_type, parent, &[&line]);
    let text = text.replacen("\nCID=00c0ffee", &format!("\nCID={:08x}", plan.id), 1);
    fs::write(plan.folder.join(plan.name), text).unwrap();
}

fn flat_level(plan: &LevelPlan) {
    let extent = format!("{}-flat.vmdk", plan.name);
    let base = Model { size: plan.model.size, levels: vec![plan.model.levels[plan.level].clone()] };
    raw(plan.folder, &extent, &base);
    vmdk_text(plan, "vmfs", "VMFS", &extent);
}

pub fn cowd_level(plan: &LevelPlan) {
    if plan.parent.is_none() && plan.model.levels.len() > 1 {
        return flat_level(plan);
    }
    let extent = format!("{}-delta.vmdk", plan.name);
    let capacity = u32::try_from(plan.model.sectors()).unwrap();
    let grain = plan.unit.unwrap_or(SECTOR);
    let grains = plan.model.blocks_of(plan.level, grain);
    fs::write(plan.folder.join(&extent), cowd_of(capacity, (grain / SECTOR) as u32, grains)).unwrap();
    vmdk_text(plan, "vmfsSparse", "VMFSSPARSE", &extent);
}

pub fn sesparse_level(plan: &LevelPlan) {
    if plan.parent.is_none() && plan.model.levels.len() > 1 {
        return flat_level(plan);
    }
    let extent = format!("{}-sesparse.vmdk", plan.name);
    let grains = plan.model.blocks_of(plan.level, 4096);
    fs::write(plan.folder.join(&extent), sesparse_of(plan.model.sectors(), &grains)).unwrap();
    vmdk_text(plan, "seSparse", "SESPARSE", &extent);
}

pub fn vhd_level(plan: &LevelPlan) {
    let parent = plan.parent.map(|(name, id)| (id, vec![(b"W2ru", utf16(name))], ""));
    let block = plan.unit.unwrap_or(512 << 10) as u32;
    let vhd = formats_vhd::Plan { size: plan.model.size, block, uuid: plan.id, parent, ..formats_vhd::plan(&[]) };
    let sectors = plan.model.levels[plan.level].iter().map(|(sector, content)| (*sector, *content));
    fs::write(plan.folder.join(plan.name), formats_vhd::build_of(&vhd, sectors)).unwrap();
}

/// Blocks of which all is zero are explicit zeros, the rest is told sector by sector.
pub fn vhdx_level(plan: &LevelPlan) {
    let parent = plan.parent.map(|(name, id)| {
        let linkage = format!("{{{}}}", Uuid::from_bytes_le([id; 16]));
        vec![("parent_linkage", linkage), ("relative_path", name.to_string())]
    });
    // The table has room for 131072 entries.
    let block: u64 = if plan.model.size > 64 << 30 { 32 << 20 } else { 1 << 20 };
    let unit = plan.unit.unwrap_or(SECTOR);
    let level = &plan.model.levels[plan.level];
    let per_block = block / SECTOR as u64;
    let blocks = plan.model.sectors() / per_block;
    let is_zero_block = |number: u64| {
        let mut sectors = level.range(number * per_block..(number + 1) * per_block);
        sectors.clone().count() as u64 == per_block && sectors.all(|(_, content)| is_zero(content))
    };
    let touched: std::collections::BTreeSet<u64> = level.keys().map(|sector| sector / per_block).collect();
    let zero: Vec<u64> = touched.into_iter().filter(|number| *number < blocks && is_zero_block(*number)).collect();
    let states: Vec<(u64, u64)> = zero.iter().map(|number| (*number, 2)).collect();
    let (size, sector) = (plan.model.size, unit as u64);
    let vhdx =
        formats_vhdx::Plan { size, block, sector, id: plan.id, parent, states: &states, ..formats_vhdx::plan(&[]) };
    let per_sector = (unit / SECTOR) as u64;
    let sectors = plan.model.blocks_of(plan.level, unit).into_iter();
    let sectors = sectors.filter(|(sector, _)| !zero.contains(&(sector * per_sector / per_block)));
    fs::write(plan.folder.join(plan.name), formats_vhdx::build_of(&vhdx, sectors)).unwrap();
}

pub fn vdi_level(plan: &LevelPlan) {
    let (parent, kind) = plan.parent.map_or((0, 1), |(_, id)| (id, 4));
    let ids = [plan.id, plan.id + 100, parent, if parent == 0 { 0 } else { parent + 100 }];
    // The map is held in memory here.
    let block = plan.unit.unwrap_or(if plan.model.size > 64 << 30 { 1 << 20 } else { 64 << 10 });
    let vdi = formats_vdi::Plan { size: plan.model.size, block, kind, ids, ..formats_vdi::base(&[]) };
    let blocks = plan.model.blocks_of(plan.level, block).into_iter().map(|(number, bytes)| (number as usize, bytes));
    fs::write(plan.folder.join(plan.name), formats_vdi::build_of(&vdi, blocks)).unwrap();
}
