#!/usr/bin/python3
"""The content of a disk image as the libyal readers see it: a second judge beside QEMU, written by other people.

usage: libyal.py vmdk|vhd|qcow2 IMAGE [PARENT...]

Prints the size of the disk in bytes and the SHA-256 of its content. PARENTs are those of a differencing VHD or VHDX,
nearest first. Needs Debian's python3-libvmdk, python3-libvhdi, python3-libqcow; they belong to Debian's own Python.
"""

import hashlib
import sys

import pyqcow
import pyvhdi
import pyvmdk

# libvhdi 20210425 gives zeros for data behind the first block that one read touches: no read crosses blocks.
PART = 64 << 10


def open_vmdk(path):
    disk = pyvmdk.handle()
    disk.open(path)
    disk.open_extent_data_files()
    return disk


def open_vhd(paths):
    levels = []
    for path in paths:
        level = pyvhdi.file()
        level.open(path)
        levels.append(level)
    for child, parent in zip(levels, levels[1:]):
        child.set_parent(parent)
    return levels[0], levels


def open_qcow2(path):
    disk = pyqcow.file()
    disk.open(path)
    return disk


def main(kind, *paths):
    kept = None
    if kind == "vmdk":
        disk = open_vmdk(paths[0])
    elif kind == "vhd":
        disk, kept = open_vhd(paths)
    else:
        disk = open_qcow2(paths[0])
    size = left = disk.get_media_size()
    digest = hashlib.sha256()
    while left:
        part = disk.read_buffer(min(left, PART))
        digest.update(part)
        left -= len(part)
    print(size, digest.hexdigest())
    del kept


main(*sys.argv[1:])
