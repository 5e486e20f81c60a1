#!/usr/bin/python3
"""Linux' vfat as a judge, where the host's kernel has none: the first process of a user mode Linux.

It runs on the host's own files, read-only, and in the folder JUDGE_WORK of the host, where `plan.json` says what to do with
each block device: [{"device": "ubda", "options": ["shortname=winnt"], "fill": ["names", …]}, …]. Every volume is filled, unmounted,
mounted again read-only and looked at: `DEVICE.json` is the list of its nodes, `DEVICE.contents` all their contents, one
after the other. The last thing written is `done`; without it, `trouble` says why.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import struct
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
READ_ONLY = 1
FINIT_MODULE = 313
POWER_OFF = 0x4321FEDC
FAT_IOCTL_GET_ATTRIBUTES = 0x80047210
FAT_IOCTL_SET_ATTRIBUTES = 0x40047211
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
STATX_ALL = 0xFFF
MODULES = ["nls/nls_cp437", "nls/nls_ascii", "nls/nls_iso8859-1", "nls/nls_utf8", "fat/fat", "fat/vfat"]
WORK = b"/mnt/work"
VOLUME = b"/mnt/volume"


def checked(result, what):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def mount(source, place, kind, flags=0, options=b""):
    os.makedirs(place, exist_ok=True)
    checked(LIBC.mount(source, place, kind, flags, options), f"mount {source} {options}")


def unmount(place):
    checked(LIBC.umount2(place, 0), f"umount {place}")


def insert_modules():
    folder = f"/usr/lib/uml/modules/{os.uname().release}/kernel/fs/"
    for name in MODULES:
        module = os.open(folder + name + ".ko", os.O_RDONLY)
        checked(LIBC.syscall(FINIT_MODULE, module, b"", 0), name)
        os.close(module)


# ---- filling --------------------------------------------------------------------------------------------------------


def noise(seed, length):
    return hashlib.shake_128(str(seed).encode()).digest(length)


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def folder(name):
    path = os.path.join(VOLUME, name.encode())
    os.mkdir(path)
    return path


def in_folder(path, name):
    return os.path.join(path, name if isinstance(name, bytes) else name.encode())


def fill_names():
    place = folder("names")
    names = ["n" * 255, "🦀" * 127 + "x", "ü", "u\u0308", "日本語のとても長い名前", "🦀", ".hidden", " leading space"]
    names += ["UPPER.TXT", "lower.txt", "Mixed.Txt", "upper2.TXT", "UPPER3.txt", "foo bar baz.txt", "a+b=c,[d];e.txt"]
    names += ["many.dots.in.a name", "no extension", "É.TXT", "ÇÜÑÆ.ÅÄ", "çüñæ2.åä", "12345678.123", "123456789.123"]
    names += ["exactly13uni.", "exactly13unit", "exactly 26 units, I count.", "exactly 26 units, I count!", "~1", "A~1"]
    names += [f"a long name, different at its end {number}.text" for number in range(60)]
    for name in names:
        write(in_folder(place, name), name.encode())


def fill_files():
    place = folder("files")
    for length in [0, 1, 511, 512, 513, 1024, 4095, 4096, 4097, 8192, 32768, 32769, 65536, 200000]:
        write(in_folder(place, f"bytes {length}"), noise(length, length))
    # Two that grow in turns, so that neither is in one piece.
    with open(in_folder(place, "one"), "wb") as one, open(in_folder(place, "other"), "wb") as other:
        for number in range(60):
            for file in (one, other):
                file.write(noise(number, 3000))
                file.flush()
    with open(in_folder(place, "cut"), "wb") as file:
        file.write(noise(3, 60000))
        file.truncate(10001)
    with open(in_folder(place, "allocated beyond its end"), "wb") as file:
        file.write(noise(4, 3000))
        checked(LIBC.fallocate(file.fileno(), 1, ctypes.c_long(0), ctypes.c_long(50000)), "fallocate")


def fill_folders():
    deep = folder("deep")
    for level in range(60):
        write(in_folder(deep, "here"), str(level).encode())
        deep = in_folder(deep, f"level {level}")
        os.mkdir(deep)
    folder("empty")
    emptied = folder("emptied")
    for number in range(300):
        write(in_folder(emptied, f"a name of some length, {number}"), b"")
    for number in range(300):
        if number % 50 != 7:
            os.remove(in_folder(emptied, f"a name of some length, {number}"))
    for number in range(40):
        os.mkdir(in_folder(emptied, f"folder {number}"))
    for number in range(0, 40, 3):
        os.rmdir(in_folder(emptied, f"folder {number}"))


def set_attributes(path, attributes):
    node = os.open(path, os.O_RDONLY)
    fcntl.ioctl(node, FAT_IOCTL_SET_ATTRIBUTES, struct.pack("I", attributes))
    os.close(node)


def fill_attributes():
    place = folder("attributes")
    for attributes in [0, 0x01, 0x02, 0x04, 0x20, 0x27]:
        file, inner = in_folder(place, f"file {attributes}"), in_folder(place, f"folder {attributes}")
        write(file, b"")
        os.mkdir(inner)
        set_attributes(file, attributes)
        set_attributes(inner, attributes | 0x10)
    times = folder("times")
    for moment in [315532800, 951782400, 951868799.5, 1582982055.67, 4102444799, 4107542400, 4354819198]:
        path = in_folder(times, str(moment))
        write(path, b"")
        os.utime(path, (moment, moment))


def fill_many():
    for outer in range(40):
        place = folder(f"many {outer}")
        for number in range(250):
            write(in_folder(place, f"{number} of many{'.' * (number % 7)}{outer}"), str(number).encode())


def fill_full_root():
    """As many as the root directory of FAT12 and FAT16 can hold."""
    try:
        for number in range(10000):
            write(os.path.join(VOLUME, f"ROOT{number}".encode()), b"")
    except OSError:
        return
    raise RuntimeError("the root directory has no end")


FILLS = {
    "names": fill_names,
    "files": fill_files,
    "folders": fill_folders,
    "attributes": fill_attributes,
    "many": fill_many,
    "full root": fill_full_root,
}

# ---- looking --------------------------------------------------------------------------------------------------------


def statx(path):
    buffer = ctypes.create_string_buffer(256)
    checked(LIBC.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_ALL, buffer), f"statx {path}")
    mask, _block, _flags, links, uid, gid, mode, _inode, size, blocks = struct.unpack_from("<IIQIIIHxxQQQ", buffer, 0)
    times = [list(struct.unpack_from("<qI", buffer, at)) for at in (64, 80, 96, 112)]
    accessed, created, changed, modified = times
    return {
        "links": links,
        "uid": uid,
        "gid": gid,
        "mode": mode,
        "size": size,
        "allocated": blocks * 512,
        "accessed": accessed,
        "created": created if mask & 0x800 else None,
        "changed": changed,
        "modified": modified,
    }


def look(path, shown, contents):
    node = statx(path)
    node["path"] = shown.hex()
    is_folder = node["mode"] & 0o170000 == 0o040000
    opened = os.open(path, os.O_RDONLY)
    attributes = bytearray(4)
    fcntl.ioctl(opened, FAT_IOCTL_GET_ATTRIBUTES, attributes)
    node["attributes"] = struct.unpack("I", attributes)[0]
    os.close(opened)
    if not is_folder:
        node["contents_at"] = contents.tell()
        with open(path, "rb") as file:
            contents.write(file.read())
    nodes = [node]
    if is_folder:
        for name in os.listdir(path):
            inner = shown + b"/" + name if shown else name
            nodes += look(os.path.join(path, name), inner, contents)
    return nodes


def judge(entry):
    device, options = entry["device"], ",".join(["utf8=1", *entry["options"]]).encode()
    if entry["fill"]:
        mount(b"/dev/" + device.encode(), VOLUME, b"vfat", 0, options)
        for fill in entry["fill"]:
            FILLS[fill]()
        unmount(VOLUME)
    mount(b"/dev/" + device.encode(), VOLUME, b"vfat", READ_ONLY, b"utf8=1")
    with open(os.path.join(WORK, f"{device}.contents".encode()), "wb") as contents:
        nodes = look(VOLUME, b"", contents)
    unmount(VOLUME)
    with open(os.path.join(WORK, f"{device}.json".encode()), "w", encoding="ascii") as file:
        json.dump(nodes, file)


def main():
    os.umask(0o022)
    mount(b"none", b"/mnt", b"tmpfs")
    mount(b"none", WORK, b"hostfs", 0, os.environb[b"JUDGE_WORK"])
    try:
        insert_modules()
        with open(os.path.join(WORK, b"plan.json"), encoding="ascii") as file:
            plan = json.load(file)
        for entry in plan:
            judge(entry)
        write(os.path.join(WORK, b"done"), b"")
    except BaseException:
        write(os.path.join(WORK, b"trouble"), traceback.format_exc().encode())


try:
    main()
finally:
    os.sync()
    LIBC.reboot(POWER_OFF)
