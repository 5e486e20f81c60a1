#!/usr/bin/env python3
"""Reads the same disk in every format with our readers and with `qemu-img convert` to a discarded target, side by side.

usage: readers.py --raw IMAGE --work DIR [--reader BIN] [--repeat N] [--formats qcow2,vmdk,…] [--json FILE] [--keep]

  --raw IMAGE    a raw image of a real guest, e.g. one of corpus.sh's
  --work DIR     an existing folder for the converted images: about four times the guest's data. They go into a new folder
                 inside it, which is removed at the end (--keep: into DIR itself, and the next run takes them from there)
  --reader BIN   the benchmark `readers`, built (default: build it now with cargo)
  --json FILE    all figures (default: readers.json in the current folder)

needs: Python 3.9, Linux, qemu-img, and cargo unless --reader is given.
exit code: 0 done, 1 a tool failed or a reader's disk is not the raw image's, 2 usage.

How to read it: the images are in the page cache, so this is the cost of the readers, not of the medium. Tools take turns
inside each round, and every round starts another one first; the table holds medians. `1` is the code of one worker of a
backup, `2` two workers that take segments in turn. qemu-img reads ahead with coroutines by default; the wide run is told
to do so without keeping the order (-m 8 -W), and unpacks clusters on threads of its own either way. Its target is QEMU's
null device, which forgets what it is given; it is told that the target reads as zeros, so it need not write any.
On a machine that others use, a tool with more threads gets more of it: run this in a session of its own with a share that
counts, as root: setsid sh -c 'echo -20 > /proc/self/autogroup; exec benches/readers.py …'.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import measure

# Name → how qemu-img makes it, and what it calls the format.
FORMATS = {
    "raw": None,
    "qcow2": ("qcow2", ["-O", "qcow2"]),
    "qcow2-zlib": ("qcow2", ["-O", "qcow2", "-c"]),
    "qcow2-zstd": ("qcow2", ["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
    "vmdk": ("vmdk", ["-O", "vmdk", "-o", "subformat=monolithicSparse"]),
    "vmdk-split": ("vmdk", ["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"]),
    "vmdk-stream": ("vmdk", ["-O", "vmdk", "-o", "subformat=streamOptimized"]),
    "vhdx": ("vhdx", ["-O", "vhdx"]),
    "vhd": ("vpc", ["-O", "vpc", "-o", "force_size=on"]),
    "vdi": ("vdi", ["-O", "vdi"]),
    "parallels": ("parallels", ["-O", "parallels"]),
    "qed": ("qed", ["-O", "qed"]),
}
ENDINGS = {"qcow2-zlib": "qcow2", "qcow2-zstd": "qcow2", "vmdk-split": "vmdk", "vmdk-stream": "vmdk"}
DEFAULT_FORMATS = [name for name in FORMATS if name != "raw"]


class Failed(Exception):
    """The run cannot go on; the text says why."""


@dataclass
class Run:
    """One measured command."""

    round: int
    format: str
    tool: str
    cost: measure.Cost


def output_of(command):
    answer = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Failed(f"{command[0]} failed ({answer.returncode}): {answer.stderr.strip()}")
    return answer.stdout


def build_reader():
    said = output_of(["cargo", "bench", "--bench", "readers", "--no-run", "--message-format", "json"])
    for line in said.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "readers":
            return message["executable"]
    raise Failed("cargo built no benchmark called readers")


def convert(raw, name, folder):
    """Path of `raw` in the format `name`, made if it is not there."""
    if FORMATS[name] is None:
        return raw
    parent = folder / name
    image = parent / f"{raw.stem}.{ENDINGS.get(name, name)}"
    if not image.exists():
        parent.mkdir(exist_ok=True)
        print(f"readers.py: making {image.name} as {name}", file=sys.stderr)
        output_of(["qemu-img", "convert", "-f", "raw", *FORMATS[name][1], raw, image])
    return image


def commands(name, image, size, reader):
    """Tool → command that reads `image` and throws the bytes away."""
    driver = FORMATS[name][0] if FORMATS[name] else "raw"
    discarded = ["--target-image-opts", "-n", "--target-is-zero", "-f", driver]
    target = f"driver=null-co,size={size}"
    return {
        "abbild 1": [reader, image, "--threads", "1"],
        "abbild 2": [reader, image, "--threads", "2"],
        "qemu-img": ["qemu-img", "convert", *discarded, image, target],
        "qemu-img wide": ["qemu-img", "convert", "-m", "8", "-W", *discarded, image, target],
    }


def one_run(command):
    with tempfile.TemporaryFile() as said:
        cost = measure.measure([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=said)
        if cost.exit_code != 0:
            said.seek(0)
            raise Failed(f"{command[0]} failed ({cost.exit_code}): {said.read().decode(errors='replace').strip()}")
    return cost


def warm(image):
    """Brings all files beside `image` into the page cache."""
    for file in image.parent.iterdir() if image.parent.name in FORMATS else [image]:
        with open(file, "rb") as opened:
            while opened.read(1 << 22):
                pass


def table(runs, names):
    """Medians for each format; ratios above 1 say that qemu-img needs more."""
    tools = ["abbild 1", "abbild 2", "qemu-img", "qemu-img wide"]

    def median(name, tool, figure):
        return statistics.median(figure(run.cost) for run in runs if (run.format, run.tool) == (name, tool))

    head = f"{'wall s (CPU s)':14}" + "".join(f"{tool:>16}" for tool in tools) + f"{'q/a 1':>9}{'wide/a 2':>9}{'cpu':>7}"
    lines = [head]
    for name in names:
        wall = {tool: median(name, tool, lambda cost: cost.wall_s) for tool in tools}
        cpu = {tool: median(name, tool, lambda cost: cost.cpu_s) for tool in tools}
        line = f"{name:14}" + "".join(f"{f'{wall[tool]:.2f} ({cpu[tool]:.2f})':>16}" for tool in tools)
        line += f"{wall['qemu-img'] / wall['abbild 1']:>9.2f}{wall['qemu-img wide'] / wall['abbild 2']:>9.2f}"
        lines.append(line + f"{cpu['qemu-img'] / cpu['abbild 1']:>7.2f}")
    return "\n".join(lines)


def run(args, folder):
    reader = args.reader or build_reader()
    size = args.raw.stat().st_size
    expected = json.loads(output_of([reader, args.raw, "--digest"]))["blake3"]
    work = {}
    for name in args.formats:
        image = convert(args.raw, name, folder)
        answer = json.loads(output_of([reader, image, "--digest"]))
        if (answer["size"], answer["blake3"]) != (size, expected):
            raise Failed(f"{image}: the reader's disk is not that of {args.raw}: {answer}")
        work[name] = (image, commands(name, image, size, reader))
    runs = []
    for name, (image, tools) in work.items():
        warm(image)
        for round_number in range(args.repeat):
            turn = round_number % len(tools)
            order = [*tools][turn:] + [*tools][:turn]
            runs += [Run(round_number, name, tool, one_run(tools[tool])) for tool in order]
    version = output_of(["qemu-img", "--version"]).partition("\n")[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.release()}, {version}, rounds: {args.repeat}, warm cache")
    print(f"{args.raw.name}: {size >> 20} MiB, {args.raw.stat().st_blocks * 512 / 1e6:.0f} MB allocated\n")
    print(table(runs, args.formats))
    with open(args.json, "w", encoding="utf-8") as out:
        json.dump([asdict(one) for one in runs], out, indent=1)


def main():
    parser = argparse.ArgumentParser(description="Compare image readers with qemu-img.")
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--reader")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--formats", type=lambda text: text.split(","), default=DEFAULT_FORMATS)
    parser.add_argument("--json", default="readers.json")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    unknown = [name for name in args.formats if name not in FORMATS]
    if unknown or args.repeat < 1 or not args.work.is_dir() or not args.raw.is_file():
        parser.error(f"unknown formats {unknown}" if unknown else "no such folder or image, or no rounds")
    try:
        if args.keep:
            run(args, args.work)
        else:
            with tempfile.TemporaryDirectory(dir=args.work, prefix="readers-") as folder:
                run(args, Path(folder))
    except (Failed, OSError) as error:
        print(f"readers.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
