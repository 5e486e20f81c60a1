#!/usr/bin/env python3
"""Runs one command and says what it cost: wall time, CPU time, peak memory.

usage: measure.py [--json FILE] COMMAND [ARGUMENT…]
  --json FILE   write the figures there as one JSON object; without it they go to stderr as one line

needs: Python 3.9, Linux.
exit code: the command's own.

The figures are the kernel's, for the command and every child it waited for (wait4). Peak memory is the largest resident
set of one process among them. A child starts as a copy of this script, so no figure below `FLOOR_MIB` means anything.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

FLOOR_MIB = 24


@dataclass
class Cost:
    """What one run of a command cost."""

    exit_code: int  # as a shell would say it: 128 + N if signal N ended the command
    wall_s: float
    user_s: float
    sys_s: float
    peak_rss_mib: float

    @property
    def cpu_s(self):
        return self.user_s + self.sys_s


def measure(command, **popen_options):
    """Runs `command` to its end; the options are those of `subprocess.Popen`."""
    begin = time.monotonic()
    child = subprocess.Popen(command, **popen_options)
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except BaseException:  # also Ctrl-C: leave no child behind
        child.kill()
        child.wait()
        raise
    wall = time.monotonic() - begin
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code  # it is gone: Popen must not wait for it again
    return Cost(
        exit_code=code if code >= 0 else 128 - code,
        wall_s=wall,
        user_s=usage.ru_utime,
        sys_s=usage.ru_stime,
        peak_rss_mib=usage.ru_maxrss / 1024,  # Linux counts KiB
    )


def main():
    parser = argparse.ArgumentParser(description="Run one command and say what it cost.")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("a command is needed")
    try:
        cost = measure(args.command)
    except OSError as error:
        print(f"measure.py: cannot run {args.command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(asdict(cost), out)
    else:
        print(
            f"wall {cost.wall_s:.2f} s, cpu {cost.cpu_s:.2f} s, peak memory {cost.peak_rss_mib:.0f} MiB",
            file=sys.stderr,
        )
    return cost.exit_code


if __name__ == "__main__":
    sys.exit(main())
