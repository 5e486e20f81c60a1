#!/usr/bin/env python3
"""An independent reader of Abbild repositories, format version 1.

It follows docs/FORMAT.md and shares nothing with the program, to prove that the document is complete; section numbers
are those of the document.
It uses no index: manifests and the packs' own directories are enough. It verifies all that it reads, and stops at the
first thing that is wrong (exit code 1; 2 if a Python package is missing).

    abbild_reader.py REPOSITORY --password-file F | --key-file F                          list backups
    abbild_reader.py REPOSITORY … --backup ID --disk N --to FILE                          one disk as a raw file
    abbild_reader.py REPOSITORY … --backup ID --file NAME --to FILE                       one definition file
    abbild_reader.py REPOSITORY … --check                                                 every byte of every object
"""

import argparse
import hmac
import io
import json
import os
import re
import sys
from collections import OrderedDict

try:
    import zstandard
    from argon2.low_level import Type, hash_secret_raw
    from blake3 import blake3
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as missing:
    print(f"{missing}; install: pip install cryptography zstandard blake3 argon2-cffi", file=sys.stderr)
    sys.exit(2)

# Section 12.
TEXT_MAX, SLOTS_MAX, EPOCHS_MAX, KEY_FILE_MAX = 64 << 10, 16, 256, 4096
OBJECT_MAX, PACK_MAX = 256 << 20, 128 << 20
BLOB_MAX, CHUNK_MAX, DISK_MAX = 1310720, 1 << 20, 1 << 47
SEGMENT, NODE_SEGMENTS, STRIPE = 4 << 20, 1024, 1 << 20
HEADER, TAG, LOCATOR = 80, 16, 32
ID = 20
DIRECTORY_PART, LOCATOR_PART = 2**64 - 2, 2**64 - 1
KINDS = {"packs": (1, 2), "index": (3,), "manifests": (4,), "sessions": (5,), "generations": (6,)}
ZERO_ID = bytes(ID)


class Wrong(Exception):
    """Something in the repository is not as the document says."""


def need(condition, message):
    if not condition:
        raise Wrong(message)


# Section 1: notation.


def u32(data, at):
    return int.from_bytes(take(data, at, 4), "little")


def u64(data, at):
    return int.from_bytes(take(data, at, 8), "little")


def take(data, at, length):
    """Bytes at..at+length, all of which must be there."""
    need(at + length <= len(data), f"ends early: wants {length} bytes at {at} of {len(data)}")
    return data[at : at + length]


def hex_bytes(text, length):
    fits = isinstance(text, str) and len(text) == 2 * length and re.fullmatch("[0-9a-f]*", text)
    need(fits, f"not {length} bytes in hex: {text!r:.80}")
    return bytes.fromhex(text)


def parse_json(text):
    def no_repeats(pairs):
        need(len({key for key, _ in pairs}) == len(pairs), "a JSON field is repeated")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=no_repeats)
    except ValueError as error:
        raise Wrong(f"not JSON: {error}") from error
    need(isinstance(value, dict), "not a JSON object")
    return value


def field(record, name, kind):
    value = record.get(name) if isinstance(record, dict) else None
    need(isinstance(value, kind) and not isinstance(value, bool), f"field {name!r} is missing or of another type")
    return value


def hkdf(ikm, salt, info, length):
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(ikm)


def gcm_open(key, nonce, sealed, aad, what):
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise Wrong(f"{what}: not authentic") from None


def unzstd(packed, limit, what):
    """One zstd frame, never unpacked beyond the limit."""
    try:
        plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read(limit + 1)
    except zstandard.ZstdError as error:
        raise Wrong(f"{what}: {error}") from None
    need(len(plain) <= limit, f"{what}: unpacks to more than {limit} bytes")
    return plain


class Store:
    """Section 2: objects in a directory."""

    def __init__(self, root):
        self.root = root

    def names(self, folder):
        found = []
        for path, _, files in os.walk(os.path.join(self.root, folder)):
            below = os.path.relpath(path, self.root)
            found += [f"{below}/{name}" for name in files if re.fullmatch(r"[a-z0-9_-][a-z0-9._-]*", name)]
        return sorted(found)

    def read(self, name, limit):
        path = os.path.join(self.root, name)
        need(os.path.isfile(path), f"{name}: no such object")
        need(os.path.getsize(path) <= limit, f"{name}: longer than {limit} bytes")
        with open(path, "rb") as file:
            return file.read()


def plain_object(name, data, count):
    """Section 3: the lines of a plain object, their checksum verified."""
    need(len(data) <= TEXT_MAX and data.endswith(b"\n"), f"{name}: does not end in a line feed")
    at = data.rfind(b"\n", 0, len(data) - 1) + 1
    need(data[at:] == b"blake3 " + blake3(data[:at]).hexdigest().encode() + b"\n", f"{name}: wrong checksum")
    try:
        lines = data[:at].decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise Wrong(f"{name}: not UTF-8: {error}") from None
    need(len(lines) == count, f"{name}: {len(lines)} lines instead of {count}")
    return lines


def configuration(data):
    """Section 4: the repository's id; the rest matters to writers only, but its rules are checked."""
    config = parse_json(plain_object("config", data, 1)[0])
    need(field(config, "format", int) == 1, f"repository format {config['format']} is not supported")
    need(field(config, "segment_bytes", int) == SEGMENT, "config: segment_bytes")
    chunks = field(config, "chunks", dict)
    low, avg, high, zeros = (field(chunks, name, int) for name in ("min", "avg", "max", "zero_run_min"))
    slack = field(chunks, "slack_min", int) if "slack_min" in chunks else 0
    sizes_fit = not (low | avg | high) & 1 and 512 <= low < avg < high <= CHUNK_MAX and 0 <= slack < 4096
    need(len(chunks) == 4 + ("slack_min" in chunks), "config: a chunk size that is not known")
    need(sizes_fit and 4096 <= zeros <= SEGMENT, "config: chunk sizes break the rules")
    return hex_bytes(field(config, "repository", str), 16)


def key_file_secret(text):
    """Section 5.1."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    need(len(lines) >= 3 and lines[0] == "abbild key file 1", "key file: not one")
    secret = hex_bytes(lines[1], 32)
    found = lines[2].removeprefix("check:").strip()
    need(lines[2].startswith("check:") and found == blake3(lines[1].encode()).hexdigest()[:8], "key file: check digits")
    return secret


def open_slot(name, data, config_hash, passphrase, key_file):
    """Section 5: the master secrets by epoch, or None if this slot is for another secret."""
    line, commitment, wrapped = plain_object(name, data, 3)
    slot = parse_json(line)
    need("keys/" + field(slot, "slot", str) == name, f"{name}: is slot {slot['slot']}")
    kind, salt = field(slot, "kind", str), hex_bytes(field(slot, "salt", str), 16)
    if kind == "passphrase" and passphrase is not None:
        memory, passes, lanes = (field(slot, name, int) for name in ("memory_kib", "passes", "lanes"))
        allowed = 1 <= memory <= 4 << 20 and 1 <= passes <= 64 and 1 <= lanes <= 64 and memory >= 8 * lanes
        need(allowed, f"{name}: argon2id parameters beyond the limits")
        secret = hash_secret_raw(passphrase, salt, passes, memory, lanes, 32, Type.ID, version=0x13)
    elif kind == "key_file" and key_file is not None:
        secret = key_file
    else:
        return None
    output = hkdf(secret, salt, b"abbild v1 slot", 64)
    if not hmac.compare_digest(output[32:], hex_bytes(commitment, 32)):
        return None
    aad = b"abbild v1 slot" + config_hash + line.encode()
    epochs = slot.get("epochs", [0])
    ascend = all(type(epoch) is int for epoch in epochs) and all(a < b for a, b in zip(epochs, epochs[1:]))
    need(0 < len(epochs) <= EPOCHS_MAX and epochs[0] == 0 and ascend, f"{name}: epochs {epochs}")
    wrapped = hex_bytes(wrapped, 32 * len(epochs) + TAG)
    secrets = gcm_open(output[:32], bytes(12), wrapped, aad, f"{name} or config")
    return {epoch: secrets[32 * at :][:32] for at, epoch in enumerate(epochs)}


class Keys:
    """Section 6."""

    def __init__(self, masters, repository):
        self.repository, master = repository, masters[0]
        self.sealing = {
            epoch: hkdf(secret, repository, b"abbild v1 sealing epoch %d" % epoch, 32)
            for epoch, secret in masters.items()
        }
        data_ids = hkdf(master, repository, b"abbild v1 data chunk ids", 32)
        map_ids = hkdf(master, repository, b"abbild v1 map chunk ids", 32)
        self.ids = {1: data_ids, 2: map_ids}  # by the kind of pack that holds such chunks

    def chunk_id(self, pack_kind, plain):
        return blake3(plain, key=self.ids[pack_kind]).digest()[:ID]


class Sealed:
    """Section 7: a sealed object whose header and commitment have been verified."""

    def __init__(self, keys, name, header):
        self.name, self.header, self.repository = name, take(header, 0, HEADER), keys.repository
        need(self.header[:8] == b"ABBILDs1", f"{name}: magic")
        self.kind = self.header[8]
        need(self.kind in KINDS[name.split("/")[0]], f"{name}: kind {self.kind}")
        epoch = int.from_bytes(self.header[10:12], "little")
        sound = self.header[9] == 1 and epoch in keys.sealing and self.header[12:16] == bytes(4)
        need(sound, f"{name}: a later version, a newer key, or damage in its header")
        info = b"abbild v1 object" + self.header[8:16] + keys.repository + name.encode()
        output = hkdf(keys.sealing[epoch], self.header[16:48], info, 64)
        need(hmac.compare_digest(output[32:], self.header[48:]), f"{name}: key commitment")
        self.key = output[:32]

    def part(self, number, sealed, declared=None):
        declared = len(sealed) - TAG if declared is None else declared
        need(len(sealed) >= TAG, f"{self.name}: part {number} is shorter than a tag")
        numbers = number.to_bytes(8, "little")
        aad = self.header + self.repository + numbers + declared.to_bytes(8, "little") + self.name.encode()
        return gcm_open(self.key, bytes(4) + numbers, sealed, aad, f"{self.name}: part {number}")


def small_object(keys, name, data):
    """Section 10: the payload of a small sealed object."""
    need(len(data) >= HEADER + TAG + 32, f"{name}: too short")
    need(blake3(data[:-32]).digest() == data[-32:], f"{name}: wrong checksum")
    plain = Sealed(keys, name, data).part(0, data[HEADER:-32])
    return unzstd(take(plain, 8, u64(plain, 0)), OBJECT_MAX, name)


def parse_directory(data, end):
    """Section 8.2: [(blob at, sealed length, plain length, codec, [(chunk id, at, length)])]."""
    at, blob_at, blobs = 4, HEADER, []
    for _ in range(u32(data, 0)):
        sealed, plain, codec, count = u32(data, at), u32(data, at + 4), take(data, at + 8, 1)[0], u32(data, at + 9)
        need(codec in (0, 1, 2), f"directory: codec {codec} is not known")
        need(TAG <= sealed <= BLOB_MAX + TAG and plain <= BLOB_MAX, "directory: a blob beyond the limits")
        need(blob_at + sealed <= end, "directory: a blob leaves the pack")
        at, chunks, chunk_at = at + 13, [], 0
        for _ in range(count):
            chunk_id, length = take(data, at, ID), u32(data, at + ID)
            need(0 < length <= min(CHUNK_MAX, plain - chunk_at), "directory: a chunk leaves its blob")
            chunks.append((chunk_id, chunk_at, length))
            at, chunk_at = at + ID + 4, chunk_at + length
        need(chunk_at == plain, "directory: chunks do not cover their blob")
        blobs.append((blob_at, sealed, plain, codec, chunks))
        blob_at += sealed
    need(at == len(data), "directory: bytes after its last blob")
    return blobs


def converted(chunk, base, convert):
    """Section 8.1.1: a chunk with the fields of its instructions converted."""
    chunk, i = bytearray(chunk), 0
    while i + 6 <= len(chunk):
        first, second = chunk[i], chunk[i + 1]
        if first & 0xFE == 0xE8:
            field = i + 1
        elif first == 0x0F and second & 0xF0 == 0x80:
            field = i + 2
        elif (first & 0xF9 == 0x89 or first & 0xFD == 0x39) and second & 0xC7 == 0x05:
            field = i + 2
        else:
            i += 1
            continue
        if chunk[field + 3] in (0x00, 0xFF):
            value = convert(u32(chunk, field), base + field + 4)
            chunk[field : field + 4] = value.to_bytes(4, "little")
        i = field + 4
    return bytes(chunk)


def near(value):
    """S of section 8.1.1."""
    value &= (1 << 25) - 1
    return value | 0xFE000000 if value >> 24 else value


def distance(target, behind):
    """What was a target after filtering."""
    if target == 0:
        return 0
    return near(target - behind) or near(-behind)


class Pack:
    """Section 8: a pack with its trailer, header, locator and directory verified."""

    def __init__(self, keys, store, name):
        self.keys, self.name, self.data = keys, name, store.read(name, PACK_MAX)
        need(re.fullmatch(r"packs/([0-9a-f]{2})/\1[0-9a-f]{30}", name), f"{name}: not the name of a pack")
        need(len(self.data) >= HEADER + 92, f"{name}: too short")
        need(self.data[-8:] == b"ABBILDt1", f"{name}: trailer magic")
        length = u32(self.data, len(self.data) - 44)
        self.body_len = len(self.data) - length
        fits = self.body_len >= HEADER and length == 92 + 32 * -(-self.body_len // STRIPE)
        need(fits, f"{name}: trailer length")
        self.trailer = self.data[self.body_len :]
        need(blake3(self.trailer[:-40]).digest() == self.trailer[-40:-8], f"{name}: trailer checksum")
        self.sealed = Sealed(keys, name, self.data)
        locator = self.sealed.part(LOCATOR_PART, self.trailer[: LOCATOR + TAG])
        at, plain = u64(locator, 0), u64(locator, 8)
        need(at >= HEADER and at + plain + TAG <= self.body_len, f"{name}: the directory leaves the pack")
        directory = self.sealed.part(DIRECTORY_PART, self.data[at : at + plain + TAG])
        self.blobs = parse_directory(directory, at)
        self.record = (self.sealed.kind, len(self.data), self.sealed.header, directory)
        self.store, self.data = store, None  # blobs are read one by one: packs are large

    def blob(self, number):
        """The chunks of a blob by id, every id verified."""
        at, sealed, plain_len, codec, chunks = self.blobs[number]
        with open(os.path.join(self.store.root, self.name), "rb") as file:
            file.seek(at)
            packed = self.sealed.part(number, file.read(sealed), plain_len)
        what = f"{self.name}: blob {number}"
        plain = unzstd(packed, plain_len, what) if codec else packed
        need(len(plain) == plain_len, f"{what}: {len(plain)} plain bytes instead of {plain_len}")
        found = {}
        for chunk_id, chunk_at, length in chunks:
            chunk = plain[chunk_at : chunk_at + length]
            if codec == 2:
                chunk = converted(chunk, chunk_at, distance)
            need(self.keys.chunk_id(self.sealed.kind, chunk) == chunk_id, f"{what}: a chunk has another id")
            found[chunk_id] = chunk
        return found

    def check(self):
        data = self.store.read(self.name, PACK_MAX)
        for number, at in enumerate(range(0, self.body_len, STRIPE)):
            stripe = data[at : min(at + STRIPE, self.body_len)]
            expected = self.trailer[LOCATOR + TAG + 32 * number :][:32]
            need(blake3(stripe).digest() == expected, f"{self.name}: stripe {number}")
        for number in range(len(self.blobs)):
            self.blob(number)


class Repository:
    def __init__(self, root, passphrase=None, key_file=None):
        self.store = Store(root)
        config = self.store.read("config", TEXT_MAX)
        repository, config_hash = configuration(config), blake3(config).digest()
        slots = self.store.names("keys")
        need(len(slots) <= SLOTS_MAX, "more than 16 key slots")
        opened = (open_slot(name, self.store.read(name, TEXT_MAX), config_hash, passphrase, key_file) for name in slots)
        masters = max((masters for masters in opened if masters is not None), key=len, default=None)
        need(masters is not None, "the secret opens no key slot")
        self.keys, self.places, self.recent = Keys(masters, repository), None, OrderedDict()

    def small(self, name):
        return small_object(self.keys, name, self.store.read(name, OBJECT_MAX))

    def manifest(self, backup):
        """Section 10.1."""
        manifest = parse_json(self.small(f"manifests/{backup}"))
        need(field(manifest, "version", int) == 1, f"manifest version {manifest['version']} is not supported")
        need(field(manifest, "backup", str) == backup, f"manifests/{backup}: is backup {manifest['backup']}")
        return manifest

    def manifests(self):
        return [self.manifest(name.split("/")[1]) for name in self.store.names("manifests")]

    def chunk(self, chunk_id, pack_kind, what):
        """A chunk by its id, found through the packs' own directories."""
        if self.places is None:
            self.places = {}
            for name in self.store.names("packs"):
                pack = Pack(self.keys, self.store, name)
                for number, blob in enumerate(pack.blobs):
                    self.places.update({(pack.sealed.kind, chunk[0]): (pack, number) for chunk in blob[4]})
        need((pack_kind, chunk_id) in self.places, f"{what}: chunk {chunk_id.hex()} is in no pack")
        place = self.places[pack_kind, chunk_id]
        if place not in self.recent:
            self.recent[place] = place[0].blob(place[1])
        self.recent.move_to_end(place)
        if len(self.recent) > 64:
            self.recent.popitem(last=False)
        return self.recent[place][chunk_id]

    def ids(self, chunk_id, count, what):
        """Section 9: a root or node."""
        if chunk_id == ZERO_ID:
            return [ZERO_ID] * count
        data = self.chunk(chunk_id, 2, what)
        need(len(data) == ID * count, f"{what}: {len(data)} bytes instead of {count} ids")
        return [data[at : at + ID] for at in range(0, len(data), ID)]

    def segment(self, list_id, length, what):
        """Section 9: the bytes of one segment; None for zeros."""
        if list_id == ZERO_ID:
            return None
        entries, at, out = self.chunk(list_id, 2, what), 0, bytearray()
        while at < len(entries):
            word, at = u32(entries, at), at + 4
            run = word & 0x7FFFFFFF
            need(0 < run <= length - len(out), f"{what}: an entry leaves its segment")
            if word >> 31:
                chunk, at = self.chunk(take(entries, at, ID), 1, what), at + ID
                need(len(chunk) == run, f"{what}: a chunk has {len(chunk)} bytes instead of {run}")
                out += chunk
            else:
                out += bytes(run)
        need(len(out) == length, f"{what}: entries cover {len(out)} of {length} bytes")
        return out

    def write_segments(self, lists, size, target, what):
        """Writes the segments to a sparse file; to nowhere, for --check, if there is no target."""
        if target is None:
            for number, list_id in enumerate(lists):
                self.segment(list_id, min(SEGMENT, size - number * SEGMENT), f"{what}, segment {number}")
            return
        with open(target, "wb") as file:
            for number, list_id in enumerate(lists):
                data = self.segment(list_id, min(SEGMENT, size - number * SEGMENT), f"{what}, segment {number}")
                if data is not None:
                    file.seek(number * SEGMENT)
                    file.write(data)
            file.truncate(size)

    def extract_disk(self, manifest, number, target):
        disks = field(manifest, "disks", list)
        need(0 <= number < len(disks), f"the backup has {len(disks)} disks")
        size, root = field(disks[number], "size", int), hex_bytes(field(disks[number], "root", str), ID)
        need(0 <= size <= DISK_MAX, f"a disk of {size} bytes")
        segments, what = -(-size // SEGMENT), f"disk {number}"
        nodes = self.ids(root, -(-segments // NODE_SEGMENTS), f"{what}: root")
        counts = (min(NODE_SEGMENTS, segments - at * NODE_SEGMENTS) for at in range(len(nodes)))
        lists = (one for node, count in zip(nodes, counts) for one in self.ids(node, count, f"{what}: node"))
        self.write_segments(lists, size, target, what)

    def extract_file(self, manifest, name, target):
        record = next((one for one in field(manifest, "files", list) if field(one, "name", str) == name), None)
        need(record is not None, f"the backup has no file {name!r}")
        size, lists = field(record, "len", int), [hex_bytes(one, ID) for one in field(record, "segments", list)]
        need(len(lists) == -(-size // SEGMENT), f"file {name!r}: {len(lists)} segments for {size} bytes")
        self.write_segments(lists, size, target, f"file {name!r}")

    def check(self):
        """Every byte of every object; index segments must repeat what their packs say (section 10.2)."""
        for name in self.store.names("keys"):
            plain_object(name, self.store.read(name, TEXT_MAX), 3)
        packs = {}
        for name in self.store.names("packs"):
            pack = Pack(self.keys, self.store, name)
            pack.check()
            packs[name[-32:]] = pack.record
        for name in self.store.names("index"):
            data, at = self.small(name), 4
            for _ in range(u32(data, 0)):
                pack_id, kind, length = take(data, at, 16).hex(), take(data, at + 16, 1)[0], u64(data, at + 17)
                header, directory = take(data, at + 25, HEADER), take(data, at + 109, u32(data, at + 105))
                record = (kind, length, header, directory)
                need(packs.get(pack_id, record) == record, f"{name}: says something else of pack {pack_id}")
                at += 109 + len(directory)
            need(at == len(data), f"{name}: bytes after its last pack")
        for name in self.store.names("sessions"):
            need(field(parse_json(self.small(name)), "session", str) == name.split("/")[1], f"{name}: session id")
        for name in self.store.names("generations"):
            number = name.split("/")[1]
            need(re.fullmatch("[0-9]{12,}", number), f"{name}: not a number")
            need(field(parse_json(self.small(name)), "generation", int) == int(number), f"{name}: number")
        for manifest in self.manifests():
            for number in range(len(field(manifest, "disks", list))):
                self.extract_disk(manifest, number, None)
            for record in field(manifest, "files", list):
                self.extract_file(manifest, record["name"], None)


def main():
    parser = argparse.ArgumentParser(description="independent reader of Abbild repositories (format 1)")
    parser.add_argument("repository")
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--password-file", help="its first line is the passphrase")
    secret.add_argument("--key-file")
    parser.add_argument("--backup", metavar="ID")
    parser.add_argument("--disk", type=int, metavar="N")
    parser.add_argument("--file", metavar="NAME")
    parser.add_argument("--to", metavar="FILE")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    wanted = (options.disk is not None) + (options.file is not None)
    if (options.backup is None) != (options.to is None) or wanted != (options.backup is not None):
        parser.error("--backup ID wants --disk N or --file NAME, and --to FILE")
    try:
        passphrase = key_file = None
        if options.password_file:
            with open(options.password_file, "rb") as file:
                passphrase = file.read().split(b"\n")[0]
        else:
            with open(options.key_file, encoding="ascii", errors="replace") as file:
                key_file = key_file_secret(file.read(KEY_FILE_MAX))
        repository = Repository(options.repository, passphrase, key_file)
        if options.check:
            repository.check()
        elif options.backup:
            manifest = repository.manifest(options.backup)
            if options.disk is not None:
                repository.extract_disk(manifest, options.disk, options.to)
            else:
                repository.extract_file(manifest, options.file, options.to)
        else:
            for one in sorted(repository.manifests(), key=lambda manifest: manifest["instant"]):
                print(json.dumps({name: one[name] for name in ("backup", "machine", "instant", "disks")}))
    except (Wrong, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
