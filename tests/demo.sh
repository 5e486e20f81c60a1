#!/usr/bin/env bash
# Shows Abbild at work: backs up a small VMware guest at three points of its life, and proves that each comes back.
#
# usage: tests/demo.sh
#
# needs: Rust, a C compiler, tar, gzip, sha256sum. Not root. Everything happens below target/demo, which is made anew:
# your own repositories, keys and settings are not touched.
# environment: CARGO_TARGET_DIR, where everything is built (default: target).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
demo=$target/demo

fail() {
    printf 'tests/demo.sh: %s\n' "$*" >&2
    exit 1
}
for command in cargo cc tar gzip sha256sum; do
    command -v "$command" >/dev/null || fail "$command is missing"
done
for fixture in fixtures/guest.tar.gz fixtures/guest/expected.sha256; do
    [[ -e $fixture ]] || fail "$fixture is missing: is this a whole checkout?"
done

printf '==> building abbild\n'
cargo build --release --locked
export PATH=$target/release:$PATH

rm -rf "$demo"
mkdir -p "$demo/guest" "$demo/restored"
# Nothing of the person who runs this may take part: neither folders nor a repository or key from the environment.
for name in "${!ABBILD_@}"; do unset "$name"; done
export XDG_DATA_HOME=$demo/data XDG_CONFIG_HOME=$demo/config XDG_CACHE_HOME=$demo/cache XDG_STATE_HOME=$demo/state
# However full the disk of this machine is.
export ABBILD_WARN_FREE=0
tar -xzf fixtures/guest.tar.gz -C "$demo/guest"
vmx=$(find "$demo/guest" -name web1.vmx)
[[ -n $vmx ]] || fail "no web1.vmx in fixtures/guest.tar.gz"
cd "$(dirname "$vmx")/.."

# show COMMAND…: prints the command as one would type it, then runs it. Its results go to stdout and into `answer`.
show() {
    local words
    printf -v words ' %q' "$@"
    printf '\n$%s\n' "$words"
    answer=$("$@")
    [[ -z $answer ]] || printf '%s\n' "$answer"
}

# backup_id: the backup's id from the JSON object in `answer`.
backup_id() {
    local id
    id=$(sed -n 's/.*"backup" *: *"\([^"]*\)".*/\1/p' <<<"$answer")
    [[ -n $id ]] || fail "the answer names no backup: $answer"
    printf '%s' "$id"
}

# ---- three levels of one machine's snapshot chain --------------------------------------------------------------------

show abbild backup web1 --snapshot "before upgrade" --json
base=$(backup_id)
show abbild backup web1 --snapshot "after upgrade" --json
level1=$(backup_id)
show abbild backup web1 --json
current=$(backup_id)

show abbild list

# ---- and back -------------------------------------------------------------------------------------------------------

show abbild restore "$base" --disk 0 --to "$demo/restored/base.raw" --format raw
show abbild restore "$level1" --disk 0 --to "$demo/restored/level1.raw" --format raw
show abbild restore "$current" --disk 0 --to "$demo/restored/current.raw" --format raw

printf '\n==> comparing with what the guest held\n'
cd "$demo/restored"
sha256sum --check --strict "$root/fixtures/guest/expected.sha256" || fail "a restored disk is not what was backed up"
# A list that lost a line must not pass for a proof.
for level in base level1 current; do
    grep -q "[ *]$level\.raw\$" "$root/fixtures/guest/expected.sha256" || fail "expected.sha256 has no $level.raw"
done

printf '\nOK: three levels backed up, restored, and equal byte for byte. Look around in %s\n' "$demo"
