#!/usr/bin/env bash
# Runs everything that must pass before a change goes in: format, lints, scripts, tests.
#
# usage: tests/run.sh
#
# needs: Rust (https://rustup.rs) with rustfmt and clippy. Missing Debian packages are installed with apt-get (as root or
# with sudo); where there is no apt-get, the script says which commands are missing.
# environment: CARGO_TARGET_DIR, where everything is built (default: target).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# Tools for filesystems live where an ordinary user does not look.
export PATH=$PATH:/usr/sbin:/sbin

step() { printf '\n==> %s\n' "$*"; }
fail() {
    printf 'tests/run.sh: %s\n' "$*" >&2
    exit 1
}

# run COMMAND…: says what it does, then does it.
run() {
    step "$*"
    "$@"
}

# ---- what the tests need --------------------------------------------------------------------------------------------

commands=() packages=()
need() {
    command -v "$1" >/dev/null && return
    commands+=("$1")
    packages+=("${@:2}")
}

find_missing() {
    commands=() packages=()
    need qemu-img qemu-utils
    need cc gcc libc6-dev
    need python3 python3 python3-venv
    need mkfs.ext4 e2fsprogs
    need blkid util-linux
    need bsdtar libarchive-tools
    need cryptsetup cryptsetup-bin
    need debugfs e2fsprogs
    need fusermount3 fuse3
    need genisoimage genisoimage
    need hivexsh libhivex-bin
    # Linux as a process, where the host's kernel lacks a driver that has to judge.
    need linux.uml user-mode-linux
    need losetup mount
    need mcopy mtools
    need mkfs.btrfs btrfs-progs
    need mkfs.exfat exfatprogs
    need mount.exfat-fuse exfat-fuse
    need mkfs.f2fs f2fs-tools
    need mkfs.vfat dosfstools
    need mkfs.xfs xfsprogs
    need mkntfs ntfs-3g
    need mksquashfs squashfs-tools
    need mkudffs udftools
    need sfdisk fdisk
    need sgdisk gdisk
    need thin_restore thin-provisioning-tools
    need wimlib-imagex wimtools
    need xorriso xorriso
    need tar tar
    need gzip gzip
    need shellcheck shellcheck
    # libvirt's schema of definitions, and who applies it.
    need virt-xml-validate libvirt-clients libxml2-utils
    # Debian's python3 comes without the part that makes virtual environments.
    if command -v python3 >/dev/null && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        commands+=("python3 -m venv")
        packages+=(python3-venv)
    fi
    # A second judge of images; its modules belong to Debian's own Python.
    if ! /usr/bin/python3 -c 'import pyqcow, pyvhdi, pyvmdk' 2>/dev/null; then
        commands+=("pyqcow, pyvhdi, pyvmdk for /usr/bin/python3")
        packages+=(python3 python3-libqcow python3-libvhdi python3-libvmdk)
    fi
}

command -v cargo >/dev/null || fail "cargo is missing; install Rust from https://rustup.rs"

find_missing
if ((${#packages[@]})); then
    command -v apt-get >/dev/null || fail "these commands are missing, please install them: ${commands[*]}"
    as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "as root, please: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    run "${as_root[@]}" apt-get -q update
    run "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${packages[@]}"
    hash -r
    find_missing
    ((${#commands[@]} == 0)) || fail "still missing after the installation: ${commands[*]}"
fi

# The independent reader of the repository format runs in an environment of its own, made anew when its list changes.
venv=$target/test-python
if ! cmp -s tests/requirements.txt "$venv/requirements.txt"; then
    step "Python packages for the independent reader, in $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/requirements.txt
    cp tests/requirements.txt "$venv/requirements.txt"
fi
export ABBILD_TEST_PYTHON=$venv/bin/python

step "with"
cargo --version
qemu-img --version | head -n 1
"$ABBILD_TEST_PYTHON" --version

# ---- the tests ------------------------------------------------------------------------------------------------------

run shellcheck tests/*.sh benches/*.sh fuzz/*.sh .ci/run
run env PYTHONDONTWRITEBYTECODE=1 "$ABBILD_TEST_PYTHON" -m unittest discover -s benches
run cargo fmt --check
run cargo fmt --check --manifest-path fuzz/Cargo.toml
run cargo clippy --all-targets --locked -- -D warnings
if cargo nextest --version >/dev/null 2>&1; then
    run cargo nextest run --locked
else
    run cargo test --locked
fi

step "everything passed"
