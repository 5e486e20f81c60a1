#!/usr/bin/env bash
# Fuzzes every target for a while and prints what came of it.
#
# usage: fuzz/run.sh [--keep] [SECONDS [TARGET…]]
#
#   SECONDS   of CPU time for each target (default 60); given up after four times as many by the clock
#   TARGET    names from the table in fuzz/src/targets/mod.rs (default: all)
#   --keep    afterwards puts the smallest inputs that reach all that was reached into fuzz/corpus
#
# needs: a nightly compiler and cargo-fuzz (cargo install cargo-fuzz).
# environment:
#   ABBILD_FUZZ_SANITIZER   none (default: quick, the code has no unsafe) or address (for that of its dependencies)
#   CARGO_TARGET_DIR        where it is built (default fuzz/target)
#
# An input that breaks a promise is put into fuzz/artifacts/TARGET, and the target goes on. Exit code 1 if there is one.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
keep=false
if [[ ${1:-} == --keep ]]; then
    keep=true
    shift
fi
seconds=${1:-60}
targets=("${@:2}")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(sed -n 's/^    ("\([a-z0-9_]*\)", |input| .*/\1/p' src/targets/mod.rs)
fi
# Finds of one target in one run; more of them are seldom other ones.
finds_max=8
# Longest input that is kept, in bytes.
kept_bytes_max=6000

build=${CARGO_TARGET_DIR:-target}
cargo +nightly fuzz build --fuzz-dir . -s "${ABBILD_FUZZ_SANITIZER:-none}" --target-dir "$build" targets
host=$(rustc +nightly --version --verbose | sed -n 's/^host: //p')
fuzzer=$(realpath "$build/$host/release/targets")

# The files of a case live in memory where the system has a place for that.
memory=$(if [[ -w /dev/shm ]]; then echo /dev/shm; else echo "${TMPDIR:-/tmp}"; fi)
TMPDIR=$(mktemp -d "$memory/abbild-fuzz.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# fuzz TARGET OPTION… FOLDER…: the fuzzer with the limits of every case.
fuzz() {
    ABBILD_FUZZ_TARGET=$1 "$fuzzer" -timeout=10 -rss_limit_mb=1024 -max_len=131072 -artifact_prefix="artifacts/$1/" \
        "${@:2}"
}

# number NAME LOG…: the sum of a statistic over several logs.
number() {
    sed -n "s/^stat::$1: *\([0-9]*\)$/\1/p" "${@:2}" | awk '{ sum += $1 } END { print sum + 0 }'
}

TIMEFORMAT='%R %U %S'
total=0 found=0
row='%-20s %12s %8s %8s %8s %8s %6s %8s %6s\n'
table=$(mktemp)
# shellcheck disable=SC2059
printf "$row" target executions exec/s wall/s cpu/s edges new 'RSS/MiB' finds >"$table"
for target in "${targets[@]}"; do
    mkdir -p "work/$target" "artifacts/$target" "corpus/$target"
    logs=() finds=0
    options=(-print_final_stats=1)
    [[ -f dictionaries/$target.dict ]] && options+=("-dict=dictionaries/$target.dict")
    begun=$SECONDS used=0
    while left=$((seconds - used)) && ((left > 0 && SECONDS - begun < 4 * seconds && finds < finds_max)); do
        log=$(mktemp) passed=true
        logs+=("$log")
        { time fuzz "$target" "${options[@]}" -max_total_time="$left" "work/$target" "corpus/$target" \
            >"$log" 2>&1 || passed=false; } 2>"$log.times"
        # On a busy machine the clock runs on without us: what counts is work.
        used=$(cat "${logs[@]/%/.times}" | awk '{ used += $2 + $3 } END { printf "%.0f\n", used }')
        $passed && continue
        finds=$((finds + 1))
        printf '%s: a find:\n' "$target"
        grep -aE "panicked at|^memory allocation|ERROR: libFuzzer: [^d]|Test unit written" -A 1 "$log" | cut -c -300 | head -n 6
    done
    executions=$(number number_of_executed_units "${logs[@]}")
    rss=$(sed -n 's/^stat::peak_rss_mb: *\([0-9]*\)$/\1/p' "${logs[@]}" | sort -n | tail -n 1)
    edges=$(sed -n 's/^#.* cov: \([0-9]*\) .*/\1/p' "${logs[@]}" | tail -n 1)
    first=$(sed -n 's/^#.*INITED cov: \([0-9]*\) .*/\1/p' "${logs[0]}" | head -n 1)
    read -r wall cpu < <(cat "${logs[@]/%/.times}" | awk '{ wall += $1; cpu += $2 + $3 } END { printf "%.0f %.0f\n", wall, cpu }')
    # shellcheck disable=SC2059
    printf "$row" "$target" "$executions" "$((executions / (wall > 0 ? wall : 1)))" "$wall" "$cpu" "${edges:-?}" \
        "$((${edges:-0} - ${first:-0}))" "${rss:-?}" "$finds" | tee -a "$table"
    total=$((total + executions)) found=$((found + finds))
    rm -f "${logs[@]}" "${logs[@]/%/.times}"
    if $keep; then
        # Edges alone decide what is kept, not how often they were passed, and long inputs are not: the repository
        # stays lean.
        mkdir "$TMPDIR/all" "$TMPDIR/kept"
        find "corpus/$target" "work/$target" -type f -size "-${kept_bytes_max}c" -exec cp --update -t "$TMPDIR/all" {} +
        fuzz "$target" -set_cover_merge=1 -use_counters=0 "$TMPDIR/kept" "$TMPDIR/all" >/dev/null 2>&1
        rm -rf "corpus/$target" "$TMPDIR/all"
        mv "$TMPDIR/kept" "corpus/$target"
    fi
done
printf '\n'
cat "$table"
printf '\n%d executions, %d finds\n' "$total" "$found"
rm -f "$table"
((found == 0))
