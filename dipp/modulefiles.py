"""Find the file of a module by its name.

Theory of operation: a name is searched in the uplinked modules of the state directory first, then
among those that ship with the product, whose families (packages such as `modules/aurora`) follow
their parent. Only regular files directly in those directories count; symbolic links do not, so
nothing leads out of them. The content is hashed, and the hash goes with
the chain to the host, which refuses a file that changed meanwhile. What was uplinked is checked
for its signature, if the node asks for one. Nothing of a module is executed
or parsed here. Source: dipp.md 13, defects D8, D12, D21; faults 46, 47, 53.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dipp.config.definition import MODULE_NAME
from dipp.errors import Code, ContentError

_Read = Callable[[int], bytes]

SUFFIXES = (".py", ".so")
# The same bound as the loader's: larger than any module with its static libraries.
MODULE_LIMIT_BYTES = 64 << 20
# Cheap necessary conditions; the host finds out for certain.
_MENTIONS_RUN = {".py": re.compile(rb"\brun\b"), ".so": re.compile(rb"run\0")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFile:
    """A module file as it was when it was looked at; `sha256` is hexadecimal."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class _Seen:
    identity: tuple[int, int, int, int]
    file: ModuleFile
    mentions_run: bool


def packaged_modules() -> Path:
    """Return the directory of the modules that ship with the product."""
    with resources.as_file(resources.files("modules")) as path:
        return path


def _families(directory: Path) -> list[Path]:
    """Return the packages in a directory, by name: modules that share code of their own."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return []
    return [
        Path(entry.path)
        for entry in entries
        if entry.is_dir(follow_symlinks=False) and os.path.isfile(f"{entry.path}/__init__.py")
    ]


def _trust_all(file_name: str, sha256: bytes) -> None:
    """Let every file pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplinked:
    """The directory of uplinked files, and who may be used of them.

    `check` is called with file name and SHA-256, and raises ContentError (519).
    """

    directory: Path
    check: Callable[[str, bytes], None] = _trust_all


class ModuleLibrary:
    """The module files that chains may use."""

    def __init__(self, directories: Sequence[Path], uplinked: Uplinked | None = None) -> None:
        """Search these directories in this order, each before its families; they need not exist.

        `uplinked` comes before them all.
        """
        self._uplinked = uplinked
        if uplinked is not None:
            directories = (uplinked.directory, *directories)
        self._directories = tuple(
            place for directory in directories for place in (directory, *_families(directory))
        )
        self._seen: dict[Path, _Seen] = {}

    def find(self, name: str) -> ModuleFile:
        """Return the current file of a module.

        Raises ContentError: 501 if there is none that can be read, 502 if it has no `run`, 519 if
        its signature is missing or wrong.
        """
        if not MODULE_NAME.fullmatch(name):
            raise ContentError(f"module name {name!r} is not allowed", Code.MODULE_NOT_FOUND)
        for directory in self._directories:
            for suffix in SUFFIXES:
                seen = self._look(name, directory / f"{name}{suffix}")
                if seen is None:
                    continue
                if not seen.mentions_run:
                    raise ContentError(f"{seen.file.path} has no run", Code.MODULE_NO_RUN)
                return seen.file
        raise ContentError(f"module {name} not found", Code.MODULE_NOT_FOUND)

    def check_beside(self, file: ModuleFile, names: Iterable[str]) -> None:
        """Check those files that lie beside an uplinked module under these names: its models.

        Raises ContentError (519).
        """
        uplinked = self._uplinked
        if uplinked is None or file.path.parent != uplinked.directory:
            return
        for name in names:
            if os.path.basename(name) == name and (uplinked.directory / name).is_file():
                self._look(name, uplinked.directory / name)

    def _look(self, name: str, path: Path) -> _Seen | None:
        try:
            # Non-blocking, so that a fifo in the place of a module cannot hang the node.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(path, flags)
            # Not two calls in one line: of a directory the second refuses to be the owner.
            try:
                with open(fd, "rb", closefd=False) as file:
                    return self._read(name, path, os.fstat(fd), file.read)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ContentError(f"module {path}: {error}", Code.MODULE_NOT_FOUND) from error

    def _read(self, name: str, path: Path, status: os.stat_result, read: _Read) -> _Seen:
        if not stat.S_ISREG(status.st_mode) or status.st_size > MODULE_LIMIT_BYTES:
            raise ContentError(f"module {path} is not a plain file", Code.MODULE_NOT_FOUND)
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        seen = self._seen.get(path)
        if seen is None or seen.identity != identity:
            content = read(MODULE_LIMIT_BYTES)
            digest = hashlib.sha256(content)
            if self._uplinked is not None and path.parent == self._uplinked.directory:
                self._uplinked.check(path.name, digest.digest())
            file = ModuleFile(name=name, path=path, sha256=digest.hexdigest())
            entry = _MENTIONS_RUN.get(path.suffix)
            mentions_run = entry is not None and entry.search(content) is not None
            seen = self._seen[path] = _Seen(identity, file, mentions_run)
        return seen
