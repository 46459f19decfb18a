"""Where files come from and results go to: a protocol, directories, and the choice by address.

Driver. A store holds the results of one chain; names in it are relative, with slashes. A directory
becomes a result with one rename, so it is there whole or not at all, and whoever comes second finds
that it is there. What a killed process left lies in `.tmp` and is swept by the next one that holds
the lock. Object stores are in `s3`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from dipp.archive.keys import RESULTS, Input, Unit
from dipp.archive.patterns import MARKER, has_pattern
from dipp.archive.rooms import locked_room, sweep_rooms
from dipp.errors import Code, DippError
from dipp.inputs import SUFFIXES, group_inputs

_S3 = "s3://"
_WORK, _LOCK = ".tmp", ".lock"


class StoreError(DippError):
    """Results cannot be read or written; nothing that was finished is lost."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Code.STORE_FAILED)


class SourceError(DippError):
    """An input cannot be listed or read."""


class Store(Protocol):
    """Where the results of one chain are. Every method raises StoreError."""

    @property
    def uri(self) -> str:
        """Address that makes the same store in another process."""

    def names(self, below: str = RESULTS) -> Mapping[str, int]:
        """Return all files in a directory and below with their sizes in bytes."""

    def read(self, name: str) -> bytes | None:
        """Return a file, None if there is none."""

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Return files in any order."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file: afterwards it is there whole, or as it was."""

    def workroom(self) -> AbstractContextManager[Path]:
        """Give a directory to prepare a result in, gone afterwards."""

    def commit(self, work: Path, name: str) -> bool:
        """Make a directory of files a result. False if it was one already."""

    def remove(self, name: str) -> None:
        """Remove a result, its record first."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep others from writing, where the store can, and sweep what the dead left."""


class Folder:
    """A store in a directory, also one that several machines share."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def uri(self) -> str:
        """Return the path."""
        return str(self._root)

    def names(self, below: str = RESULTS) -> Mapping[str, int]:
        """Return all files in a directory and below with their sizes in bytes."""
        found: dict[str, int] = {}
        with _as_store_error(f"{self._root} cannot be listed"):
            for folder, _, files in os.walk(self._root / below, onerror=_raise_unless_absent):
                for file in files:
                    path = os.path.join(folder, file)
                    found[os.path.relpath(path, self._root)] = os.stat(path).st_size
        return found

    def read(self, name: str) -> bytes | None:
        """Return a file, None if there is none."""
        with _as_store_error(f"{self._root / name} cannot be read"):
            try:
                return (self._root / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Return files in the order of the names."""
        for name in names:
            yield name, self.read(name)

    def write(self, name: str, data: bytes) -> None:
        """Write a file: afterwards it is there whole, or as it was."""
        with _as_store_error(f"{self._root / name} cannot be written"), self._room() as room:
            path = room / "file"
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            (self._root / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, self._root / name)

    @contextlib.contextmanager
    def workroom(self) -> Iterator[Path]:
        """Give a directory to prepare a result in, gone afterwards."""
        with contextlib.ExitStack() as stack:
            with _as_store_error(f"{self._root} cannot be written"):
                room = stack.enter_context(self._room())
            yield room

    @contextlib.contextmanager
    def _room(self) -> Iterator[Path]:
        work = self._root / _WORK
        work.mkdir(parents=True, exist_ok=True)
        with locked_room(work) as room:
            yield room

    def commit(self, work: Path, name: str) -> bool:
        """Make a directory of files a result. False if it was one already."""
        target = self._root / name
        with _as_store_error(f"{target} cannot be written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                # mkdtemp made it for its owner alone; results are as readable as other files.
                os.chmod(work, 0o777 & ~_umask())
                os.rename(work, target)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
        return True

    def remove(self, name: str) -> None:
        """Remove a result whole: it is moved away first."""
        with (
            _as_store_error(f"{self._root / name} cannot be removed"),
            self._room() as room,
            contextlib.suppress(FileNotFoundError),
        ):
            os.rename(self._root / name, room / "old")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from writing and sweep what the dead left."""
        with _as_store_error(f"{self._root} cannot be written"):
            self._root.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                text = f"another dipp archive is writing to {self._root}; wait for it or stop it"
                raise StoreError(text) from error
            except OSError as error:
                raise StoreError(f"{self._root} cannot be locked: {error.strerror}") from error
            sweep_rooms(self._root / _WORK)
            yield
        finally:
            os.close(fd)


def _umask() -> int:
    # Linux tells it without a change that other threads would see.
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextlib.contextmanager
def _as_store_error(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "; make room and run the same command again"
        raise StoreError(f"{what}: {error.strerror or error}{hint}") from error


# -- choice by address


def open_store(uri: str) -> Store:
    """Open the store of one chain by its address. Raises StoreError."""
    if uri.startswith(_S3):
        from dipp.archive.s3 import Bucket

        return Bucket(uri)
    return Folder(Path(os.path.abspath(uri)))


def join_uri(base: str, name: str) -> str:
    """Return the address of something inside a directory or prefix."""
    return f"{base.rstrip('/')}/{name}" if base.startswith(_S3) else os.path.join(base, name)


def list_inputs(source: str) -> list[Input]:
    """Return the files of a directory, file, glob or s3 address, by name.

    Directories give what can be read here and leave out results of archives; a file that is named
    is taken whatever it is. Raises SourceError if there is nothing or it cannot be listed.
    """
    if source.startswith(_S3):
        from dipp.archive.s3 import list_objects

        found = list_objects(source)
    else:
        found = _list_local(source)
    if not found:
        raise SourceError(f"{source}: no files that can be read here; see dipp archive --help")
    return found


def is_wanted(name: str) -> bool:
    """Say whether a file of a directory can be read here, by its name."""
    base = name.rpartition("/")[2]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")


def make_units(inputs: Iterable[Input]) -> list[Unit]:
    """Put files together as `dipp run` does; a file that was listed twice counts once."""
    known = {each.uri: each for each in inputs}
    entries = list(known.values())
    # Readers group by the base name; the number before it says which file it was.
    paths = [Path(str(number)) / each.name for number, each in enumerate(entries)]
    return [
        Unit(inputs=tuple(entries[int(path.parts[0])] for path in group))
        for group in group_inputs(paths)
    ]


def fetch(entry: Input, room: Path) -> Path:
    """Return a local file with the content of an input. Raises OSError, SourceError."""
    if entry.uri.startswith(_S3):
        from dipp.archive.s3 import download

        return download(entry, room)
    return Path(entry.uri)


def _list_local(source: str) -> list[Input]:
    if not os.path.lexists(source) and has_pattern(source):
        paths = sorted(glob.glob(source, recursive=True, include_hidden=False))
        found = {each.uri: each for path in paths for each in _list_path(path, named=False)}
        return list(found.values())
    if not os.path.lexists(source):
        raise SourceError(f"{source}: no such file or directory, and no pattern that matches")
    return _list_path(source, named=True)


def _list_path(path: str, *, named: bool) -> list[Input]:
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return list(_walk(path))
    return [_input_of(path)] if named or is_wanted(path) else []


def _walk(root: str) -> Iterator[Input]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename} cannot be listed: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        # The results of an archive inside are no inputs of another one.
        if MARKER in files:
            folders[:] = []
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(folder, name)
            if is_wanted(name) and os.path.isfile(path):
                yield _input_of(path)


def _input_of(path: str) -> Input:
    try:
        status = os.stat(path)
    except OSError as error:
        # It is told when it is read, like any other file that cannot be.
        return Input(uri=path, size_bytes=0, stamp=f"errno {error.errno}")
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path} is no file")
    return Input(uri=path, size_bytes=status.st_size, stamp=str(status.st_mtime_ns))
