#!/usr/bin/env bash
# Builds the disk images that the benchmarks read: real Debian guests, and the same guest one day later.
#
# usage: corpus.sh [--small | --full] DIR
#   --small   guest-a.raw, guest-a-nextday.raw                            (default)
#   --full    also guest-b.raw (ext4) and guest-c.raw (xfs), which share most packages with guest-a
#
# needs: root, about 2 GB of disk for each guest, a Debian mirror within reach, and the tools that it checks for.
# environment: DEBIAN_MIRROR, DEBIAN_SECURITY_MIRROR (for a dated mirror, if the same packages must come again).
#
# Each image is 6 GiB, GPT, one root filesystem at 2 MiB. Identifiers, file names and generated contents come from fixed
# seeds; packages are those the mirror has today (NAME.packages lists them), so two builds are alike, not identical.
# What exists is kept: an image gets its final name only when it is complete. NAME.log tells what happened.
#
# The script moves into a mount and a process namespace of its own, and detaches each loop device as soon as it is
# mounted: however it ends, even by SIGKILL, no mount, no daemon and no busy loop device stays behind.
set -euo pipefail

readonly SUITE=bookworm
readonly MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
readonly SECURITY_MIRROR=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}

readonly SECTOR=512
readonly DISK_BYTES=$((6 * 1024 * 1024 * 1024))
readonly ROOT_FIRST_SECTOR=4096
# The last 34 sectors hold the second partition table; end on a whole MiB before it.
readonly ROOT_LAST_SECTOR=$((DISK_BYTES / SECTOR - 2048 - 1))

readonly COMMON_PACKAGES=(
    linux-image-cloud-amd64 initramfs-tools systemd-sysv dbus udev ifupdown iproute2 openssh-server cron logrotate
    rsyslog ca-certificates curl locales man-db manpages less vim git gnupg perl python3 python3-venv sudo unattended-upgrades
)
readonly DATABASE_PACKAGES=(postgresql gcc make libc6-dev python3-dev manpages-dev)
readonly WEB_PACKAGES=(nginx-full php-fpm php-cli nodejs gcc make libc6-dev imagemagick)
# The next day brings security updates of some packages (not of all: the size of the change should not depend much on
# the date of the build), and a few new ones.
readonly UPGRADED_PACKAGES=(libssl3 openssl openssh-server rsyslog tzdata apt curl xz-utils libexpat1)
readonly NEW_PACKAGES=(tmux htop rsync tcpdump)

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'corpus.sh: %s\n' "$*" >&2
    exit 1
}

# ---- arguments and surroundings -------------------------------------------------------------------------------------

full=no
dir=
while (($#)); do
    case $1 in
        --small) full=no ;;
        --full) full=yes ;;
        -h | --help) usage && exit 0 ;;
        -*) fail "unknown option $1; see --help" ;;
        *) [[ -z $dir ]] || fail "one DIR only; see --help"; dir=$1 ;;
    esac
    shift
done
[[ -n $dir ]] || { usage >&2; exit 2; }
((EUID == 0)) || fail "needs root: it mounts the images it makes"

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need debootstrap debootstrap
need sgdisk gdisk
need losetup mount
need mount mount
need fstrim util-linux
need unshare util-linux
need mkfs.ext4 e2fsprogs
need python3 python3
[[ $full == no ]] || need mkfs.xfs xfsprogs
[[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
((${#missing[@]} == 0)) || fail "tools are missing; install them with: apt-get install ${missing[*]}"

if [[ ${CORPUS_INSIDE_NAMESPACE:-} != yes ]]; then
    options=(--small)
    [[ $full == no ]] || options=(--full)
    CORPUS_INSIDE_NAMESPACE=yes exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        bash "${BASH_SOURCE[0]}" "${options[@]}" "$dir"
fi

benches=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
root=$dir/.mounted
loop=

# A failure inside `build` must reach the person, not only the log that stderr is then.
exec 3>&2
clean_up() {
    local status=$?
    trap - EXIT
    if mountpoint -q "$root"; then umount --recursive "$root" || umount --recursive --lazy "$root"; fi
    if [[ -n $loop ]]; then losetup --detach "$loop" 2>/dev/null || true; fi
    rmdir "$root" 2>/dev/null || true
    rm -f "$dir"/*.partial
    ((status == 0)) || printf 'corpus.sh: failed (exit %d); see the newest %s/*.log\n' "$status" "$dir" >&3
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- one image ------------------------------------------------------------------------------------------------------

# attach IMAGE: sets `loop` to a device that shows the root partition alone.
attach() {
    loop=$(losetup --find --show --offset $((ROOT_FIRST_SECTOR * SECTOR)) \
        --sizelimit $(((ROOT_LAST_SECTOR - ROOT_FIRST_SECTOR + 1) * SECTOR)) "$1")
}

# mount_root: mounts `loop`, and leaves the device to the kernel: it goes when the mount goes.
mount_root() {
    mkdir -p "$root"
    mount "$loop" "$root"
    losetup --detach "$loop"
    loop=
}

# enter_guest / leave_guest: what a package's scripts expect to find around them.
enter_guest() {
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
    mkdir -p "$root/run/lock"
    local file
    for file in /etc/resolv.conf /etc/hosts; do
        touch "$root$file"
        mount --bind "$file" "$root$file"
    done
    # No package may start a daemon here.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
}

leave_guest() {
    rm "$root/usr/sbin/policy-rc.d"
    sync --file-system "$root"
    umount --recursive "$root"
    rmdir "$root"
}

in_guest() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        GIT_AUTHOR_NAME=root GIT_AUTHOR_EMAIL=root@guest GIT_COMMITTER_NAME=root GIT_COMMITTER_EMAIL=root@guest "$@"
}

install_packages() {
    in_guest apt-get -y -q -o Dpkg::Use-Pty=0 install --no-install-recommends "$@"
}

# Like etckeeper: the history of /etc, in git's own compressed objects.
commit_etc() {
    in_guest git -C /etc init -q -b main
    in_guest git -C /etc add -A
    in_guest git -C /etc commit -q -m "$1"
}

# with_database COMMAND…: runs the guest's PostgreSQL around a command; a socket only, so that it meets no other server.
with_database() {
    in_guest install -d -o postgres -g postgres /run/postgresql
    in_guest pg_ctlcluster 15 main start -o "-c listen_addresses='' -c fsync=off -c max_wal_size=96MB"
    in_guest runuser -u postgres -- "$@"
    in_guest pg_ctlcluster 15 main stop
}

# write_contents SEED first|next: logs, uploads and small files of a server, from a seed.
write_contents() {
    in_guest python3 - "$@" <<'PYTHON'
import gzip, io, os, random, sys
from datetime import datetime, timedelta

seed, day = sys.argv[1], sys.argv[2]
rng = random.Random(f"{seed} {day}")
START = datetime(2026, 11, 1)

PATHS = [f"/{a}/{b}" for a in ("api", "static", "shop", "search", "login") for b in ("index", "item", "cart", "list", "new")]
AGENTS = ["Mozilla/5.0 (X11; Linux x86_64)", "curl/7.88.1", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X)"]

def access_log(start, lines):
    at = start
    for _ in range(lines):
        at += timedelta(milliseconds=rng.randrange(1, 900))
        yield (f'10.{rng.randrange(4)}.{rng.randrange(256)}.{rng.randrange(256)} - - [{at:%d/%b/%Y:%H:%M:%S} +0000] '
               f'"GET {rng.choice(PATHS)}?id={rng.randrange(10**6)} HTTP/1.1" {rng.choice((200, 200, 200, 304, 404))} '
               f'{rng.randrange(200, 90000)} "-" "{rng.choice(AGENTS)}"\n')

def zipped(lines):
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as stream:
        stream.writelines(line.encode() for line in lines)
    return out.getvalue()

def small_text(n):
    return "".join(f"{rng.choice(PATHS)} = {rng.getrandbits(64):016x}\n" for _ in range(n))

os.makedirs("/var/log/app", exist_ok=True)
os.makedirs("/srv/uploads", exist_ok=True)
os.makedirs("/home/deploy/app", exist_ok=True)
if day == "first":
    with open("/var/log/app/access.log", "w") as log:
        log.writelines(access_log(START, 200_000))
    for old in range(1, 8):
        with open(f"/var/log/app/access.log.{old}.gz", "wb") as log:
            log.write(zipped(access_log(START - timedelta(days=old), 60_000)))
    for n in range(160):  # what users send is compressed already
        with open(f"/srv/uploads/{n:05}.jpg", "wb") as file:
            file.write(rng.randbytes(rng.randrange(50_000, 700_000)))
    for n in range(3000):
        with open(f"/home/deploy/app/{n:05}.conf", "w") as file:
            file.write(small_text(rng.randrange(1, 400)))
else:
    with open("/var/log/app/access.log", "a") as log:
        log.writelines(access_log(START + timedelta(days=1), 60_000))
    for n in range(160, 190):
        with open(f"/srv/uploads/{n:05}.jpg", "wb") as file:
            file.write(rng.randbytes(rng.randrange(50_000, 700_000)))
    for n in rng.sample(range(3000), 300):  # an editor's way: a new file takes the old one's name
        path = f"/home/deploy/app/{n:05}.conf"
        with open(path + ".new", "w") as file:
            file.write(small_text(rng.randrange(1, 400)))
        os.replace(path + ".new", path)
    for n in rng.sample(range(160), 10):
        os.remove(f"/srv/uploads/{n:05}.jpg")
PYTHON
}

# publish NAME: gives NAME.partial its final name, with holes wherever it reads zeros.
publish() {
    cp --sparse=always "$dir/$1.partial" "$dir/$1.holes.partial"
    rm "$dir/$1.partial"
    mv "$dir/$1.holes.partial" "$dir/$1"
}

# first_day NAME ext4|xfs NUMBER database|web
first_day() {
    local name=$1 filesystem=$2 number=$3 role=$4
    local image=$dir/$name.raw.partial
    local uuid="ab1d0000-0000-4000-8000-00000000000$number"

    rm -f "$image"
    truncate -s "$DISK_BYTES" "$image"
    sgdisk --disk-guid="ab1d0000-0000-4000-8000-0000000001$number$number" \
        --new=1:2048:4095 --typecode=1:ef02 --partition-guid=1:"ab1d0000-0000-4000-8000-0000000002$number$number" \
        --new=2:$ROOT_FIRST_SECTOR:$ROOT_LAST_SECTOR --typecode=2:8300 --change-name=2:root \
        --partition-guid=2:"ab1d0000-0000-4000-8000-0000000003$number$number" "$image"

    attach "$image"
    if [[ $filesystem == ext4 ]]; then
        # All tables now: a lazily written one would go on changing the image while it is mounted.
        mkfs.ext4 -q -U "$uuid" -E "hash_seed=$uuid,lazy_itable_init=0,lazy_journal_init=0,nodiscard" "$loop"
    else
        mkfs.xfs -q -K -m "uuid=$uuid" "$loop"
    fi
    mount_root

    debootstrap --variant=minbase --include=apt-utils,ca-certificates,locales "$SUITE" "$root" "$MIRROR"
    enter_guest
    printf '%s\n' "$name" >"$root/etc/hostname"
    printf 'UUID=%s / %s errors=remount-ro 0 1\n' "$uuid" "$filesystem" >"$root/etc/fstab"
    printf 'deb %s %s main\n' "$MIRROR" "$SUITE" >"$root/etc/apt/sources.list"
    # As cloud images do: no 80 MB of parsed package lists, written anew with every run of apt.
    printf 'Dir::Cache::%s "";\n' pkgcache srcpkgcache >"$root/etc/apt/apt.conf.d/90small"
    printf 'en_US.UTF-8 UTF-8\nde_DE.UTF-8 UTF-8\n' >"$root/etc/locale.gen"
    in_guest locale-gen
    in_guest apt-get -q update
    if [[ $role == database ]]; then
        install_packages "${COMMON_PACKAGES[@]}" "${DATABASE_PACKAGES[@]}"
        with_database sh -c 'createdb bench && pgbench --quiet --initialize --scale=8 bench'
    else
        install_packages "${COMMON_PACKAGES[@]}" "${WEB_PACKAGES[@]}"
    fi
    write_contents "$name" first
    commit_etc "first day"
    in_guest apt-get clean
    # What the installation deleted would be stored for good; the next day is left untrimmed, as most guests are.
    sync --file-system "$root" # before that, the journal still holds what was freed
    fstrim "$root"
    # shellcheck disable=SC2016 # dpkg-query's own variables
    in_guest dpkg-query --show --showformat '${Package} ${Version}\n' >"$dir/$name.packages"
    leave_guest
    publish "$name.raw"
}

# next_day NAME: NAME-nextday.raw, a copy of NAME.raw after security updates, some work and a day of logs.
next_day() {
    local name=$1
    local image=$dir/$name-nextday.raw.partial

    rm -f "$image"
    cp --sparse=always "$dir/$name.raw" "$image"
    attach "$image"
    mount_root
    enter_guest
    printf 'deb %s %s-security main\n' "$SECURITY_MIRROR" "$SUITE" >>"$root/etc/apt/sources.list"
    in_guest apt-get -q update
    install_packages --only-upgrade "${UPGRADED_PACKAGES[@]}"
    install_packages "${NEW_PACKAGES[@]}"
    with_database pgbench --random-seed=1 --client=2 --transactions=250 bench
    write_contents "$name" next
    commit_etc "next day"
    # shellcheck disable=SC2016 # dpkg-query's own variables
    in_guest dpkg-query --show --showformat '${Package} ${Version}\n' >"$dir/$name-nextday.packages"
    leave_guest
    publish "$name-nextday.raw"
}

# build NAME COMMAND…: runs the command for DIR/NAME.raw unless that exists.
build() {
    local name=$1
    shift
    if [[ -e $dir/$name.raw ]]; then
        say "$name.raw: exists, kept"
        return
    fi
    say "$name.raw: building, see $dir/$name.log"
    "$@" >"$dir/$name.log" 2>&1
    say "$name.raw: $(du --block-size=MB "$dir/$name.raw" | cut -f1) stored"
}

build guest-a first_day guest-a ext4 1 database
build guest-a-nextday next_day guest-a
# The tool says "differ" with exit code 1, which is what it should find here.
python3 "$benches/image_diff.py" --count "$dir/guest-a.raw" "$dir/guest-a-nextday.raw" || (($? == 1))
if [[ $full == yes ]]; then
    build guest-b first_day guest-b ext4 2 web
    build guest-c first_day guest-c xfs 3 database
fi
