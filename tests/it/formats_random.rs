//! Random images: thousands laid out by our own builders and writers from a model in memory, hundreds written by qemu-io
//! under random commands and judged by qemu-img. Each case follows from its number, which a failure names.
//!
//! To see the counts: `cargo nextest run random_images --no-capture`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use abbild::disk::{Disk, conformance};
use abbild::formats::qcow2::{Selector, open_snapshot};
use abbild::formats::sink::{Overwrite, WriteOrder};
use abbild::formats::{self, OpenPolicy};
use abbild::units::GuestOffset;

use crate::formats_gallery::{
    LayLevel, LevelPlan, cowd_level, folder, level_name, sesparse_level, vdi_level, vhd_level, vhdx_level,
};
use crate::formats_model::{Fill, Model};
use crate::formats_writers::{GRAIN, KINDS};
use crate::qemu;

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A disk of up to `levels_max` levels, whose size is whole units.
fn any_model(dice: &mut Dice, levels_max: u64, unit: u64) -> Model {
    let sectors = match dice.below(4) {
        0 => 1 + dice.below(64),
        1 => 1 + dice.below(512),
        _ => 1 + dice.below(3000),
    };
    let sectors = sectors.next_multiple_of(unit / 512);
    let mut model = Model::new(sectors * 512);
    for _ in 0..1 + dice.below(levels_max) {
        let mut run = || {
            let count = if dice.chance(70) { 1 + dice.below(9) } else { 1 + dice.below(400) };
            let fill = match dice.below(5) {
                0 => Fill::Zeros,
                1 => Fill::Byte(dice.below(256) as u8),
                2 => Fill::Text,
                _ => Fill::Noise(dice.next()),
            };
            (dice.below(sectors), count, fill)
        };
        let runs: Vec<_> = (0..1 + run().0 % 12).map(|_| run()).collect();
        model = model.over(runs);
    }
    model
}

/// Which file to open holds the model, in all ways to read it.
fn check(path: &Path, model: &Model) {
    let image = formats::open(path, &OpenPolicy::named_by_user(path).unwrap()).unwrap();
    conformance::check_sampled(&image.disk(), model.size, &model.stored_runs());
}

/// Runs a case; a failure says which one it was.
#[track_caller]
fn case(number: u64, name: &str, run: impl FnOnce()) {
    if let Err(cause) = catch_unwind(AssertUnwindSafe(run)) {
        eprintln!("case {number}, {name}");
        resume_unwind(cause);
    }
}

fn print_counts(counts: &BTreeMap<String, u32>) {
    let total: u32 = counts.values().sum();
    let each: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("{total} random images: {}", each.join(", "));
}

/// Name, builder, units to choose from, cases of a hundred.
type Builder = (&'static str, LayLevel, &'static [usize], u64);

const BUILDERS: [Builder; 5] = [
    ("vhd chain", vhd_level, &[4096, 8192, 65_536, 512 << 10], 28),
    ("vdi chain", vdi_level, &[4096, 8192, 65_536], 28),
    ("vmdk COWD chain", cowd_level, &[512, 1024, 8192, 65_536], 20),
    ("vmdk seSparse chain", sesparse_level, &[4096], 18),
    ("vhdx chain", vhdx_level, &[512, 4096], 6), // a file has at least 4 MiB
];

#[test]
fn random_images_read_as_the_model_says() {
    let mut counts = BTreeMap::new();
    let by_percent: Vec<&Builder> =
        BUILDERS.iter().flat_map(|builder| std::iter::repeat_n(builder, builder.3 as usize)).collect();
    for number in 0..3000 {
        let (name, lay, units, _) = by_percent[number as usize % by_percent.len()];
        let mut dice = Dice::new(number);
        let unit = dice.one_of(units);
        let model = any_model(&mut dice, 4, if *name == "vhdx chain" { unit as u64 } else { 512 });
        case(number, name, || {
            let scene = folder();
            for level in 0..model.levels.len() {
                let (own, below) = (level_name(level), level_name(level.max(1) - 1));
                let parent = (level > 0).then_some((below.as_str(), level as u8));
                let (folder, model) = (scene.path(), &model);
                lay(&LevelPlan { folder, model, level, name: &own, id: level as u8 + 1, parent, unit: Some(unit) });
            }
            check(&scene.path().join(level_name(model.levels.len() - 1)), &model);
        });
        *counts.entry((*name).to_string()).or_default() += 1;
    }
    print_counts(&counts);
    assert_eq!(counts.len(), BUILDERS.len());
}

#[test]
fn random_images_that_we_write_read_as_the_model_says() {
    let mut counts = BTreeMap::new();
    for number in 0..900u64 {
        let kind = KINDS[number as usize % KINDS.len()];
        let mut dice = Dice::new(1_000_000 + number);
        let model = any_model(&mut dice, 2, 512);
        case(number, &format!("{kind:?}"), || {
            let scene = folder();
            let path = scene.path().join("disk");
            let sink = kind.create(&path, model.size, Overwrite::Refuse).unwrap();
            let content = model.content();
            let mut calls = Vec::new();
            let mut at = 0;
            while at < content.len() {
                let end = content.len().min(at + GRAIN * (1 + dice.below(5) as usize));
                calls.push(at..end);
                at = end;
            }
            calls.retain(|call| !dice.chance(50) || content[call.clone()].iter().any(|byte| *byte != 0));
            if sink.order() == WriteOrder::Any {
                calls.sort_by_key(|call| (call.start as u64 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            }
            for call in calls {
                sink.write_at(GuestOffset(call.start as u64), &content[call]).unwrap();
            }
            let files = sink.finish().unwrap();
            match kind.driver() {
                "raw" => assert!(std::fs::read(&files[0]).unwrap() == content),
                _ => check(&files[0], &model),
            }
            if number % 9 == number / 9 % 9 {
                assert!(qemu::content_as(scene.path(), files[0].to_str().unwrap(), kind.driver()) == content);
            }
        });
        *counts.entry(format!("{kind:?}")).or_default() += 1;
    }
    print_counts(&counts);
}

/// Options of `qemu-img create` that a random image is made with.
fn any_options(dice: &mut Dice, format: &str) -> (String, u64) {
    let clusters = [("512", 512), ("1k", 1024), ("4k", 4096), ("64k", 65_536), ("256k", 262_144), ("2M", 2 << 20)];
    match format {
        "qcow2" => {
            let (cluster, bytes) = dice.one_of(&clusters);
            let version = match dice.below(6) {
                0 => "compat=0.10",
                1 => "compression_type=zstd",
                2 if bytes >= 16_384 => "extended_l2=on",
                3 => "lazy_refcounts=on",
                4 => "refcount_bits=64",
                _ => "compat=1.1",
            };
            (format!("cluster_size={cluster},{version}"), bytes)
        }
        "vmdk" => {
            let variant = ["monolithicSparse", "twoGbMaxExtentSparse", "monolithicFlat", "twoGbMaxExtentFlat"];
            let zeroed = if dice.chance(50) { ",zeroed_grain=on" } else { "" };
            let variant = dice.one_of(&variant);
            (format!("subformat={variant}{}", if variant.ends_with("Sparse") { zeroed } else { "" }), 65_536)
        }
        "vhdx" => (format!("block_size={}", dice.one_of(&["1M", "2M", "16M"])), 1 << 20),
        "vpc" => (format!("force_size=on,subformat={}", dice.one_of(&["dynamic", "fixed"])), 2 << 20),
        _ => (format!("static={}", dice.one_of(&["on", "off"])), 1 << 20),
    }
}

/// Writes, zeros and discards, as qemu-io takes them.
fn any_commands(dice: &mut Dice, format: &str, size: u64, first_compressed: Option<u64>) -> Vec<String> {
    let mut commands = Vec::new();
    if let Some(cluster) = first_compressed {
        // Only over what nothing is stored for yet.
        let end = size / cluster * cluster;
        let at = dice.below(end / cluster) * cluster;
        commands.push(format!("write -c -P {} {at} {}", 1 + dice.below(255), (end - at).min(cluster * 4)));
    }
    for _ in 0..1 + dice.below(10) {
        let at = dice.below(size / 512) * 512;
        let len = if dice.chance(60) { 1 + dice.below(16) } else { 1 + dice.below(2000) } * 512;
        let len = len.min(size - at);
        commands.push(match dice.below(8) {
            0 => format!("write -z {at} {len}"),
            1 if format == "qcow2" => format!("write -z -u {at} {len}"),
            2 if format == "qcow2" => format!("discard {at} {len}"),
            _ => format!("write -P {} {at} {len}", 1 + dice.below(255)),
        });
    }
    commands
}

#[test]
fn random_images_of_qemu_read_as_qemu_reads_them() {
    let mut counts = BTreeMap::new();
    let mut commands_run = 0;
    for number in 0..400u64 {
        let mut dice = Dice::new(2_000_000 + number);
        let format = ["qcow2", "vmdk", "qcow2", "vhdx", "qcow2", "vpc", "vmdk", "vdi"][number as usize % 8];
        case(number, format, || {
            let scene = folder();
            let size = (1 + dice.below(9000)) * 512;
            let levels = if ["qcow2", "vmdk"].contains(&format) { 1 + dice.below(3) } else { 1 };
            for level in 0..levels {
                let (mut options, cluster) = any_options(&mut dice, format);
                let (name, below) = (level.to_string(), level.saturating_sub(1).to_string());
                if level > 0 && format == "vmdk" {
                    options = "zeroed_grain=on".to_string();
                }
                let sizes = size.to_string();
                let mut args = vec!["create", "-q", "-f", format, "-o", &options];
                if level > 0 {
                    args.extend(["-b", below.as_str(), "-F", format]);
                }
                args.extend([name.as_str(), sizes.as_str()]);
                qemu::img(scene.path(), &args);
                let compressed = (format == "qcow2" && cluster <= size && dice.chance(40)).then_some(cluster);
                let commands = any_commands(&mut dice, format, size, compressed);
                commands_run += commands.len();
                qemu::write(scene.path(), &name, format, &commands);
            }
            let top = (levels - 1).to_string();
            let path = scene.path().join(&top);
            let same = |disk: &dyn Disk, content: Vec<u8>| {
                conformance::check_sampled(disk, size, &[(0, content)]);
            };
            if format == "qcow2" && dice.chance(50) {
                qemu::img(scene.path(), &["snapshot", "-c", "then", &top]);
                let commands = any_commands(&mut dice, format, size, None);
                commands_run += commands.len();
                qemu::write(scene.path(), &top, format, &commands);
                let policy = OpenPolicy::named_by_user(&path).unwrap();
                let then = open_snapshot(&path, Selector::Name("then"), &policy).unwrap();
                same(&then.disk(), qemu::qcow2_content(scene.path(), &top, &["-l", "snapshot.name=then"]));
                *counts.entry("qcow2 snapshot".to_string()).or_default() += 1;
            }
            let image = formats::open(&path, &OpenPolicy::named_by_user(&path).unwrap()).unwrap();
            same(&image.disk(), qemu::content_as(scene.path(), &top, format));
            *counts.entry(format!("{format}, levels {levels}")).or_default() += 1;
        });
    }
    print_counts(&counts);
    println!("written by {commands_run} commands of qemu-io");
}
