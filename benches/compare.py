#!/usr/bin/env python3
"""Runs the same backup work with Abbild and with its peers, side by side, and says who needed what.

usage: compare.py --corpus DIR --work DIR [--abbild BIN] [--repeat N] [--peers NAME,…] [--once NAME,…] [--cold]
                  [--mounts] [--rustic PATH] [--restic PATH] [--json FILE] [--keep]

  --corpus DIR   images made by corpus.sh; guest-b.raw and guest-c.raw (--full) take part if they are there
  --work DIR     an existing folder for repositories and restored images; about 12 GB free for each tool. Everything goes
                 into a new folder inside it, which is removed at the end
  --abbild BIN   without it only the peers run
  --once NAME,…  peers that take part in the first round only: the slow ones
  --cold         drop the page cache before each run (root); otherwise each run finds the data of its source in there, and
                 nothing of its holes
  --mounts       then also reads the first image through mounts, as mounts.py does (root)
  --json FILE    all figures (default: compare.json in the current folder)

needs: Python 3.9, Linux, and the tools that are compared (restic, rustic, borg, casync, cp, qemu-img).
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
import mounts
from tools import PEERS, Abbild, Failed

# ---- what is done, and what is wanted --------------------------------------------------------------------------------

FIRST_IMAGE = "guest-a.raw"
NEXT_IMAGE = "guest-a-nextday.raw"


@dataclass(frozen=True)
class Work:
    """What every tool does in its turn."""

    key: str
    title: str
    verb: str  # backup, restore, check or prune
    machine: str = "a"  # each has one image, at a path that stays
    image: str = ""  # of the corpus: put there before; empty: what is there stays
    copied: bool = False  # as a copy, not as a link: another file with other times
    day: str = ""  # of the backup that is restored or given up


WORKS = [
    Work("first", "first backup, empty repository", "backup", image=FIRST_IMAGE),
    Work("next-day", "the next day, nothing tracked: all is read", "backup", image=NEXT_IMAGE),
    Work("unchanged", "nothing changed, nothing tracked: all is read", "backup", image=NEXT_IMAGE, copied=True),
    Work("again", "nothing changed, the same file: the tool may trust its times", "backup"),
    Work("guest-b", "a second machine, which has most packages of the first", "backup", "b", "guest-b.raw"),
    Work("guest-c", "a third one, the same but on xfs", "backup", "c", "guest-c.raw"),
    Work("restore", "restore the next day's backup to a raw file", "restore", day="next-day"),
    Work("check", "check, all data read and verified", "check"),
    Work("prune", "give up the first backup, with all space that nothing else needs", "prune", day="first"),
]


@dataclass(frozen=True)
class Goal:
    """abbild's median must satisfy: peer's figure ≥ `times` × abbild's (`times` below 1: abbild's may be larger)."""

    work: str
    peer: str
    times: float
    figure: str = "wall_s"


GOALS = [
    Goal("first", "restic", 4.0),
    Goal("first", "qemu-img", 1.0),
    Goal("next-day", "restic", 8.0),
    Goal("restore", "cp", 1 / 1.5),
    Goal("check", "restic", 3.0),
    Goal("guest-c", "restic", 1 / 0.66, "stored_mb"),
    Goal("guest-c", "rustic", 1 / 0.66, "stored_mb"),
    Goal("guest-c", "borg-zstd", 1.0, "stored_mb"),
    Goal("guest-c", "casync", 1.0, "stored_mb"),
]
GOAL_PEAK_MIB = 256


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


# ---- running ---------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """One run of this script: where it works, what it has measured."""

    folder: Path
    corpus: Path
    works: list
    tools: list
    once: list  # tools that take part in the first round only
    cold: bool
    runs: list = field(default_factory=list)

    def round(self, number):
        tools = [tool for tool in self.tools if number == 0 or tool.name not in self.once]
        for tool in tools:
            home = self.folder / tool.name
            home.mkdir()
            try:
                tool.begin(home)
            except subprocess.CalledProcessError as error:
                raise Failed(f"{tool.name} made no repository: exit code {error.returncode}") from error
        for work in self.works:
            self.place(work)
            # Another tool goes first each time: nobody always meets the quiet machine.
            turn = number % len(tools)
            for tool in tools[turn:] + tools[:turn]:
                self.one(number, work, tool)
        for tool in tools:
            shutil.rmtree(tool.home)

    def image_of(self, machine):
        return self.folder / "machines" / machine / "disk.raw"

    def place(self, work):
        """Puts the image of a work where the machine has its disk."""
        image = self.image_of(work.machine)
        if work.image:
            image.parent.mkdir(parents=True, exist_ok=True)
            fresh = image.with_suffix(".new")
            fresh.unlink(missing_ok=True)  # renaming a link over another link of the same file leaves both
            try:
                if work.copied:
                    raise OSError
                os.link(self.corpus / work.image, fresh)
            except OSError:  # also: the corpus is on another filesystem
                subprocess.run(["cp", "--sparse=always", str(self.corpus / work.image), str(fresh)], check=True)
            fresh.rename(image)

    def one(self, number, work, tool):
        image = self.image_of(work.machine)
        if work.verb == "restore":
            stored, cost = self.restored(tool, work, image)
        else:
            command = {
                "backup": lambda: tool.backup_command(work.key, image),
                "check": tool.check_command,
                "prune": lambda: tool.prune_command(work.day),
            }[work.verb]()
            if command is None:
                return
            if work.verb == "backup" and not self.cold:
                cache_data_alone(image)
            cost, output = self.timed(tool, work, command)
            if work.verb == "backup":
                tool.backup_done(work.key, output)
            os.sync()
            stored = stored_bytes(tool.repo)
        self.runs.append(Run(number, work.key, tool.name, cost, stored))
        print(f"  round {number + 1}, {work.key}, {tool.name}: {cost.wall_s:.2f} s", file=sys.stderr, flush=True)

    def restored(self, tool, work, image):
        target = tool.home / "restored"
        target.mkdir()
        cost, _ = self.timed(tool, work, tool.restore_command(work.day, image, target))
        restored = tool.restored_file(image, target)
        if not restored.is_file():
            raise Failed(f"{tool.name} said it restored, but there is no {restored}")
        original = self.corpus / next(other.image for other in self.works if other.key == work.day)
        difference = image_diff.first_difference(original, restored)
        if difference:
            raise Failed(f"{tool.name} restored something else than {original}: {difference}")
        os.sync()  # blocks are allocated late
        stored = stored_bytes(restored)
        shutil.rmtree(target)
        return stored, cost

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


def cache_data_alone(image):
    """Has the data of a file in the page cache, and no page of its holes.

    Who reads holes fills the cache with zeros, which takes as long again as what else it does; who comes next would find
    them there or not, as memory allows.
    """
    with open(image, "rb", buffering=0) as file:
        for advice in (os.POSIX_FADV_DONTNEED, os.POSIX_FADV_RANDOM):  # and nothing is read ahead, into a hole
            os.posix_fadvise(file.fileno(), 0, 0, advice)
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


def table(summary, works, tools):
    """The report: for each work a line for each tool that did it, ratios against the first tool."""
    heads = ["wall s", "min-max", "cpu s", "peak MiB", "stored MB", "+MB", "wall x", "cpu x", "stored x"]
    lines = []
    before = dict.fromkeys(tools, 0.0)
    for work in works:
        rows = [[work.key + ":", *heads]]
        reference = summary.get((work.key, tools[0]))
        for tool in tools:
            figures = summary.get((work.key, tool))
            if figures is None:
                continue
            added = ""
            if work.verb != "restore":
                added = f"{figures['stored_mb'] - before[tool]:.1f}"
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
                    *(ratio(figures[name], reference[name]) if reference else "-" for name in ("wall_s", "cpu_s", "stored_mb")),
                ]
            )
        lines.append(f"{work.title}")
        lines += ["".join([row[0].ljust(12), *(cell.rjust(12) for cell in row[1:])]) for row in rows]
        lines.append("")
    lines.append(f"x: as many times {tools[0]}'s; medians, peak is the highest; memory below {measure.FLOOR_MIB} MiB is ours")
    return "\n".join(lines)


def judge(summary):
    """Which goals are reached: (text, reached) for each whose two tools took part."""
    verdicts = []
    for goal in GOALS:
        own, peer = summary.get((goal.work, "abbild")), summary.get((goal.work, goal.peer))
        if own and peer:
            found = peer[goal.figure] / own[goal.figure]
            if goal.figure == "wall_s":
                text = f"{goal.work}: {found:.2f} x as fast as {goal.peer}, goal {goal.times:.2f}"
            else:
                text = f"stored after {goal.work}: {1 / found:.3f} of {goal.peer}'s, goal {1 / goal.times:.2f}"
            verdicts.append((text, found >= goal.times))
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
            work.image: {"bytes": (bench.corpus / work.image).stat().st_size, "stored_bytes": stored_bytes(bench.corpus / work.image)}
            for work in bench.works
            if work.image
        },
        "medians": [{"work": work, "tool": tool, **figures} for (work, tool), figures in summary.items()],
        "goals": [{"goal": text, "reached": reached} for text, reached in verdicts],
        "runs": [asdict(run) for run in bench.runs],
    }
    write(args.json, result)
    machine = result["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, rounds: {args.repeat},",
          "cold cache" if bench.cold else "warm cache")  # fmt: skip
    print("; ".join(f"{tool}: {version}" for tool, version in versions.items()))
    print()
    print(table(summary, bench.works, [tool.name for tool in bench.tools]))
    if verdicts:
        print()
    for text, reached in verdicts:
        print(f"{'reached' if reached else 'MISSED ':7}  {text}")
    print(f"\nall restored images are their sources; figures in {args.json}")
    return result


def write(path, result):
    Path(path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


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
    parser.add_argument("--once", default="borg,borg-zstd,casync", help="take part in one round only (default: %(default)s)")
    parser.add_argument("--restic", default="restic", metavar="PATH")
    parser.add_argument("--rustic", default="rustic", metavar="PATH")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each run (root)")
    parser.add_argument("--mounts", action="store_true", help="also read the first image through mounts (root)")
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
    if (args.cold or args.mounts) and os.geteuid() != 0:
        parser.error("--cold and --mounts need root")
    if args.mounts and not args.abbild:
        parser.error("--mounts needs --abbild")
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
            tool = PEERS[peer]
            tools.append(tool(program(getattr(args, peer, tool.program), peer)))
        versions = {tool.name: tool.version() for tool in tools}
        works = [work for work in WORKS if not work.image or (args.corpus / work.image).is_file()]
        bench = Bench(folder, args.corpus, works, tools, args.once.split(","), args.cold)
        for number in range(args.repeat):
            bench.round(number)
        result = report(args, bench, versions)
        if args.mounts:
            image = args.corpus / FIRST_IMAGE
            result["mounts"] = mounts.compare(image, folder, args.abbild, args.restic, args.repeat)
            write(args.json, result)
            print(f"\n{FIRST_IMAGE} through a mount, cold cache\n\n{mounts.table(result['mounts'])}")
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
