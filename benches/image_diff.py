#!/usr/bin/env python3
"""Compares two raw images without reading what is a hole in both.

usage: image_diff.py [--count] A B
  --count   read on to the end and count the 4 KiB blocks that differ

needs: Python 3.8, Linux (SEEK_DATA, SEEK_HOLE).
exit code: 0 same bytes, 1 different, 2 cannot compare.

A hole only ever lets us skip: a range is left out when both files say "no data" there. What one of them stores is read
from both, so zeros that are stored equal zeros that are not, and a wrong map cannot hide a difference in stored bytes.
"""

import argparse
import errno
import os
import sys

READ_BYTES = 1 << 20
BLOCK_BYTES = 4096


def data_ranges(fd, size):
    """The ranges [start, end) in which the file may hold anything but zeros, in order."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here to the end
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end
        at = end


def union(first, second):
    """Merges two lists of ranges, each widened to whole blocks, into one ordered list without overlaps."""
    merged = []
    for start, end in sorted([*first, *second]):
        start -= start % BLOCK_BYTES
        end += -end % BLOCK_BYTES
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


def pread_exactly(fd, length, at):
    """`length` bytes from `at`; a file that ends early is an error, not a short answer."""
    parts = []
    while length:
        part = os.pread(fd, length, at)
        if not part:
            raise OSError(errno.EIO, f"file ended at {at} while it was read")
        parts.append(part)
        length -= len(part)
        at += len(part)
    return b"".join(parts)


def differing_offsets(path_a, path_b):
    """Yields the offset of each 4 KiB block that differs, in order.

    Raises ValueError if the sizes differ.
    """
    with open(path_a, "rb", buffering=0) as a, open(path_b, "rb", buffering=0) as b:
        size, size_b = os.fstat(a.fileno()).st_size, os.fstat(b.fileno()).st_size
        if size != size_b:
            raise ValueError(f"sizes differ: {size} bytes in {path_a}, {size_b} in {path_b}")
        for start, end in union(data_ranges(a.fileno(), size), data_ranges(b.fileno(), size)):
            at = start
            while at < min(end, size):
                length = min(READ_BYTES, end - at, size - at)
                in_a, in_b = pread_exactly(a.fileno(), length, at), pread_exactly(b.fileno(), length, at)
                if in_a != in_b:
                    for block in range(0, length, BLOCK_BYTES):
                        if in_a[block : block + BLOCK_BYTES] != in_b[block : block + BLOCK_BYTES]:
                            yield at + block
                at += length


def first_difference(path_a, path_b):
    """What is different, in words, or None if both images hold the same bytes."""
    try:
        offset = next(differing_offsets(path_a, path_b), None)
    except ValueError as sizes:
        return str(sizes)
    return None if offset is None else f"first difference in the 4 KiB block at offset {offset}"


def main():
    parser = argparse.ArgumentParser(description="Compare two raw images, skipping what is a hole in both.")
    parser.add_argument("--count", action="store_true", help="count the 4 KiB blocks that differ")
    parser.add_argument("a")
    parser.add_argument("b")
    args = parser.parse_args()
    try:
        if args.count:
            blocks = sum(1 for _ in differing_offsets(args.a, args.b))
            print(f"{args.b}: {blocks} blocks of 4 KiB differ ({blocks * BLOCK_BYTES / 1e6:.1f} MB)")
            return 1 if blocks else 0
        difference = first_difference(args.a, args.b)
    except (OSError, ValueError) as error:
        print(f"image_diff.py: {error}", file=sys.stderr)
        return 2
    if difference:
        print(f"{args.b} is not {args.a}: {difference}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
