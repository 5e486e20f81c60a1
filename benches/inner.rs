//! What the inner parts of a backup cost, one by one: the chunker, ids, sealing, the branch filter, the blob codec, the
//! index, the readers of images.
//!
//! usage: cargo bench --bench inner [-- FILTER]
//!
//! In here: small work on data that compresses about as a guest does. Not in here: the whole (`compare.py`), the index at
//! scale (`index_scale`).

use std::hint::black_box;

use abbild::chunker::{ChunkSizes, Chunker, Piece, SEGMENT_BYTES, is_zero};
use abbild::disk::Disk;
use abbild::formats::{self, OpenPolicy};
use abbild::repo::blob::{BlobPacker, PackedBlob, unpack};
use abbild::repo::branch_filter;
use abbild::repo::ids::{ChunkId, PackId, RepoId};
use abbild::repo::index::{Index, IndexPlace};
use abbild::repo::pack::Directory;
use abbild::repo::pack::directory::DirectoryBuilder;
use abbild::repo::pack::writer::FinishedPack;
use abbild::repo::seal::{ChunkKind, HEADER_BYTES, Keys, Kind, MasterSecrets, ObjectCipher, TAG_BYTES};
use abbild::units::GuestOffset;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Bytes of a typical chunk.
const CHUNK: usize = 16 << 10;

fn keys() -> Keys {
    Keys::derive(&MasterSecrets::generate(), RepoId([7; 16]))
}

/// Half noise, half words: compresses to about two thirds.
fn guest_like(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    for (number, block) in bytes.chunks_mut(512).enumerate().filter(|(number, _)| number % 2 == 0) {
        let words = format!("the {number}th line of a file of a guest, as they all are; ");
        block.iter_mut().zip(words.bytes().cycle()).for_each(|(byte, letter)| *byte = letter);
    }
    bytes
}

fn cutting(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("segment");
    let chunker = Chunker::new(ChunkSizes::default(), keys().gear_table());
    let segment = guest_like(SEGMENT_BYTES);
    group.throughput(Throughput::Bytes(segment.len() as u64));
    group.bench_function("cut", |b| {
        b.iter(|| {
            let mut chunks = 0;
            let cut: Result<(), ()> = chunker.cut(black_box(&segment), |piece| {
                chunks += usize::from(matches!(piece, Piece::Chunk(_)));
                Ok(())
            });
            cut.map(|()| chunks)
        });
    });
    let zeros = vec![0; SEGMENT_BYTES];
    group.bench_function("zero test", |b| b.iter(|| is_zero(black_box(&zeros))));
    group.finish();
}

fn identifying_and_sealing(bench: &mut Criterion) {
    let keys = keys();
    let mut group = bench.benchmark_group("chunk");
    let chunk = guest_like(CHUNK);
    group.throughput(Throughput::Bytes(CHUNK as u64));
    group.bench_function("id", |b| b.iter(|| keys.chunk_id(ChunkKind::Data, black_box(&chunk))));
    group.finish();

    let mut group = bench.benchmark_group("blob");
    let plain = guest_like(128 << 10);
    let packed = pack(&plain);
    group.throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("pack, unpack and compare", |b| b.iter(|| pack(black_box(&plain))));
    group.bench_function("unpack", |b| {
        b.iter(|| unpack(packed.codec, black_box(&packed.bytes), packed.plain_len).map(|plain| plain.len()));
    });
    let cipher = ObjectCipher::create(&keys, Kind::DataPack, "packs/00/00");
    group.throughput(Throughput::Bytes(packed.bytes.len() as u64));
    group.bench_function("seal", |b| {
        b.iter(|| {
            let mut part = packed.bytes.clone();
            cipher.seal(1, u64::from(packed.plain_len), &mut part);
            part.len()
        });
    });
    group.finish();
}

fn filtering(bench: &mut Criterion) {
    let program = std::env::current_exe().and_then(std::fs::read).expect("this program can be read");
    let code: Vec<&[u8]> = program.chunks(CHUNK).filter(|chunk| branch_filter::looks_like_code(chunk)).collect();
    let mut code = code.concat();
    let mut group = bench.benchmark_group("branch filter");
    group.throughput(Throughput::Bytes(code.len() as u64));
    group.bench_function("is it code?", |b| b.iter(|| branch_filter::looks_like_code(black_box(&code))));
    group.bench_function("filter and undo", |b| {
        b.iter(|| {
            branch_filter::filter(black_box(&mut code), 0);
            branch_filter::unfilter(black_box(&mut code), 0);
        });
    });
    group.finish();
}

fn pack(plain: &[u8]) -> PackedBlob {
    let mut packer = BlobPacker::new(ChunkKind::Data);
    for chunk in plain.chunks(CHUNK) {
        if let Some(blob) = packer.add(ChunkId([1; 20]), chunk).expect("it unpacks to the same") {
            return blob;
        }
    }
    packer.take().expect("it unpacks to the same").expect("something was added")
}

/// A pack of `blobs` blobs of eight chunks, with ids that no other number gives.
fn synthetic_pack(number: u64, blobs: u32) -> (FinishedPack, Directory) {
    let mut ids = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
    let mut builder = DirectoryBuilder::default();
    for _ in 0..blobs {
        let mut chunks = [(ChunkId([0; 20]), CHUNK as u32); 8];
        chunks.iter_mut().for_each(|(id, _)| ids.fill(&mut id.0));
        builder.add(1000 + TAG_BYTES as u32, 8 * CHUNK as u32, abbild::repo::blob::Codec::Zstd, &chunks);
    }
    let directory = builder.encode();
    let decoded = Directory::decode(&directory, u64::MAX).expect("our own bytes");
    let mut id = [0; 16];
    ids.fill(&mut id);
    let pack =
        FinishedPack { id: PackId(id), kind: Kind::DataPack, len: 64 << 20, header: [0; HEADER_BYTES], directory };
    (pack, decoded)
}

fn indexing(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("index of 400,000 chunks");
    let (index, _) = Index::open(&IndexPlace::Memory, RepoId([1; 16])).expect("in memory");
    let packs: Vec<_> = (0..100).map(|number| synthetic_pack(number, 500)).collect();
    packs.iter().for_each(|(pack, directory)| index.add(&[(pack, directory)]).expect("in memory"));
    let known: Vec<ChunkId> =
        packs.iter().flat_map(|(_, directory)| directory.chunks().iter().map(|(id, _)| *id)).collect();
    let mut at = 0;
    group.bench_function("find a chunk that is there", |b| {
        b.iter(|| {
            at = (at + 7919) % known.len();
            index.find(known[at]).expect("in memory").is_some()
        });
    });
    let mut absent = blake3::Hasher::new().update(b"absent").finalize_xof();
    group.bench_function("find a chunk that is not", |b| {
        b.iter(|| {
            let mut id = ChunkId([0; 20]);
            absent.fill(&mut id.0);
            index.find(id).expect("in memory").is_some()
        });
    });
    let directory = &packs[0].1;
    let first = directory.chunks()[17].0;
    group.bench_function("find a chunk in a pack's directory", |b| b.iter(|| directory.find(black_box(first))));
    group.finish();
}

/// 64 MiB of data in each format that `qemu-img` writes, read segment by segment.
fn reading(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("read");
    group.sample_size(10);
    let folder = tempfile::tempdir().expect("a folder for images");
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, guest_like(64 << 20)).expect("room for an image");
    let written = [
        ("raw", "raw", ""),
        ("qcow2", "qcow2", ""),
        ("qcow2, zstd", "qcow2", "compression_type=zstd"),
        ("vmdk", "vmdk", ""),
        ("vhdx", "vhdx", ""),
        ("vhd", "vpc", ""),
        ("vdi", "vdi", ""),
    ];
    for (name, format, options) in written {
        let image = folder.path().join(format!("{}.{format}", name.replace(", ", "-")));
        let mut convert = std::process::Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", format]);
        if !options.is_empty() {
            convert.args(["-c", "-o", options]);
        }
        assert!(convert.arg(&raw).arg(&image).status().is_ok_and(|status| status.success()), "qemu-img is needed");
        let policy = OpenPolicy::named_by_user(&image).expect("a path");
        let image = formats::open(&image, &policy).expect("our reader opens it");
        let disk = image.disk();
        group.throughput(Throughput::Bytes(64 << 20));
        let mut buffer = vec![0; SEGMENT_BYTES];
        group.bench_function(name, |b| {
            b.iter(|| {
                for segment in 0..16 {
                    disk.read_at(GuestOffset(segment * SEGMENT_BYTES as u64), &mut buffer).expect("a sound image");
                }
            });
        });
    }
    group.finish();
}

criterion_group!(inner, cutting, identifying_and_sealing, filtering, indexing, reading);
criterion_main!(inner);
