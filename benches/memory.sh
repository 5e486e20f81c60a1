#!/usr/bin/env bash
# Does memory stay bounded on a large disk? Backs up and restores a 100 GiB raw disk that holds 2 GiB of data, spread
# over all of it, and prints peak memory and wall time of both.
#
# usage: memory.sh ABBILD DIR
#   ABBILD   the binary
#   DIR      a folder with 8 GB free; large-disk.raw (2 GB) is made there once and kept, all else is removed
#
# needs: python3 (3.9), a filesystem with holes (ext4, xfs, btrfs, tmpfs). Not root.
# environment: PEAK_MIB_MAX, the limit for either (default 256).
# exit code: 0 the restored disk is the same and both stayed below the limit, 1 otherwise.
set -euo pipefail

readonly PEAK_MIB_MAX=${PEAK_MIB_MAX:-256}

if (($# != 2)); then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi

fail() {
    printf 'memory.sh: %s\n' "$*" >&2
    exit 1
}

benches=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v python3 >/dev/null || fail "python3 is missing; install it with: apt-get install python3"
abbild=$(command -v "$1") || fail "no such program: $1"
abbild=$(realpath "$abbild")
mkdir -p "$2"
dir=$(cd "$2" && pwd)
disk=$dir/large-disk.raw
work=$(mktemp -d "$dir/memory-XXXXXX")
trap 'rm -rf "$work" "$disk.partial"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- the disk -------------------------------------------------------------------------------------------------------

if [[ ! -e $disk ]]; then
    printf 'making %s\n' "$disk"
    python3 - "$disk.partial" <<'PYTHON'
import os, random, sys

DISK_BYTES = 100 << 30
DATA_BYTES = 2 << 30
PIECES = 1024
GRID = 4096

rng = random.Random("memory")
# Pieces of 64 KiB to 4 MiB, scaled so that they sum up to DATA_BYTES; one in each PIECES-th part of the disk, anywhere
# in it: hardly one begins at a segment, and no large part of the disk is empty.
weights = [rng.uniform(1, 64) for _ in range(PIECES)]
lengths = [int(DATA_BYTES * weight / sum(weights)) // GRID * GRID for weight in weights]
part = DISK_BYTES // PIECES
fd = os.open(sys.argv[1], os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
os.ftruncate(fd, DISK_BYTES)
for number, length in enumerate(lengths):
    # By turns incompressible, compressible to one half, and repeated, as a copied file is.
    if number % 4 == 3:
        content = rng.randbytes(length // 8 + 1) * 8
    elif number % 2:
        content = rng.randbytes(length // 2).hex().encode()
    else:
        content = rng.randbytes(length)
    at = number * part + rng.randrange((part - length) // GRID + 1) * GRID
    os.pwrite(fd, content[:length], at)
os.fsync(fd)
os.close(fd)
PYTHON
    mv "$disk.partial" "$disk"
fi

# ---- backup and restore ---------------------------------------------------------------------------------------------

# measured NAME COMMAND…: runs the command; its figures go to NAME.json, its output to NAME.out and NAME.err.
measured() {
    local name=$1
    shift
    python3 "$benches/measure.py" --json "$work/$name.json" "$@" >"$work/$name.out" 2>"$work/$name.err" ||
        fail "$name failed with exit code $?: $(cat "$work/$name.err")"
}

export PYTHONDONTWRITEBYTECODE=1
export ABBILD_KEY_FILE=$work/key
export XDG_CACHE_HOME=$work/cache XDG_CONFIG_HOME=$work/settings XDG_DATA_HOME=$work/data
repo=$work/repo
"$abbild" init --repo "$repo" --key-file "$ABBILD_KEY_FILE" >/dev/null
measured backup "$abbild" backup "$disk" --repo "$repo" --no-progress -q --json
backup=$(
    python3 -c 'import sys; sys.path.insert(0, sys.argv[1]); import tools; print(tools.abbild_backup_name(sys.stdin.read()))' \
        "$benches" <"$work/backup.out"
)
measured restore "$abbild" restore "$backup" --repo "$repo" --disk 0 --to "$work/restored.raw" --format raw \
    --no-progress -q

# ---- the verdict ----------------------------------------------------------------------------------------------------

python3 "$benches/image_diff.py" "$disk" "$work/restored.raw" || fail "the restored disk is not the disk"
python3 - "$work" "$PEAK_MIB_MAX" <<'PYTHON'
import json, sys

work, limit = sys.argv[1], float(sys.argv[2])
too_much = False
print("100 GiB disk, 2 GiB of data; the restored disk is the same")
print(f"{'':8}{'wall s':>10}{'cpu s':>10}{'peak MiB':>10}")
for name in ("backup", "restore"):
    with open(f"{work}/{name}.json", encoding="utf-8") as file:
        cost = json.load(file)
    print(f"{name:8}{cost['wall_s']:10.2f}{cost['user_s'] + cost['sys_s']:10.2f}{cost['peak_rss_mib']:10.0f}")
    too_much |= cost["peak_rss_mib"] > limit
if too_much:
    sys.exit(f"memory.sh: more than {limit:.0f} MiB")
PYTHON
