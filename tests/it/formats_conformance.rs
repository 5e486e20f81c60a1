//! The suite of every disk, run on every way to store one and every writer of ours, in every shape that has hurt somebody:
//! one table, formats as rows, shapes as columns.
//!
//! To see it: `cargo nextest run conformance --no-capture`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use abbild::disk::conformance;
use abbild::formats::sink::Overwrite;
use abbild::formats::{self, OpenPolicy};
use abbild::units::GuestOffset;

use crate::formats_gallery::{Row, folder, rows};
use crate::formats_matrix::aligned;
use crate::formats_model::{Fill, Model, awkward};
use crate::formats_writers::{GRAIN, KINDS, Kind, text};

/// A disk, and what is special about it.
struct Shape {
    name: &'static str,
    model: Model,
    /// Compared byte by byte from every offset, which takes its time.
    is_thorough: bool,
}

/// Larger than 32 bits of sectors.
const HUGE: u64 = (2 << 40) + (33 << 20) + 3 * 512;

fn shapes() -> Vec<Shape> {
    use Fill::{Byte, Noise, Text, Zeros};
    let mib = 2048; // in sectors
    let shape = |name, is_thorough, model: Model| Shape { name, model, is_thorough };
    let of = |size: u64| Model::new(size);
    let holes = (0..40).map(|n| (n * 97, 1 + n % 5, Noise(n)));
    let zeros = [(0, 2 * mib, Text), (128, 512, Zeros), (mib + 3, 2, Zeros), (3 * mib - 9, 20, Zeros)];
    let huge_end = HUGE / 512;
    vec![
        shape("empty", false, of(1 << 20).over([])),
        shape("full", false, of(1 << 20).over([(0, mib, Noise(1))])),
        shape("holes", false, of(2 << 20).over(holes)),
        shape("zeros", false, of(4 << 20).over([(0, 4 * mib, Byte(9))]).over(zeros)),
        shape("unaligned", false, of((1 << 20) + 5 * 512).over([(mib - 1, 6, Noise(2))])),
        shape("one cluster", true, of(64 << 10).over([(0, 128, Text)])),
        shape("one sector", true, of(512).over([(0, 1, Byte(0xfe))])),
        shape("three levels", true, awkward()),
        shape(
            "> 2 TiB",
            false,
            of(HUGE)
                .over([(0, 3, Text), ((1 << 32) - 130, 140, Noise(3)), (huge_end - 300, 300, Text)])
                .over([(1 << 31, 5, Noise(4)), ((1 << 32) - 3, 6, Noise(5)), (huge_end - 260, 130, Zeros)])
                .over([(1, 1, Byte(1)), ((1 << 32) + 1, 2, Zeros), (huge_end - 1, 1, Byte(2))]),
        ),
    ]
}

/// The image at `path` keeps every law, and holds the shape's content.
fn check(path: &Path, shape: &Shape) {
    let image = formats::open(path, &OpenPolicy::named_by_user(path).unwrap()).unwrap();
    match shape.is_thorough {
        true => conformance::check(&image.disk(), &shape.model.content()),
        false => conformance::check_sampled(&image.disk(), shape.model.size, &shape.model.stored_runs()),
    }
    for layer in &image.layers {
        assert_eq!((layer.warnings.as_slice(), &layer.in_use), ([].as_slice(), &None), "{}", layer.path.display());
    }
}

/// What a way to store disks makes of a shape.
fn read_back(row: &Row, shape: &Shape) -> Result<&'static str, String> {
    if shape.model.size > row.size_max {
        return Ok("limit");
    }
    let dir = folder();
    guarded(|| check(&row.lay(dir.path(), &shape.model), shape)).map(|()| "ok")
}

/// What one of our writers makes of a shape; qemu-img has nothing to say against it.
fn write_and_read_back(kind: Kind, shape: &Shape) -> Result<&'static str, String> {
    let dir = folder();
    let path = dir.path().join("disk");
    let sink = match kind.create(&path, shape.model.size, Overwrite::Refuse) {
        Ok(sink) => sink,
        Err(err) => {
            let said = err.to_string();
            let limit = [("VMDK", "2199023255552"), ("VHD", "2190433320960")]
                .iter()
                .any(|(name, bytes)| said.contains(name) && said.contains(bytes));
            let is_expected = limit && said.ends_with(&format!("found {HUGE} bytes"));
            return if is_expected { Ok("limit") } else { Err(said) };
        }
    };
    for (number, block) in shape.model.flat().blocks_of(0, GRAIN) {
        let at = number * GRAIN as u64;
        let len = block.len().min(usize::try_from(shape.model.size - at).unwrap());
        sink.write_at(GuestOffset(at), &block[..len]).map_err(|err| err.to_string())?;
    }
    let files = sink.finish().map_err(|err| err.to_string())?;
    guarded(|| check(&files[0], shape))?;
    accepted_in_silence(kind, &files[0]).map(|()| "ok")
}

/// `info` and, where QEMU has it for the format, `check` succeed and complain about nothing.
fn accepted_in_silence(kind: Kind, path: &Path) -> Result<(), String> {
    let mut verbs = vec!["info"];
    if !["raw", "vpc"].contains(&kind.driver()) {
        verbs.push("check");
    }
    for verb in verbs {
        let output = Command::new("qemu-img").args([verb, "-f", kind.driver(), text(path)]).output();
        let output = output.unwrap_or_else(|err| panic!("qemu-img is needed by this test (package qemu-utils): {err}"));
        if !output.status.success() || !output.stderr.is_empty() {
            return Err(format!("qemu-img {verb}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok(())
}

/// The suite panics on a breach; one breach must not hide the rest of the table.
fn guarded(check: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(check)).map_err(|cause| match cause.downcast::<String>() {
        Ok(said) => *said,
        Err(cause) => cause.downcast_ref::<&str>().map_or("panicked".to_owned(), |said| (*said).to_owned()),
    })
}

#[test]
fn conformance_of_every_format_in_every_shape() {
    let shapes = shapes();
    let mut table = vec![vec!["format".to_owned()]];
    table[0].extend(shapes.iter().map(|shape| shape.name.to_owned()));
    let mut failures = Vec::new();
    let mut add = |name: String, outcome_of: &dyn Fn(&Shape) -> Result<&'static str, String>| {
        let mut cells = vec![name.clone()];
        for shape in &shapes {
            let outcome = outcome_of(shape);
            cells.push(outcome.as_ref().map_or("FAILED", |cell| *cell).to_owned());
            failures.extend(outcome.err().map(|why| format!("{name}, {}: {why}", shape.name)));
        }
        table.push(cells);
    };
    for row in rows() {
        add(row.name.to_owned(), &|shape| read_back(&row, shape));
    }
    for kind in KINDS {
        add(format!("written by us: {kind:?}"), &|shape| write_and_read_back(kind, shape));
    }
    println!("{}", aligned(&table));
    println!(
        "ok: the suite passes; for what we write, qemu-img info and check are silent; limit: larger than the format's"
    );
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    // Only what cannot be larger may be skipped, and only the largest shape.
    let limits: Vec<&str> =
        table.iter().filter(|cells| cells.iter().any(|cell| cell == "limit")).map(|cells| cells[0].as_str()).collect();
    let expected = [
        "vmdk redo logs COWD",
        "qcow2 v3 512 B clusters",
        "vhd fixed",
        "vhd dynamic",
        "vhd differencing",
        "written by us: Sparse",
        "written by us: Stream",
        "written by us: Split",
        "written by us: Vhd",
        "written by us: VhdFixed",
    ];
    assert_eq!(limits, expected);
}
