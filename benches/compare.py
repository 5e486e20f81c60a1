#!/usr/bin/env python3
"""Runs the same backup work with Abbild and with its peers, side by side, and says who needed what.

usage: compare.py --corpus DIR --work DIR [--abbild BIN] [--repeat N] [--peers restic,rustic,cp,qemu-img] [--cold]
                  [--rustic PATH] [--restic PATH] [--json FILE] [--keep]

  --corpus DIR   images made by corpus.sh (guest-a.raw, guest-a-nextday.raw)
  --work DIR     an existing folder for repositories and restored images; about 10 GB free for each tool. Everything goes
                 into a new folder inside it, which is removed at the end
  --abbild BIN   without it only the peers run
  --cold         drop the page cache before each run (root); otherwise the sources are read once before
  --json FILE    all figures (default: compare.json in the current folder)

needs: Python 3.9, Linux, and the tools that are compared (restic, rustic, cp, qemu-img).
exit code: 0 done, 1 a tool failed or a restored image is not its source, 2 usage.

How to read it: machines are shared and noisy. Tools take turns inside each round, and every round starts another tool
first; the table holds medians over the rounds. Compare ratios and CPU seconds, not seconds of different runs.
Every restored image is compared with its source; a wrong one ends the run.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import image_diff
import measure

# ---- what to change when a command line changes, or a goal -----------------------------------------------------------

FIRST_IMAGE = "guest-a.raw"
NEXT_IMAGE = "guest-a-nextday.raw"

PASSWORD = "benchmark"  # guards nothing: the repositories die with the run


def abbild_commands(binary):
    """Abbild's command lines; `{…}` is filled in by the run. The key file comes through the environment."""
    return {
        "init": [binary, "init", "--repo", "{repo}", "--key-file", "{key}"],
        "backup": [binary, "backup", "{image}", "--repo", "{repo}", "--no-progress", "-q", "--json"],
        "restore": [
            binary, "restore", "{backup}", "--repo", "{repo}", "--disk", "0", "--to", "{to}", "--format", "raw",
            "--no-progress", "-q",
        ],
        "version": [binary, "version"],
    }  # fmt: skip


# Members of the JSON object of `abbild backup` that name the backup, in order of preference.
ABBILD_BACKUP_NAME = ("backup", "id", "name")


@dataclass(frozen=True)
class Goal:
    """abbild's median must satisfy: peer's wall time ≥ `times` × abbild's (`times` below 1: abbild may be slower)."""

    work: str
    peer: str
    times: float


GOALS = [
    Goal("first", "restic", 4.0),
    Goal("first", "qemu-img", 1.0),
    Goal("next-day", "restic", 8.0),
    Goal("restore", "cp", 1 / 1.5),
]
GOAL_PEAK_MIB = 256

# ---- the work --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    key: str
    title: str
    source: str  # which folder of `Sources` is read


# Each day's image has a path of its own, so no tool can know from a file's times what did not change.
WORKS = [
    Work("first", "first backup, empty repository", "day1"),
    Work("next-day", "the next day, nothing tracked: all is read", "day2"),
    Work("unchanged", "nothing changed, nothing tracked: all is read", "day3"),
    Work("again", "nothing changed, the same path: the tool may trust the file's times", "day3"),
    Work("restore", "restore the next day's backup to a raw file", "day2"),
]


class Failed(Exception):
    """The run cannot go on; the text says why."""


@dataclass
class Run:
    """One measured command."""

    round: int
    work: str
    tool: str
    cost: measure.Cost
    stored_bytes: int  # by the repository after this run; for a restore, by the restored file


def stored_bytes(path):
    """Bytes a file or folder takes: holes count nothing, and neither does the unused rest of a last block."""
    path = Path(path)
    files = [path] if path.is_file() else [Path(top) / name for top, _, names in os.walk(path) for name in names]
    stats = [file.lstat() for file in files]
    return sum(min(stat.st_size, stat.st_blocks * 512) for stat in stats)


def abbild_backup_name(output):
    """The name of the backup in what `abbild backup --json` printed."""
    for line in reversed(output.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        name = next((answer[key] for key in ABBILD_BACKUP_NAME if key in answer), None)
        if name is not None:
            return name
    raise Failed(f"abbild backup --json named no backup ({', '.join(ABBILD_BACKUP_NAME)}); it printed: {output!r}")


# ---- the tools -------------------------------------------------------------------------------------------------------


class Tool:
    """One tool and one repository in a folder of its own.

    A subclass says with which commands; what it needs between backup and restore it keeps itself.
    """

    name: str
    environment: dict

    def __init__(self, binary):
        self.binary = binary

    def version(self):
        answer = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=False)
        return (answer.stdout or answer.stderr).strip().partition("\n")[0]

    def begin(self, home):
        """A new, empty repository below `home`; not measured."""
        self.home = home
        self.repo = home / "repo"
        # Caches and settings of the person who runs this must neither help nor suffer.
        self.environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": str(home),
            "TMPDIR": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "settings"),
            "XDG_DATA_HOME": str(home / "data"),
        }

    def backup_command(self, image):
        raise NotImplementedError

    def backup_done(self, image, output):
        """What the backup printed: a tool that names its backups remembers the name."""

    def restore_command(self, image, folder):
        raise NotImplementedError

    def restored_file(self, image, folder):
        return folder / "restored.raw"

    def _prepare(self, command):
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)


class Abbild(Tool):
    name = "abbild"

    def __init__(self, binary):
        super().__init__(binary)
        self.commands = abbild_commands(binary)

    def _command(self, verb, **values):
        return [part.format(repo=self.repo, key=self.home / "key", **values) for part in self.commands[verb]]

    def version(self):
        answer = subprocess.run(self.commands["version"], capture_output=True, text=True, check=False)
        return answer.stdout.strip().partition("\n")[0]

    def begin(self, home):
        super().begin(home)
        self.backups = {}
        self._prepare(self._command("init"))
        self.environment["ABBILD_KEY_FILE"] = str(home / "key")

    def backup_command(self, image):
        return self._command("backup", image=image)

    def backup_done(self, image, output):
        self.backups[image] = abbild_backup_name(output)

    def restore_command(self, image, folder):
        return self._command("restore", backup=self.backups[image], to=self.restored_file(image, folder))


class Restic(Tool):
    name = "restic"

    def version(self):
        return subprocess.run([self.binary, "version"], capture_output=True, text=True, check=False).stdout.strip()

    def begin(self, home):
        super().begin(home)
        self.backups = {}
        self.environment |= {
            "RESTIC_REPOSITORY": str(self.repo),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(home / "cache"),
        }
        self._prepare([self.binary, "init"])
        usage = subprocess.run([self.binary, "help", "restore"], capture_output=True, text=True, check=True).stdout
        self.sparse = ["--sparse"] if "--sparse" in usage else []  # since 0.15

    def backup_command(self, image):
        return [self.binary, "backup", "--quiet", "--json", str(image)]

    def backup_done(self, image, output):
        self.backups[image] = json.loads(output.strip().splitlines()[-1])["snapshot_id"]

    def restore_command(self, image, folder):
        return [self.binary, "restore", "--quiet", self.backups[image], "--target", str(folder), *self.sparse]

    def restored_file(self, image, folder):
        return folder / image.relative_to("/")  # restic restores whole paths


class Rustic(Tool):
    name = "rustic"

    def begin(self, home):
        super().begin(home)
        self.backups = {}
        self.environment |= {
            "RUSTIC_REPOSITORY": str(self.repo),
            "RUSTIC_PASSWORD": PASSWORD,
            "RUSTIC_CACHE_DIR": str(home / "cache"),
            "RUSTIC_NO_PROGRESS": "true",
            "RUSTIC_LOG_LEVEL": "warn",
        }
        self._prepare([self.binary, "init"])

    def backup_command(self, image):
        return [self.binary, "backup", "--json", str(image)]

    def backup_done(self, image, output):
        self.backups[image] = json.loads(output)["id"]

    def restore_command(self, image, folder):
        source = f"{self.backups[image]}:{image}"
        return [self.binary, "restore", "--sparse", "by-content", source, str(self.restored_file(image, folder))]


class Copy(Tool):
    """No backup tool: the floor that any of them stands on."""

    name = "cp"

    def begin(self, home):
        super().begin(home)
        self.repo.mkdir()
        self.copies = {}

    def backup_command(self, image):
        self.copies[image] = self.repo / f"{len(os.listdir(self.repo))}.raw"
        return [self.binary, "--sparse=always", str(image), str(self.copies[image])]

    def restore_command(self, image, folder):
        return [self.binary, "--sparse=always", str(self.copies[image]), str(self.restored_file(image, folder))]


class QemuImg(Tool):
    """A compressed image a day: no deduplication, no encryption."""

    name = "qemu-img"

    def begin(self, home):
        super().begin(home)
        self.repo.mkdir()
        self.copies = {}

    def backup_command(self, image):
        self.copies[image] = self.repo / f"{len(os.listdir(self.repo))}.qcow2"
        options = ["-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd"]
        return [self.binary, "convert", *options, str(image), str(self.copies[image])]

    def restore_command(self, image, folder):
        target = str(self.restored_file(image, folder))
        return [self.binary, "convert", "-f", "qcow2", "-O", "raw", str(self.copies[image]), target]


PEERS = {tool.name: tool for tool in (Restic, Rustic, Copy, QemuImg)}

# ---- running ---------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """One run of this script: where it works, what it has measured."""

    folder: Path
    images: dict  # day → path
    tools: list
    cold: bool
    runs: list = field(default_factory=list)

    def round(self, number):
        for tool in self.tools:
            home = self.folder / tool.name
            home.mkdir()
            try:
                tool.begin(home)
            except subprocess.CalledProcessError as error:
                raise Failed(f"{tool.name} made no repository: exit code {error.returncode}") from error
        for work in WORKS:
            # Another tool goes first each time: nobody always meets the quiet machine.
            turn = number % len(self.tools)
            for tool in self.tools[turn:] + self.tools[:turn]:
                self.one(number, work, tool)
        for tool in self.tools:
            shutil.rmtree(tool.home)

    def one(self, number, work, tool):
        image = self.images[work.source]
        if work.key == "restore":
            target = tool.home / "restored"
            target.mkdir()
            cost, _ = self.timed(tool, work, tool.restore_command(image, target))
            restored = tool.restored_file(image, target)
            if not restored.is_file():
                raise Failed(f"{tool.name} said it restored, but there is no {restored}")
            difference = image_diff.first_difference(image, restored)
            if difference:
                raise Failed(f"{tool.name} restored something else than {image}: {difference}")
            os.sync()  # blocks are allocated late
            stored = stored_bytes(restored)
            shutil.rmtree(target)
        else:
            cost, output = self.timed(tool, work, tool.backup_command(image))
            tool.backup_done(image, output)
            os.sync()
            stored = stored_bytes(tool.repo)
        self.runs.append(Run(number, work.key, tool.name, cost, stored))
        print(f"  round {number + 1}, {work.key}, {tool.name}: {cost.wall_s:.2f} s", file=sys.stderr, flush=True)

    def timed(self, tool, work, command):
        """Runs a command of `tool`; its cost, and what it printed on stdout."""
        os.sync()  # what others wrote must not be flushed at this one's expense
        if self.cold:
            Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
        out, err = tool.home / "stdout", tool.home / "stderr"
        with open(out, "wb") as out_file, open(err, "wb") as err_file:
            cost = measure.measure(
                command, env=tool.environment, cwd=tool.home, stdin=subprocess.DEVNULL, stdout=out_file, stderr=err_file
            )
        if cost.exit_code != 0:
            tail = err.read_text(errors="replace")[-2000:]
            raise Failed(f"{tool.name}, {work.key}: exit code {cost.exit_code} from {' '.join(command)}\n{tail}")
        return cost, out.read_text(errors="replace")


def place_images(corpus, folder):
    """Every day's image at a path of its own, read once. The third day is a copy, not a link: another inode."""
    images = {}
    for day, name, link in (("day1", FIRST_IMAGE, True), ("day2", NEXT_IMAGE, True), ("day3", NEXT_IMAGE, False)):
        target = folder / day / FIRST_IMAGE
        target.parent.mkdir()
        try:
            if not link:
                raise OSError
            os.link(corpus / name, target)
        except OSError:  # also: the corpus is on another filesystem
            subprocess.run(["cp", "--sparse=always", str(corpus / name), str(target)], check=True)
        images[day] = target
    return images


def read_once(image):
    with open(image, "rb", buffering=0) as file:
        for start, end in image_diff.data_ranges(file.fileno(), os.fstat(file.fileno()).st_size):
            file.seek(start)
            while start < end:
                start += len(file.read(min(image_diff.READ_BYTES, end - start))) or end


# ---- results ---------------------------------------------------------------------------------------------------------


def summarize(runs):
    """Medians for each (work, tool), in the order of the runs."""
    summary = {}
    for run in runs:
        summary.setdefault((run.work, run.tool), []).append(run)
    return {
        key: {
            "wall_s": statistics.median(run.cost.wall_s for run in group),
            "wall_s_min": min(run.cost.wall_s for run in group),
            "wall_s_max": max(run.cost.wall_s for run in group),
            "cpu_s": statistics.median(run.cost.cpu_s for run in group),
            "peak_rss_mib": max(run.cost.peak_rss_mib for run in group),
            "stored_mb": statistics.median(run.stored_bytes for run in group) / 1e6,
        }
        for key, group in summary.items()
    }


def ratio(value, reference):
    return f"{value / reference:.2f}" if reference > 0 else "-"


def table(summary, tools):
    """The report: for each work a line for each tool, ratios against the first tool."""
    heads = ["", "wall s", "min-max", "cpu s", "peak MiB", "stored MB", "+MB", "wall x", "cpu x"]
    lines = []
    before = dict.fromkeys(tools, 0.0)
    for work in WORKS:
        rows = [[work.key + ":", *heads[1:]]]
        reference = summary[work.key, tools[0]]
        for tool in tools:
            figures = summary[work.key, tool]
            added = "" if work.key == "restore" else f"{figures['stored_mb'] - before[tool]:.1f}"
            before[tool] = figures["stored_mb"]
            rows.append(
                [
                    "  " + tool,
                    f"{figures['wall_s']:.2f}",
                    f"{figures['wall_s_min']:.2f}-{figures['wall_s_max']:.2f}",
                    f"{figures['cpu_s']:.2f}",
                    f"{figures['peak_rss_mib']:.0f}",
                    f"{figures['stored_mb']:.1f}",
                    added,
                    ratio(figures["wall_s"], reference["wall_s"]),
                    ratio(figures["cpu_s"], reference["cpu_s"]),
                ]
            )
        lines.append(f"{work.title}")
        lines += ["".join([row[0].ljust(14), *(cell.rjust(13) for cell in row[1:])]) for row in rows]
        lines.append("")
    lines.append(f"x: as many times {tools[0]}'s; medians, peak is the highest; memory below {measure.FLOOR_MIB} MiB is ours")
    return "\n".join(lines)


def judge(summary):
    """Which goals are reached: (text, reached) for each whose two tools took part."""
    verdicts = []
    for goal in GOALS:
        own, peer = summary.get((goal.work, "abbild")), summary.get((goal.work, goal.peer))
        if own and peer:
            found = peer["wall_s"] / own["wall_s"]
            verdicts.append(
                (f"{goal.work}: {found:.2f} x as fast as {goal.peer}, goal {goal.times:.2f}", found >= goal.times)
            )
    peaks = [figures["peak_rss_mib"] for (_, tool), figures in summary.items() if tool == "abbild"]
    if peaks:
        verdicts.append((f"peak memory {max(peaks):.0f} MiB, goal {GOAL_PEAK_MIB}", max(peaks) <= GOAL_PEAK_MIB))
    return verdicts


def processor():
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def report(args, bench, versions):
    summary = summarize(bench.runs)
    verdicts = judge(summary)
    result = {
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "kernel": platform.release()},
        "cold": bench.cold,
        "rounds": args.repeat,
        "versions": versions,
        "sources": {
            day: {"bytes": path.stat().st_size, "stored_bytes": stored_bytes(path)} for day, path in bench.images.items()
        },
        "medians": [{"work": work, "tool": tool, **figures} for (work, tool), figures in summary.items()],
        "goals": [{"goal": text, "reached": reached} for text, reached in verdicts],
        "runs": [asdict(run) for run in bench.runs],
    }
    Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    machine = result["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, rounds: {args.repeat},",
          "cold cache" if bench.cold else "warm cache")  # fmt: skip
    print("; ".join(f"{tool}: {version}" for tool, version in versions.items()))
    print()
    print(table(summary, [tool.name for tool in bench.tools]))
    if verdicts:
        print()
    for text, reached in verdicts:
        print(f"{'reached' if reached else 'MISSED ':7}  {text}")
    print(f"\nall restored images are their sources; figures in {args.json}")


# ---- arguments -------------------------------------------------------------------------------------------------------


def program(name, what):
    path = shutil.which(name)
    if path is None:
        raise Failed(f"{what} is not there: {name}; install it, name its path, or leave it out of --peers")
    return os.path.abspath(path)


def arguments():
    parser = argparse.ArgumentParser(description="Run the same backup work with Abbild and its peers, side by side.")
    parser.add_argument("--corpus", type=Path, required=True, help="folder made by corpus.sh")
    parser.add_argument("--work", type=Path, required=True, help="existing folder to work in")
    parser.add_argument("--abbild", help="the abbild binary; without it only the peers run")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds (default 3)")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--restic", default="restic", metavar="PATH")
    parser.add_argument("--rustic", default="rustic", metavar="PATH")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each run (root)")
    parser.add_argument("--json", default="compare.json", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--keep", action="store_true", help="keep the folder with repositories and restored images")
    args = parser.parse_args()
    args.peers = [peer for peer in args.peers.split(",") if peer]
    unknown = [peer for peer in args.peers if peer not in PEERS]
    if unknown:
        parser.error(f"unknown peer {unknown[0]}; known: {', '.join(PEERS)}")
    if args.repeat < 1:
        parser.error("--repeat must be at least 1")
    if not args.peers and not args.abbild:
        parser.error("nothing to run: no --abbild and no --peers")
    if args.cold and os.geteuid() != 0:
        parser.error("--cold needs root")
    for image in (FIRST_IMAGE, NEXT_IMAGE):
        if not (args.corpus / image).is_file():
            parser.error(f"no {image} in {args.corpus}; make it with corpus.sh")
    if not args.work.is_dir():
        parser.error(f"--work {args.work} is not a folder")
    return args


def main():
    args = arguments()
    folder = Path(tempfile.mkdtemp(prefix="compare-", dir=args.work.resolve()))
    try:
        tools = [Abbild(program(args.abbild, "abbild"))] if args.abbild else []
        for peer in args.peers:
            tools.append(PEERS[peer](program(getattr(args, peer, peer), peer)))
        versions = {tool.name: tool.version() for tool in tools}
        bench = Bench(folder, place_images(args.corpus, folder), tools, args.cold)
        for number in range(args.repeat):
            if not args.cold:
                for image in bench.images.values():
                    read_once(image)
            bench.round(number)
        report(args, bench, versions)
    except Failed as failure:
        print(f"compare.py: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if args.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
