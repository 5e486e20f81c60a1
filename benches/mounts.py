#!/usr/bin/env python3
"""Reads one guest through a mount of a backup and through what else there is, side by side, and says how long each took.

usage: mounts.py --image FILE --work DIR --abbild BIN [--repeat N] [--restic PATH] [--json FILE]

  --image FILE   raw disk of a Linux guest, as corpus.sh makes it
  --work DIR     an existing folder for the repositories; about 2 GB free. Everything goes into a new folder inside it,
                 which is removed at the end
  --abbild BIN   the binary
  --json FILE    all figures (default: mounts.json in the current folder)

needs: root (loop devices, the kernel's mounts), Python 3.9, restic, tar, sfdisk, losetup, mount.
exit code: 0 done, 1 a tool failed or a tree differs, 2 usage.

  abbild   abbild mount: its own view of the guest's files, and the disk as a file
  restic   restic mount, and on the image in it a loop device and the kernel's mount
  kernel   loop device and the kernel's mount on the raw image itself: the limit

Tools take turns inside each round; the page cache is dropped before each work. The table holds medians over the rounds:
compare ratios, not seconds of different runs. The tar archives of the whole guest must be the same, byte for byte.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools import PASSWORD, Failed, abbild_backup_name

SEQUENTIAL_BYTES = 1 << 30
RANDOM_READS = 2000
RANDOM_SECONDS = 10
FIRST_FILE = "etc/os-release"

# ---- what each tool needs to show a guest ------------------------------------------------------------------------------


def run(*command, **options):
    """Runs a command that must succeed; gives its output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def root_partition(image):
    """Begin and length in bytes of the largest partition."""
    table = json.loads(run("sfdisk", "-J", image))["partitiontable"]
    largest = max(table["partitions"], key=lambda partition: partition["size"])
    sector = table.get("sectorsize", 512)
    return largest["start"] * sector, largest["size"] * sector


class LoopMount:
    """A loop device on the root partition inside an image, mounted by the kernel."""

    def __init__(self, image, folder, place):
        start, size = place
        self.folder = folder
        self.device = run("losetup", "-f", "--show", "-r", "-o", start, "--sizelimit", size, image).decode().strip()
        kind = run("blkid", "-p", "-s", "TYPE", "-o", "value", self.device).decode().strip()
        options = {"ext4": "ro,noload", "xfs": "ro,norecovery,nouuid"}.get(kind, "ro")
        run("mount", "-o", options, self.device, folder)

    def close(self):
        run("umount", self.folder)
        run("losetup", "-d", self.device)


class Abbild:
    name = "abbild"

    def __init__(self, binary, image, work):
        self.binary, self.folder = binary, work / "abbild-mount"
        self.folder.mkdir()
        self.environment = dict(
            os.environ, ABBILD_REPOSITORY=str(work / "abbild"), ABBILD_PASSWORD=PASSWORD, XDG_CACHE_HOME=str(work / "c"),
            XDG_STATE_HOME=str(work / "state"),
        )  # fmt: skip
        run(self.binary, "init", env=self.environment)
        output = run(self.binary, "backup", image, "--json", "-q", env=self.environment)
        self.backup = abbild_backup_name(output.decode())

    def open(self):
        run(self.binary, "mount", self.backup, self.folder, "-q", env=self.environment)
        return self.folder / "files", self.folder / "disks" / "disk0.raw"

    def close(self):
        run(self.binary, "umount", self.folder, "-q", env=self.environment)


class Restic:
    name = "restic"

    def __init__(self, binary, image, work):
        self.binary, self.folder, self.inner = binary, work / "restic-mount", work / "restic-inner"
        self.image = Path(image).resolve()
        self.place = root_partition(image)
        self.folder.mkdir()
        self.inner.mkdir()
        self.environment = dict(
            os.environ, RESTIC_REPOSITORY=str(work / "restic"), RESTIC_PASSWORD=PASSWORD,
            RESTIC_CACHE_DIR=str(work / "restic-cache"),
        )  # fmt: skip
        run(self.binary, "init", env=self.environment)
        run(self.binary, "backup", self.image, env=self.environment)

    def open(self):
        self.process = subprocess.Popen(
            [self.binary, "mount", str(self.folder)], env=self.environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        image = self.folder / "snapshots" / "latest" / self.image.relative_to("/")
        for _ in range(3000):
            if image.exists():
                break
            time.sleep(0.01)
        else:
            raise Failed("restic mount shows no image")
        self.loop = LoopMount(image, self.inner, self.place)
        return self.inner, image

    def close(self):
        self.loop.close()
        run("umount", self.folder)
        self.process.wait()


class Kernel:
    name = "kernel"

    def __init__(self, image, work):
        self.image, self.folder = Path(image), work / "kernel-mount"
        self.place = root_partition(image)
        self.folder.mkdir()

    def open(self):
        self.whole = run("losetup", "-f", "--show", "-r", self.image).decode().strip()
        self.loop = LoopMount(self.image, self.folder, self.place)
        return self.folder, Path(self.whole)

    def close(self):
        self.loop.close()
        run("losetup", "-d", self.whole)


# ---- the work ----------------------------------------------------------------------------------------------------------


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def data_offsets(image):
    """4 KiB pieces of the image that hold data, drawn at random, the same in every run."""
    draw, offsets = random.Random(20261122), []
    with open(image, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        while len(offsets) < RANDOM_READS:
            at = os.lseek(file.fileno(), draw.randrange(size) & ~4095, os.SEEK_DATA) & ~4095
            if at + 4096 <= size:
                offsets.append(at)
    return offsets


def first_data(image):
    """Where a gigabyte with much data in it begins: at the root partition."""
    return root_partition(image)[0]


def first_file(tool):
    begin = time.monotonic()
    root, _ = tool.open()
    content = (root / FIRST_FILE).read_bytes()
    took = time.monotonic() - begin
    tool.close()
    if not content:
        raise Failed(f"{tool.name}: {FIRST_FILE} is empty")
    return took


def sequential(tool, start):
    _, disk = tool.open()
    try:
        digest = hashlib.blake2b()
        with open(disk, "rb", buffering=0) as file:
            begin, left, took = time.monotonic(), SEQUENTIAL_BYTES, 0.0
            file.seek(start)
            while left:
                begin = time.monotonic()
                piece = file.read(min(left, 1 << 20))
                took += time.monotonic() - begin
                digest.update(piece)
                left -= len(piece)
        return took, digest.hexdigest()
    finally:
        tool.close()


def scattered(tool, offsets):
    _, disk = tool.open()
    try:
        with open(disk, "rb", buffering=0) as file:
            begin, count = time.monotonic(), 0
            for at in offsets:
                if len(os.pread(file.fileno(), 4096, at)) != 4096:
                    raise Failed(f"{tool.name}: short read at {at}")
                count += 1
                if time.monotonic() - begin > RANDOM_SECONDS:
                    break
            return count / (time.monotonic() - begin)
    finally:
        tool.close()


def archive(tool):
    root, _ = tool.open()
    try:
        begin = time.monotonic()
        command = [
            "tar", "-C", root, "--sort=name", "--numeric-owner", "--xattrs", "--format=posix",
            "--pax-option=delete=atime,delete=ctime", "-cf", "-", ".",
        ]  # fmt: skip
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        digest, length = hashlib.blake2b(), 0
        while piece := process.stdout.read(1 << 20):
            digest.update(piece)
            length += len(piece)
        said = process.stderr.read().decode(errors="replace")
        if process.wait() != 0:
            raise Failed(f"{tool.name}: tar failed: {said}")
        return time.monotonic() - begin, digest.hexdigest(), length
    finally:
        tool.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--abbild", required=True)
    parser.add_argument("--restic", default="restic")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", default="mounts.json")
    arguments = parser.parse_args()
    try:
        figures = compare(arguments.image, arguments.work, arguments.abbild, arguments.restic, arguments.repeat)
    except Failed as failure:
        sys.exit(f"mounts.py: {failure}")
    Path(arguments.json).write_text(json.dumps(figures, indent=1))
    print(table(figures))


def compare(image, folder, abbild, restic, rounds):
    """Every figure of every round: work → tool → list. Works in a new folder below `folder`, and removes it."""
    if os.geteuid() != 0:
        raise Failed("mounts need root, for loop devices and the kernel's mounts")
    work = Path(tempfile.mkdtemp(prefix="mounts-", dir=folder))
    try:
        tools = [Abbild(str(Path(abbild).resolve()), image, work), Restic(restic, image, work), Kernel(image, work)]
        return measure_all(image, tools, rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def measure_all(image, tools, rounds):
    start, offsets = first_data(image), data_offsets(image)
    figures = {}

    def note(what, tool, value):
        figures.setdefault(what, {}).setdefault(tool.name, []).append(value)

    contents, archives = set(), set()
    for number in range(rounds):
        order = tools[number % len(tools) :] + tools[: number % len(tools)]
        for tool in order:
            drop_caches()
            note("mount to first file, s", tool, first_file(tool))
            drop_caches()
            took, content = sequential(tool, start)
            contents.add(content)
            note("sequential, MB/s", tool, SEQUENTIAL_BYTES / took / 1e6)
            drop_caches()
            note("random 4 KiB reads, /s", tool, scattered(tool, offsets))
            drop_caches()
            took, content, length = archive(tool)
            archives.add((content, length))
            note("tar of the guest, s", tool, took)
            print(f"round {number + 1}: {tool.name} done", file=sys.stderr)
    if len(contents) != 1 or len(archives) != 1:
        raise Failed(f"the tools do not show the same: disks {contents}, archives {archives}")
    return figures


def table(figures):
    """The medians: a line for each work, a column for each tool."""
    names = list(next(iter(figures.values())))
    lines = [f"{'':26}" + "".join(f"{name:>12}" for name in names)]
    for work, by_tool in figures.items():
        lines.append(f"{work:26}" + "".join(f"{statistics.median(by_tool[name]):12.2f}" for name in names))
    return "\n".join([*lines, "the disks and the tar archives of the whole guest are the same"])


if __name__ == "__main__":
    main()
