"""The tools that compare.py runs, each with a repository of its own: which commands, and what it calls its backups.

Not in here: what is measured, and in which order. A work that a tool does not do has the command None.
"""

import json
import os
import shlex
import subprocess

PASSWORD = "benchmark"  # guards nothing: the repositories die with the run


class Failed(Exception):
    """The run cannot go on; the text says why."""


def abbild_commands(binary):
    """Abbild's command lines; `{…}` is filled in by the run. The key file comes through the environment."""
    return {
        "init": [binary, "init", "--repo", "{repo}", "--key-file", "{key}"],
        "backup": [binary, "backup", "{image}", "--repo", "{repo}", "--no-progress", "-q", "--json"],
        "restore": [
            binary, "restore", "{backup}", "--repo", "{repo}", "--disk", "0", "--to", "{to}", "--format", "raw",
            "--no-progress", "-q",
        ],
        "check": [binary, "check", "--read-data", "--repo", "{repo}", "--no-progress", "-q"],
        "forget": [binary, "forget", "{backup}", "--repo", "{repo}", "--no-progress", "-q"],
        "prune": [binary, "prune", "--max-unused", "0%", "--repo", "{repo}", "--no-progress", "-q"],
        "version": [binary, "version"],
    }  # fmt: skip


# Members of the JSON object of `abbild backup` that name the backup, in order of preference.
ABBILD_BACKUP_NAME = ("backup", "id", "name")


def abbild_backup_name(output):
    """The name of the backup in what `abbild backup --json` printed."""
    for line in reversed(output.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        name = next((answer[key] for key in ABBILD_BACKUP_NAME if key in answer), None)
        if name is not None:
            return name
    raise Failed(f"abbild backup --json named no backup ({', '.join(ABBILD_BACKUP_NAME)}); it printed: {output!r}")


def both(first, second):
    """One command that runs two, one after the other."""
    return ["sh", "-c", shlex.join(map(str, first)) + " && " + shlex.join(map(str, second))]


class Tool:
    """One tool and one repository in a folder of its own.

    A subclass says with which commands; what it needs between backup and restore it keeps itself.
    """

    name: str
    environment: dict
    program = ""  # what to look for in the path

    def __init__(self, binary):
        self.binary = binary

    def version(self):
        answer = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=False)
        return (answer.stdout or answer.stderr).strip().partition("\n")[0]

    def begin(self, home):
        """A new, empty repository below `home`; not measured."""
        self.home = home
        self.repo = home / "repo"
        # Caches and settings of the person who runs this must neither help nor suffer.
        self.environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": str(home),
            "TMPDIR": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "settings"),
            "XDG_DATA_HOME": str(home / "data"),
        }

    def backup_command(self, day, image):
        """Backs the image up as `day`, a name of no other backup."""
        raise NotImplementedError

    def backup_done(self, day, output):
        """What the backup printed: a tool that names its backups remembers the name."""

    def restore_command(self, day, image, folder):
        raise NotImplementedError

    def restored_file(self, image, folder):
        return folder / "restored.raw"

    def check_command(self):
        """Reads and verifies all data."""

    def prune_command(self, day):
        """Gives up one backup, and all space that nothing else needs."""

    def _prepare(self, command):
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)


class Abbild(Tool):
    name = "abbild"
    program = "abbild"

    def __init__(self, binary):
        super().__init__(binary)
        self.commands = abbild_commands(binary)

    def _command(self, verb, **values):
        return [part.format(repo=self.repo, key=self.home / "key", **values) for part in self.commands[verb]]

    def version(self):
        answer = subprocess.run(self.commands["version"], capture_output=True, text=True, check=False)
        return answer.stdout.strip().partition("\n")[0]

    def begin(self, home):
        super().begin(home)
        self.backups = {}
        self._prepare(self._command("init"))
        self.environment["ABBILD_KEY_FILE"] = str(home / "key")

    def backup_command(self, day, image):
        return self._command("backup", image=image)

    def backup_done(self, day, output):
        self.backups[day] = abbild_backup_name(output)

    def restore_command(self, day, image, folder):
        return self._command("restore", backup=self.backups[day], to=self.restored_file(image, folder))

    def check_command(self):
        return self._command("check")

    def prune_command(self, day):
        return both(self._command("forget", backup=self.backups[day]), self._command("prune"))


class Restic(Tool):
    name = "restic"
    program = "restic"

    def version(self):
        return subprocess.run([self.binary, "version"], capture_output=True, text=True, check=False).stdout.strip()

    def begin(self, home):
        super().begin(home)
        self.backups = {}
        self.environment |= {
            "RESTIC_REPOSITORY": str(self.repo),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(home / "cache"),
        }
        self._prepare([self.binary, "init"])
        usage = subprocess.run([self.binary, "help", "restore"], capture_output=True, text=True, check=True).stdout
        self.sparse = ["--sparse"] if "--sparse" in usage else []  # since 0.15

    def backup_command(self, day, image):
        return [self.binary, "backup", "--quiet", "--json", str(image)]

    def backup_done(self, day, output):
        self.backups[day] = json.loads(output.strip().splitlines()[-1])["snapshot_id"]

    def restore_command(self, day, image, folder):
        return [self.binary, "restore", "--quiet", self.backups[day], "--target", str(folder), *self.sparse]

    def restored_file(self, image, folder):
        return folder / image.relative_to("/")  # restic restores whole paths

    def check_command(self):
        return [self.binary, "check", "--quiet", "--read-data"]

    def prune_command(self, day):
        return [self.binary, "forget", "--quiet", "--prune", "--max-unused", "0", self.backups[day]]


class Rustic(Tool):
    name = "rustic"
    program = "rustic"

    def begin(self, home):
        super().begin(home)
        self.backups = {}
        self.environment |= {
            "RUSTIC_REPOSITORY": str(self.repo),
            "RUSTIC_PASSWORD": PASSWORD,
            "RUSTIC_CACHE_DIR": str(home / "cache"),
            "RUSTIC_NO_PROGRESS": "true",
            "RUSTIC_LOG_LEVEL": "warn",
        }
        self._prepare([self.binary, "init"])

    def backup_command(self, day, image):
        return [self.binary, "backup", "--json", str(image)]

    def backup_done(self, day, output):
        self.backups[day] = json.loads(output)["id"]

    def restore_command(self, day, image, folder):
        source = f"{self.backups[day]}:{image}"
        return [self.binary, "restore", "--sparse", "by-content", source, str(self.restored_file(image, folder))]

    def check_command(self):
        return [self.binary, "check", "--read-data"]

    def prune_command(self, day):
        # Its own default waits for 23 hours, for others that may be at work.
        options = ["--prune", "--max-unused", "0%", "--keep-delete", "0s", "--instant-delete"]
        return [self.binary, "forget", *options, self.backups[day]]


class Borg(Tool):
    """With lz4, its default; cut as its documentation advises for disk images but for the size of a chunk: its own."""

    name = "borg"
    program = "borg"
    compression = "lz4"

    def begin(self, home):
        super().begin(home)
        self.environment |= {
            "BORG_REPO": str(self.repo),
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_BASE_DIR": str(home / "borg"),
        }
        self._prepare([self.binary, "init", "--encryption", "repokey-blake2"])

    def backup_command(self, day, image):
        return [self.binary, "create", "--sparse", "--compression", self.compression, f"::{day}", str(image)]

    def restore_command(self, day, image, folder):
        return ["sh", "-c", 'cd "$1" && exec "$2" extract --sparse "::$3"', "sh", str(folder), self.binary, day]

    def restored_file(self, image, folder):
        return folder / image.relative_to("/")

    def check_command(self):
        return [self.binary, "check", "--verify-data"]

    def prune_command(self, day):
        return both([self.binary, "delete", f"::{day}"], [self.binary, "compact", "--threshold", "0"])


class BorgZstd(Borg):
    name = "borg-zstd"
    program = "borg"
    compression = "zstd,3"


class Casync(Tool):
    """An index file a day over one store of chunks: no encryption, and no check."""

    name = "casync"
    program = "casync"

    def begin(self, home):
        super().begin(home)
        self.repo.mkdir()

    def _index(self, day):
        return str(self.repo / f"{day}.caibx")

    def backup_command(self, day, image):
        return [self.binary, "make", f"--store={self.repo / 'store.castr'}", self._index(day), str(image)]

    def restore_command(self, day, image, folder):
        target = str(self.restored_file(image, folder))
        return [self.binary, "extract", f"--store={self.repo / 'store.castr'}", self._index(day), target]

    def prune_command(self, day):
        others = [str(index) for index in self.repo.glob("*.caibx") if index.name != f"{day}.caibx"]
        return [self.binary, "gc", f"--store={self.repo / 'store.castr'}", *others]


class Copying(Tool):
    """No backup tool: a whole image a day, a file of its own. A subclass says which program copies there and back."""

    suffix = ".raw"

    def begin(self, home):
        super().begin(home)
        self.repo.mkdir()
        self.copies = {}

    def backup_command(self, day, image):
        self.copies[day] = self.repo / f"{len(os.listdir(self.repo))}{self.suffix}"
        return self.copy(image, self.copies[day])

    def restore_command(self, day, image, folder):
        return self.copy_back(self.copies[day], self.restored_file(image, folder))

    def copy(self, image, to):
        raise NotImplementedError

    def copy_back(self, copy, to):
        return self.copy(copy, to)


class Copy(Copying):
    """The floor that any tool stands on."""

    name = "cp"
    program = "cp"

    def copy(self, image, to):
        return [self.binary, "--sparse=always", str(image), str(to)]


class QemuImg(Copying):
    """Compressed images: no deduplication, no encryption."""

    name = "qemu-img"
    program = "qemu-img"
    suffix = ".qcow2"

    def copy(self, image, to):
        options = ["-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd"]
        return [self.binary, "convert", *options, str(image), str(to)]

    def copy_back(self, copy, to):
        return [self.binary, "convert", "-f", "qcow2", "-O", "raw", str(copy), str(to)]


PEERS = {tool.name: tool for tool in (Restic, Rustic, Borg, BorgZstd, Casync, Copy, QemuImg)}
