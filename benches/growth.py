#!/usr/bin/env python3
"""How the cost of a backup grows: with the disk, with what changed, with the number of backups, and of machines.

usage: growth.py --abbild BIN --work DIR [--repeat N] [--json FILE] [--svg FILE]

  --work DIR   an existing folder; some 6 GB free. Everything goes into a new folder inside it, which is removed at the end
  --repeat N   each point is the median of so many runs (default 3)
  --json FILE  all figures (default: growth.json in the current folder)
  --svg FILE   the same as a plot (default: growth.svg in the current folder)

needs: Linux, Python 3.9, qemu-img and qemu-io.
exit code: 0 done, 1 a tool failed, 2 usage.

Four curves. *Disk*: a sparse disk of 1 GiB to 4 TiB whose redo log holds 64 MiB. *Changed*: a disk of 100 GiB whose redo
log holds 1 MiB to 1 GiB. *Backups*: a disk of 16 MiB of which 4 KiB changed, in a repository with 1 to 3,000 backups of it.
*Machines*: one run over 1 to 300 machines of 1 MiB each, nothing changed.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import measure

MIB = 1 << 20
GIB = 1 << 30


class Failed(Exception):
    """The run cannot go on; the text says why."""


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-1000:]}")


class Abbild:
    """A fresh repository in `home`."""

    def __init__(self, binary, home):
        home.mkdir()
        self.binary, self.home = binary, home
        self.environment = dict(
            os.environ, HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), XDG_STATE_HOME=str(home / "state"),
            ABBILD_REPOSITORY=str(home / "repository"), ABBILD_KEY_FILE=str(home / "key"), ABBILD_WARN_FREE="0",
        )  # fmt: skip
        self.call("init")

    def call(self, *arguments):
        """Its cost."""
        log = self.home / "log"
        with open(log, "wb") as out:
            command = [self.binary, *map(str, arguments), "-q", "--no-progress"]
            cost = measure(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        if cost.exit_code != 0:
            raise Failed(f"abbild {' '.join(map(str, arguments))}: exit code {cost.exit_code}\n{log.read_text()[-1000:]}")
        return cost


def scatter(image, megabytes, seed, size):
    """Noise in so many places of 1 MiB."""
    places = random.Random(seed)
    with open(image, "r+b") as file:
        for _ in range(megabytes):
            file.seek(places.randrange(size // MIB) * MIB)
            file.write(places.randbytes(MIB))


def redo_log(base, path, megabytes, seed, size):
    """An overlay over `base` that holds so much noise, in places of 1 MiB."""
    path.unlink(missing_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path)
    places = random.Random(seed)
    writes = [f"write -q -P {1 + seed % 250} {places.randrange(size // MIB)}M 1M" for _ in range(megabytes)]
    for at in range(0, len(writes), 200):
        run("qemu-io", "-f", "qcow2", *[word for write in writes[at : at + 200] for word in ("-c", write)], path)


def point(x, costs):
    return {
        "x": x,
        "wall_s": statistics.median(cost.wall_s for cost in costs),
        "cpu_s": statistics.median(cost.cpu_s for cost in costs),
        "peak_rss_mib": max(cost.peak_rss_mib for cost in costs),
    }


def tracked(args, folder, size, megabytes):
    """Costs of backing up a redo log that holds so much, over a base that was backed up before."""
    folder.mkdir()
    base, overlay = folder / "base.raw", folder / "disk.qcow2"
    with open(base, "wb") as file:
        file.truncate(size)
    scatter(base, 64, 1, size)
    redo_log(base, overlay, 0, 0, size)
    abbild = Abbild(args.abbild, folder / "home")
    abbild.call("backup", overlay, "--snapshot", "base")
    costs = []
    for turn in range(args.repeat):
        redo_log(base, overlay, megabytes, turn + 2, size)
        costs.append(abbild.call("backup", overlay))
    shutil.rmtree(folder)
    return costs


def by_disk(args, folder):
    for gib in (1, 4, 16, 64, 256, 1024, 4096):
        yield point(gib, tracked(args, folder / "disk", gib * GIB, 64))


def by_changed(args, folder):
    for megabytes in (1, 4, 16, 64, 256, 1024):
        yield point(megabytes, tracked(args, folder / "changed", 100 * GIB, megabytes))


def by_backups(args, folder):
    abbild = Abbild(args.abbild, folder / "backups")
    image = folder / "disk.raw"
    with open(image, "wb") as file:
        file.truncate(16 * MIB)
    scatter(image, 12, 1, 16 * MIB)
    done = 0
    for wanted in (1, 10, 30, 100, 300, 1000, 3000):
        costs = []
        while done < wanted + args.repeat:
            with open(image, "r+b") as file:
                file.seek(done % 4096 * 4096)
                file.write(random.Random(done).randbytes(4096))
            cost = abbild.call("backup", image)
            done += 1
            if done > wanted:
                costs.append(cost)
        yield point(wanted, costs)


def by_machines(args, folder):
    for count in (1, 3, 10, 30, 100, 300):
        machines = folder / "machines"
        for number in range(count):
            home = machines / f"m{number:03}"
            home.mkdir(parents=True)
            (home / "disk.raw").write_bytes(random.Random(number).randbytes(256 << 10) + bytes(768 << 10))
        abbild = Abbild(args.abbild, folder / "home")
        abbild.call("backup", machines)
        yield point(count, [abbild.call("backup", machines) for _ in range(args.repeat)])
        shutil.rmtree(machines)
        shutil.rmtree(folder / "home")


CURVES = [
    ("disk", "64 MiB changed, known by a redo log", "size of the disk, GiB", by_disk),
    ("changed", "a disk of 100 GiB with a redo log", "MiB in the redo log", by_changed),
    ("backups", "a disk of 16 MiB, 4 KiB changed", "backups in the repository", by_backups),
    ("machines", "machines of 1 MiB, nothing changed", "machines in one run", by_machines),
]

# ---- the plot --------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 430, 300, 52, 34, 52, 44


def decades(values):
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)


def panel(title, label, points, x0, y0):
    """One curve: seconds in blue against the left axis, memory in orange against the right one, both logarithmic."""
    x_from, x_to = decades([p["x"] for p in points])
    inner_w, inner_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = [f'<g transform="translate({x0},{y0})" font-family="sans-serif" font-size="11">']
    parts.append(f'<text x="{LEFT}" y="18" font-size="13">{title}</text>')
    parts.append(f'<rect x="{LEFT}" y="{TOP}" width="{inner_w}" height="{inner_h}" fill="none" stroke="#999"/>')
    parts.append(f'<text x="{LEFT + inner_w / 2}" y="{HEIGHT - 10}" text-anchor="middle">{label}</text>')
    at_x = lambda value: LEFT + inner_w * (math.log10(value) - x_from) / max(x_to - x_from, 1)
    for decade in range(x_from, x_to + 1):
        parts.append(f'<text x="{at_x(10**decade):.1f}" y="{TOP + inner_h + 15}" text-anchor="middle">{10**decade:,}</text>')
    axes = (("wall_s", (-2, 2), "#1f5fa8", LEFT - 6, "end", "s"), ("peak_rss_mib", (1, 3), "#c8650a", LEFT + inner_w + 6, "start", "MiB"))
    for name, (low, high), colour, text_x, anchor, unit in axes:
        at_y = lambda value: TOP + inner_h * (1 - (math.log10(max(value, 10**low)) - low) / (high - low))
        for decade in range(low, high + 1):
            parts.append(f'<text x="{text_x}" y="{at_y(10**decade) + 4:.1f}" text-anchor="{anchor}" fill="{colour}">{10**decade:g} {unit}</text>')
        line = " ".join(f"{at_x(p['x']):.1f},{at_y(p[name]):.1f}" for p in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{at_x(p["x"]):.1f}" cy="{at_y(p[name]):.1f}" r="3" fill="{colour}"/>' for p in points]
    return "\n".join([*parts, "</g>"])


def plot(curves):
    panels = [
        panel(title, label, curves[key], number % 2 * WIDTH, number // 2 * HEIGHT)
        for number, (key, title, label, _) in enumerate(CURVES)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {2 * HEIGHT}" width="{2 * WIDTH}" height="{2 * HEIGHT}">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *panels, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--abbild", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("growth.json"))
    parser.add_argument("--svg", type=Path, default=Path("growth.svg"))
    args = parser.parse_args()
    args.abbild = os.path.abspath(args.abbild)
    if not args.work.is_dir():
        parser.error(f"--work {args.work} is not a folder")
    folder = Path(tempfile.mkdtemp(prefix="growth-", dir=args.work.resolve()))
    curves = {}
    try:
        for key, title, label, measured in CURVES:
            print(f"{title}\n{label:>26} {'wall s':>8} {'cpu s':>8} {'peak MiB':>9}")
            curves[key] = []
            for found in measured(args, folder):
                curves[key].append(found)
                print(f"{found['x']:>26,} {found['wall_s']:>8.2f} {found['cpu_s']:>8.2f} {found['peak_rss_mib']:>9.0f}", flush=True)
            print()
    except Failed as failure:
        print(f"growth.py: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    args.json.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    args.svg.write_text(plot(curves), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
