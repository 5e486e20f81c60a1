#!/usr/bin/env bash
# The long forms of the stories that hold the repository to its promises: each prints how much it tried, and stops at the
# first loss. The test suite runs the short forms of the same.
#
# usage: tests/campaigns.sh [NAME…]      all, or some of: faults kills processes flips indexes model
#
# needs: what tests/run.sh installs. One to two hours on two cores for all of them.
# environment: KILLS (5000), SECONDS_AT_ONCE (600), FLIPS (100000), INDEXES (10000): how much.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# campaign NAME FILTER…: runs the stories whose names contain one of the filters, and shows what they print.
campaign() {
    local name=$1
    shift
    printf '\n==> %s\n' "$name"
    local begin=$SECONDS
    cargo test --locked --quiet --test it -- --nocapture --test-threads=1 "$@"
    printf '==> %s took %d s\n' "$name" $((SECONDS - begin))
}

run() {
    case $1 in
        # Every operation of the store fails, is torn, loses power: of every verb that writes. And every amount of room.
        faults) ABBILD_TEST_EVERY=1 campaign "$1" every_fault_at_every_operation a_full_medium ;;
        kills) ABBILD_TEST_KILLS=${KILLS:-5000} campaign "$1" killed_verbs:: ;;
        processes) ABBILD_TEST_SECONDS=${SECONDS_AT_ONCE:-600} campaign "$1" backups_forgets_and_prunes_at_once ;;
        flips) ABBILD_TEST_FLIPS=${FLIPS:-100000} campaign "$1" damage_campaign parity_campaign ;;
        indexes) ABBILD_TEST_INDEXES=${INDEXES:-10000} campaign "$1" index_campaign ;;
        model) ABBILD_TEST_MODEL=whole campaign "$1" prune_model:: ;;
        *)
            printf 'tests/campaigns.sh: %s is none of: faults kills processes flips indexes model\n' "$1" >&2
            exit 2
            ;;
    esac
}

for name in "${@:-faults kills processes flips indexes}"; do
    for one in $name; do
        run "$one"
    done
done
