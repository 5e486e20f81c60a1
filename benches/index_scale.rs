//! The index as it grows: what adding, finding, missing and building anew cost, at each power of two of chunks.
//!
//! usage: cargo bench --bench index_scale -- --folder DIR [--chunks MILLIONS] [--json FILE]
//!
//! Packs are synthetic, with as many chunks as a pack of real guests has; ids are random, as keyed hashes are. Each row is
//! measured on the index as it is then. Memory is this process's resident set; the kernel's page cache comes on top, and
//! is the kernel's to take back. 10 TiB of unique data in chunks of 14 KiB are 790 million chunks.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use abbild::repo::blob::Codec;
use abbild::repo::ids::{ChunkId, PackId, RepoId};
use abbild::repo::index::{Index, IndexPlace};
use abbild::repo::pack::Directory;
use abbild::repo::pack::directory::DirectoryBuilder;
use abbild::repo::pack::writer::FinishedPack;
use abbild::repo::seal::{HEADER_BYTES, Kind, TAG_BYTES};
use clap::Parser;

/// Chunks of a pack: 64 MiB of blobs that compressed to a third of their chunks of 14 KiB on average.
const CHUNKS_OF_A_PACK: u64 = 12_000;
const CHUNKS_OF_A_BLOB: u64 = 10;
const CHUNK_BYTES: u32 = 14 << 10;
/// Look-ups of a row.
const LOOK_UPS: u64 = 20_000;

/// Measures the index as it grows.
#[derive(Parser)]
struct Arguments {
    /// Where the index is made; without it there is nothing to do.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How far it grows, in millions of chunks.
    #[arg(long, default_value_t = 16)]
    chunks: u64,
    /// All figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Pack `number`, whose ids can be made again.
fn pack(number: u64) -> FinishedPack {
    let mut ids = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
    let mut builder = DirectoryBuilder::default();
    let mut id = [0; 16];
    ids.fill(&mut id);
    for _ in 0..CHUNKS_OF_A_PACK / CHUNKS_OF_A_BLOB {
        let mut chunks = [(ChunkId([0; 20]), CHUNK_BYTES); CHUNKS_OF_A_BLOB as usize];
        chunks.iter_mut().for_each(|(id, _)| ids.fill(&mut id.0));
        builder.add(1000 + TAG_BYTES as u32, CHUNK_BYTES * CHUNKS_OF_A_BLOB as u32, Codec::Zstd, &chunks);
    }
    let directory = builder.encode();
    FinishedPack { id: PackId(id), kind: Kind::DataPack, len: 64 << 20, header: [0; HEADER_BYTES], directory }
}

fn decoded(pack: &FinishedPack) -> Directory {
    Directory::decode(&pack.directory, u64::MAX).expect("our own bytes")
}

/// Seconds that this thread, which is the process's first, has had a core for.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Now and at most: the resident set of this process, in MiB.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (line("VmRSS:").unwrap_or(0) >> 10, line("VmHWM:").unwrap_or(0) >> 10)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(folder) = &arguments.folder else {
        eprintln!("index_scale: name a folder with --folder");
        return ExitCode::SUCCESS;
    };
    match run(folder, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("index_scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &std::path::Path, arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let place = IndexPlace::Folder(folder.to_owned());
    let (index, _) = Index::open(&place, RepoId([1; 16]))?;
    let mut rows = Vec::new();
    println!(
        "{:>10} {:>12} {:>12} {:>12} {:>12} {:>12} {:>9} {:>9}",
        "chunks", "added/s", "added/cpu s", "found/s", "missed/s", "loaded/s", "file MiB", "RSS MiB"
    );
    let (mut packs, mut next) = (0u64, 1_000_000u64);
    let (mut since, mut adding, mut adding_cpu) = (packs, 0.0, 0.0);
    while packs * CHUNKS_OF_A_PACK < arguments.chunks * 1_000_000 {
        let made = pack(packs);
        let directory = decoded(&made);
        let (begin, cpu_before) = (Instant::now(), cpu_s());
        index.add(&[(&made, &directory)])?;
        adding += begin.elapsed().as_secs_f64();
        adding_cpu += cpu_s() - cpu_before;
        packs += 1;
        let chunks = packs * CHUNKS_OF_A_PACK;
        if chunks < next.min(arguments.chunks * 1_000_000) {
            continue;
        }
        next *= 2;
        let added = ((packs - since) * CHUNKS_OF_A_PACK) as f64;
        let row = measured(&index, packs)?;
        let file: u64 = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum();
        let (now, _) = resident();
        println!(
            "{chunks:>10} {:>12.0} {:>12.0} {:>12.0} {:>12.0} {:>12.0} {:>9} {:>9}",
            added / adding,
            added / adding_cpu,
            row[0],
            row[1],
            row[2],
            file >> 20,
            now
        );
        rows.push(serde_json::json!({
            "chunks": chunks, "added_per_s": added / adding, "added_per_cpu_s": added / adding_cpu,
            "found_per_s": row[0], "missed_per_s": row[1], "packs_loaded_per_s": row[2], "file_bytes": file, "resident_mib": now,
        }));
        (since, adding, adding_cpu) = (packs, 0.0, 0.0);
    }
    println!("at most {} MiB of memory", resident().1);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

/// Chunks found and missed a second, and packs whose directory was loaded.
fn measured(index: &Index, packs: u64) -> Result<[f64; 3], Box<dyn std::error::Error>> {
    let drawn = |turn: u64| turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % packs;
    let known: Vec<ChunkId> = (0..100u64)
        .flat_map(|turn| {
            let directory = decoded(&pack(drawn(turn)));
            let each = LOOK_UPS as usize / 100;
            directory
                .chunks()
                .iter()
                .step_by(CHUNKS_OF_A_PACK as usize / each)
                .take(each)
                .map(|(id, _)| *id)
                .collect::<Vec<_>>()
        })
        .collect();
    let begin = Instant::now();
    for id in &known {
        assert!(index.find(*id)?.is_some(), "what was added is found");
    }
    let found = known.len() as f64 / begin.elapsed().as_secs_f64();
    let mut absent = blake3::Hasher::new().update(b"absent").update(&packs.to_le_bytes()).finalize_xof();
    let begin = Instant::now();
    for _ in 0..LOOK_UPS {
        let mut id = ChunkId([0; 20]);
        absent.fill(&mut id.0);
        assert!(index.find(id)?.is_none(), "nobody has added it");
    }
    let missed = LOOK_UPS as f64 / begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let mut loaded = 0;
    for id in known.iter().step_by(known.len() / 100) {
        let row = index.find(*id)?.expect("found before");
        loaded += usize::from(index.load(row)?.is_some());
    }
    Ok([found, missed, loaded as f64 / begin.elapsed().as_secs_f64()])
}
