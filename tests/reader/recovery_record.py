#!/usr/bin/env python3
"""An independent judge of recovery records: follows docs/FORMAT.md, section 8.5, and shares nothing with the program.

    recovery_record.py PACK RECORD          layout, hashes and every recovery shard of a record against its pack
    recovery_record.py --heal PACK RECORD   prints (as hex BLAKE3) what a pack was before up to a few shards of it rotted

The field's products are computed by tables, the code by its one formula, erasures by Gaussian elimination: slow, and short.
"""

import sys

try:
    from blake3 import blake3
except ImportError as missing:
    print(f"{missing}; install: pip install blake3", file=sys.stderr)
    sys.exit(2)

BASIS = [0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012,
         0x6C98, 0x10D8, 0x6A72, 0xB900, 0xFDB8, 0xFB34, 0xFF38, 0x991E]
HEADER, HASH, PAGE = 96, 16, 255


def need(condition, message):
    if not condition:
        sys.exit(f"recovery record: {message}")


def field():
    """Powers of z, and their exponents, of elements written in the basis."""
    named = [0] * 65536  # polynomial → coordinates
    for element in range(65536):
        polynomial = 0
        for bit in range(16):
            polynomial ^= BASIS[bit] if element >> bit & 1 else 0
        named[polynomial] = element
    exp, log, power = [], [0] * 65536, 1
    for n in range(65535):
        exp.append(named[power])
        log[named[power]] = n
        power <<= 1
        power ^= 0x1002D if power > 0xFFFF else 0
    return exp, log


EXP, LOG = field()


def times(a, b):
    return EXP[(LOG[a] + LOG[b]) % 65535] if a and b else 0


def divided(a, b):
    return EXP[(LOG[a] - LOG[b]) % 65535] if a else 0


def words(shard):
    return [shard[at + n] | shard[at + 32 + n] << 8 for at in range(0, len(shard), 64) for n in range(32)]


def shard_of(numbers):
    blocks = (numbers[at:at + 32] for at in range(0, len(numbers), 32))
    return b"".join(bytes(n & 255 for n in block) + bytes(n >> 8 for n in block) for block in blocks)


def add(target, source, factor):
    if factor == 0:
        return
    log = LOG[factor]
    for n, word in enumerate(source):
        if word:
            target[n] ^= EXP[(LOG[word] + log) % 65535]


def short(data):
    return blake3(data).digest()[:HASH]


class Record:
    def __init__(self, data):
        number = lambda at, length: int.from_bytes(data[at:at + length], "little")
        need(data[:8] == b"ABBILDr1" and number(8, 2) == 1, "magic or version")
        need(blake3(data[:64]).digest() == data[64:96], "header checksum")
        need(not any(data[10:12]) and not any(data[36:48]), "zeros in the header")
        self.shard, self.length = number(12, 4), number(16, 8)
        self.data, self.recovery, self.width, self.pack = number(24, 4), number(28, 4), number(32, 4), data[48:64].hex()
        need(self.data == -(-self.length // self.shard), "data shards")
        need(self.width & (self.width - 1) == 0 and self.recovery <= self.width, "width")
        total = self.data + self.recovery
        table = total * HASH + -(-total // PAGE) * HASH
        need(len(data) == 2 * HEADER + 2 * table + self.recovery * self.shard, "length")
        need(data[:HEADER] == data[-HEADER:], "second header")
        first, second = data[HEADER:HEADER + table], data[-HEADER - table:-HEADER]
        need(first == second, "second table")
        self.hashes = []
        for page in range(-(-total // PAGE)):
            at, count = page * (PAGE + 1) * HASH, min(PAGE, total - page * PAGE)
            hashes = first[at:at + count * HASH]
            checksum = short(data[:64] + page.to_bytes(4, "little") + hashes)
            need(first[at + count * HASH:at + (count + 1) * HASH] == checksum, f"checksum of page {page}")
            self.hashes += [hashes[n:n + HASH] for n in range(0, len(hashes), HASH)]
        at = HEADER + table
        self.shards = [data[at + i * self.shard:at + (i + 1) * self.shard] for i in range(self.recovery)]
        for i, shard in enumerate(self.shards):
            need(short(shard) == self.hashes[self.data + i], f"hash of recovery shard {i}")

    def factor(self, i, j):
        return divided((self.width + j) // self.width, i ^ (self.width + j))


def main():
    heal = sys.argv[1] == "--heal"
    pack, data = (open(name, "rb").read() for name in sys.argv[-2:])
    record = Record(data)
    padded = pack[:record.length].ljust(record.data * record.shard, b"\0")
    shards = [padded[j * record.shard:(j + 1) * record.shard] for j in range(record.data)]
    lost = [j for j, shard in enumerate(shards) if short(shard) != record.hashes[j]]
    need(heal or not lost and len(pack) == record.length, "hashes of the pack's shards")
    need(len(lost) <= record.recovery, f"{len(lost)} shards are lost")
    rows = range(len(lost) if heal else record.recovery)
    # What is left of each recovery shard once all data shards that are there are taken out of it.
    left = [words(record.shards[i]) for i in rows]
    for j in (j for j in range(record.data) if j not in lost):
        source = words(shards[j])
        for i in rows:
            add(left[i], source, record.factor(i, j))
    if not heal:
        need(all(not any(rest) for rest in left), "values of the recovery shards")
        print(f"{record.data} + {record.recovery} shards of {record.shard} bytes are right, of width {record.width}")
        return
    matrix = [[record.factor(i, j) for j in lost] for i in rows]
    for column in range(len(lost)):
        pivot = next(row for row in range(column, len(lost)) if matrix[row][column])
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        left[column], left[pivot] = left[pivot], left[column]
        inverse = divided(1, matrix[column][column])
        matrix[column] = [times(value, inverse) for value in matrix[column]]
        left[column] = [times(value, inverse) for value in left[column]]
        for row in range(len(lost)):
            factor = matrix[row][column]
            if row != column and factor:
                matrix[row] = [a ^ times(b, factor) for a, b in zip(matrix[row], matrix[column])]
                add(left[row], left[column], factor)
    for j, numbers in zip(lost, left):
        shards[j] = shard_of(numbers)
        need(short(shards[j]) == record.hashes[j], f"shard {j} after healing")
    print(blake3(b"".join(shards)[:record.length]).hexdigest())


main()
