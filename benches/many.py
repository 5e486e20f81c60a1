#!/usr/bin/env python3
"""Very many backups in one repository: makes such a repository with the tool itself, then says what each command costs.

usage: many.py make TOOL --work DIR --binary BIN [--machines N] [--runs N]
       many.py measure TOOL --work DIR --binary BIN [--json FILE]

  TOOL           abbild or restic
  --work DIR     an existing folder. `make` puts DIR/TOOL there, with the repository and the machines; some 300 MB for
                 10,000 backups. `measure` works on copies of it, which it removes again
  --binary BIN   the tool
  --machines N   machines (default 50)
  --runs N       backups of each (default 200); `make` goes on where it was interrupted
  --json FILE    all figures (default: many-TOOL.json in the current folder)

needs: Linux, Python 3.9, FUSE.
exit code: 0 done, 1 a tool failed, 2 usage.

A machine is a raw disk of 1 MiB, a quarter of it full. Before each run 4 KiB of every disk are written anew, the same for
every tool. Abbild backs up all machines in one process a run, as its users do; restic takes a snapshot a machine, without
looking for a parent (--force), and merges its index files every 20 runs, as its own prune would: both save it time.

`forget` and `prune` give up the oldest 20 backups of each machine.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from measure import Cost, measure
from tools import PASSWORD, Failed

DISK_BYTES = 1 << 20
FULL_BYTES = 256 << 10
BLOCK = 4096
FORGOTTEN = 20
MOUNTED_WITHIN_S = 600


def noise(length, *seed):
    return hashlib.shake_256(repr(seed).encode()).digest(length)


class Machines:
    """The disks, as they are after run `run`."""

    def __init__(self, folder, count):
        self.folder = folder
        self.names = [f"m{number:02}" for number in range(1, count + 1)]

    def disk(self, name):
        return self.folder / name / "disk.img"

    def make(self):
        for name in self.names:
            self.disk(name).parent.mkdir(parents=True, exist_ok=True)
            with open(self.disk(name), "wb") as file:
                file.write(noise(FULL_BYTES, name))
                file.truncate(DISK_BYTES)

    def change(self, run):
        for number, name in enumerate(self.names):
            with open(self.disk(name), "r+b") as file:
                file.seek((run * 7 + number) % (FULL_BYTES // BLOCK) * BLOCK)
                file.write(noise(BLOCK, name, run))


class Abbild:
    name = "abbild"

    def __init__(self, binary, home):
        self.binary, self.home, self.mountpoint = binary, home, home / "mnt"
        self.environment = dict(
            os.environ, ABBILD_REPOSITORY=str(home / "repository"), ABBILD_KEY_FILE=str(home / "key"),
            XDG_CACHE_HOME=str(home / "cache"), XDG_STATE_HOME=str(home / "state"),
        )  # fmt: skip

    def init(self):
        self.call("init", "-q")

    def call(self, *arguments):
        cost = self.cost(*arguments)
        if cost.exit_code not in (0, 3):
            raise Failed(f"abbild {' '.join(map(str, arguments))}: exit {cost.exit_code}")

    def cost(self, *arguments):
        command = [self.binary, *map(str, arguments)]
        return measure(command, env=self.environment, stdout=subprocess.DEVNULL)

    def back_up(self, machines, run):
        self.call("backup", machines.folder, "-q")

    def count(self):
        return sum(1 for _ in (self.home / "repository" / "manifests").iterdir())

    def without_cache(self):
        shutil.rmtree(self.home / "cache")

    def works(self, machines, keep):
        one = machines.disk(machines.names[0]).parent
        yield "list, cache deleted", self.without_cache, lambda: self.cost("list")
        yield "list", None, lambda: self.cost("list")
        yield "stats", None, lambda: self.cost("stats")
        yield "mount to first ls", None, self.mount
        yield "one more backup", None, lambda: self.cost("backup", one)
        yield "backup of all machines", None, lambda: self.cost("backup", machines.folder)
        yield "check", None, lambda: self.cost("check")
        yield "forget --dry-run", None, lambda: self.cost("forget", "--keep-last", keep, "--dry-run")
        yield "forget", None, lambda: self.cost("forget", "--keep-last", keep)
        yield "prune", None, lambda: self.cost("prune")

    def mount(self):
        self.mountpoint.mkdir(exist_ok=True)
        return until_listed([self.binary, "mount", "--foreground", self.mountpoint], self.mountpoint, self.environment)


class Restic:
    name = "restic"

    def __init__(self, binary, home):
        self.binary, self.home, self.mountpoint = binary, home, home / "mnt"
        self.environment = dict(
            os.environ, RESTIC_REPOSITORY=str(home / "repository"), RESTIC_PASSWORD=PASSWORD,
            RESTIC_CACHE_DIR=str(home / "cache"),
        )  # fmt: skip

    def init(self):
        self.call("init", "-q")

    def call(self, *arguments):
        cost = self.cost(*arguments)
        if cost.exit_code != 0:
            raise Failed(f"restic {' '.join(map(str, arguments))}: exit {cost.exit_code}")

    def cost(self, *arguments):
        command = [self.binary, *map(str, arguments)]
        return measure(command, env=self.environment, stdout=subprocess.DEVNULL)

    def back_up(self, machines, run):
        for name in machines.names:
            self.call("backup", "-q", "--force", "--host", name, machines.disk(name))
        if run % 20 == 0:
            self.call("rebuild-index", "-q")

    def count(self):
        return sum(1 for _ in (self.home / "repository" / "snapshots").iterdir())

    def without_cache(self):
        self.call("unlock", "-q")  # a run of `make` that was interrupted leaves its lock
        shutil.rmtree(self.home / "cache")

    def works(self, machines, keep):
        name = machines.names[0]

        def back_up_all():
            costs = [self.cost("backup", "-q", "--host", name, machines.disk(name)) for name in machines.names]
            total = [sum(getattr(cost, field) for cost in costs) for field in ("wall_s", "user_s", "sys_s")]
            return Cost(max(cost.exit_code for cost in costs), *total, max(cost.peak_rss_mib for cost in costs))

        yield "list, cache deleted", self.without_cache, lambda: self.cost("snapshots")
        yield "list", None, lambda: self.cost("snapshots")
        yield "stats", None, lambda: self.cost("stats", "--mode", "raw-data")
        yield "mount to first ls", None, self.mount
        yield "one more backup", None, lambda: self.cost("backup", "--host", name, machines.disk(name))
        yield "backup of all machines", None, back_up_all
        # A mount that was ended leaves its lock.
        unlock = lambda: self.call("unlock", "-q", "--remove-all")
        yield "check", unlock, lambda: self.cost("check")
        yield "forget --dry-run", None, lambda: self.cost("forget", "--keep-last", keep, "--dry-run")
        yield "forget", None, lambda: self.cost("forget", "--keep-last", keep)
        yield "prune", None, lambda: self.cost("prune")

    def mount(self):
        self.mountpoint.mkdir(exist_ok=True)
        return until_listed([self.binary, "mount", self.mountpoint], self.mountpoint / "hosts", self.environment)


TOOLS = {"abbild": Abbild, "restic": Restic}


def until_listed(command, folder, environment):
    """Starts a mount, lists `folder` as soon as it is there, and the first folder in it; the cost is the server's."""
    begin = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], env=environment, stdout=subprocess.DEVNULL)
    try:
        while time.monotonic() - begin < MOUNTED_WITHIN_S:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            if names:
                break
            if process.poll() is not None:
                raise Failed(f"{command[0]} mount ended with {process.returncode}")
            time.sleep(0.02)
        else:
            raise Failed(f"{command[0]} mount shows nothing")
        os.listdir(folder / names[0])
        wall = time.monotonic() - begin
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak_kib = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = (int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[11:13])
        return Cost(0, wall, user, system, peak_kib / 1024)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def make(tool, machines, runs, marker):
    """Makes the repository, or goes on with it; `marker` says how many runs are done."""
    done = int(marker.read_text()) if marker.exists() else None
    if done is None:
        machines.make()
        tool.init()
        done = 0
    begin = time.monotonic()
    for run in range(done + 1, runs + 1):
        machines.change(run)
        tool.back_up(machines, run)
        marker.write_text(str(run))
        print(f"run {run} of {runs}, {time.monotonic() - begin:.0f} s", file=sys.stderr)


def copied(home, copy):
    """A copy of what a tool has on disk. Objects are written once, so the repository's files are linked."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for part in home.iterdir():
        if part.name == "repository":
            shutil.copytree(part, copy / part.name, copy_function=os.link)
        elif part.is_dir():
            shutil.copytree(part, copy / part.name)
        else:
            shutil.copy2(part, copy / part.name)


def measure_all(tool, machines, runs):
    figures = {"backups": tool.count()}
    for what, before, work in tool.works(machines, runs - FORGOTTEN):
        if before:
            before()
        cost = work()
        if cost.exit_code not in (0, 3):
            raise Failed(f"{tool.name}, {what}: exit {cost.exit_code}")
        figures[what] = {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "peak_mib": cost.peak_rss_mib}
        print(f"{what:24}{cost.wall_s:9.2f} s{cost.cpu_s:9.2f} s CPU{cost.peak_rss_mib:7.0f} MiB", file=sys.stderr)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "measure"])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--machines", type=int, default=50)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    home = arguments.work.resolve() / arguments.tool
    binary = shutil.which(arguments.binary) or sys.exit(f"many.py: there is no {arguments.binary}")
    binary = str(Path(binary).resolve())
    try:
        if arguments.what == "make":
            home.mkdir(exist_ok=True)
            machines = Machines(home / "machines", arguments.machines)
            make(TOOLS[arguments.tool](binary, home), machines, arguments.runs, home / "runs")
            return
        copy = home.with_name(f"{arguments.tool}-measured")
        copied(home, copy)
        try:
            machines = Machines(copy / "machines", len(list((copy / "machines").iterdir())))
            runs = int((copy / "runs").read_text())
            machines.change(runs + 1)
            figures = measure_all(TOOLS[arguments.tool](binary, copy), machines, runs)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        Path(arguments.json or f"many-{arguments.tool}.json").write_text(json.dumps(figures, indent=1))
    except Failed as failure:
        sys.exit(f"many.py: {failure}")


if __name__ == "__main__":
    main()
