"""Keep a memory area in a file so that no crash and no single flipped bit loses it.

Theory of operation: the file holds the image as the flown software has it, so flown tools can read
it, and then a trailer with a generation number and a checksum. A flush writes a complete new file
`NAME.new`, syncs it, renames the present file to `NAME.old`, the new one to `NAME`, and syncs the
directory. Whenever the process dies or the power goes, at least one of the three names holds a
complete image, not older than the last flush that returned. `load` takes the valid one with the
highest generation. A file without trailer, as the flown software writes it, is taken as it is.
Driver. Source: dipp.md 4, faults 59, 60, 63, 64.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from csp.crc import crc32c
from csp.errors import MisuseError
from csp.vmem.area import AreaKind, StoreError, check_range

_MAGIC = b"VMEMIMG1"
_TRAILER = struct.Struct("<8sQQI")  # magic, generation, image size, CRC32C of all before it
TRAILER_BYTES = _TRAILER.size
_CRC_BYTES = 4


class FileOps(Protocol):
    """The system calls of a flush and a load; tests replace them to make the Nth one fail."""

    def open(self, path: str, flags: int) -> int:
        """Open a file or directory and return its descriptor."""

    def write(self, fd: int, data: bytes) -> int:
        """Write some of the data and return how much."""

    def fsync(self, fd: int) -> None:
        """Make a file or directory durable."""

    def close(self, fd: int) -> None:
        """Close a descriptor."""

    def rename(self, old: str, new: str) -> None:
        """Rename a file, replacing what has the new name."""

    def unlink(self, path: str) -> None:
        """Remove a file."""

    def read(self, path: str, limit: int) -> bytes:
        """Return at most `limit` bytes from the start of a file."""


class SystemFileOps:
    """The real system calls."""

    def open(self, path: str, flags: int) -> int:
        """Open a file or directory and return its descriptor."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes) -> int:
        """Write some of the data and return how much."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        """Make a file or directory durable."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """Rename a file, replacing what has the new name."""
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def read(self, path: str, limit: int) -> bytes:
        """Return at most `limit` bytes from the start of a file."""
        with open(path, "rb") as file:
            return file.read(limit)


class Source(Enum):
    """Where the image came from when the area was loaded."""

    EMPTY = "no file: all zero"
    PRIMARY = "the file"
    NEW = "the complete new copy of an interrupted flush"
    OLD = "the previous copy"
    RAW = "a file without checksum, as flown"
    LOST = "all copies damaged: all zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What loading found. `damaged` names the copies that were there but not usable, and why."""

    source: Source
    generation: int = 0
    damaged: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.source.value} (generation {self.generation})"
        return f"{text}; damaged: {', '.join(self.damaged)}" if self.damaged else text


@dataclass(frozen=True, slots=True)
class _Copy:
    """One readable copy; generation None means without trailer."""

    image: bytes
    generation: int | None


def encode_image(image: bytes, generation: int) -> bytes:
    """Return image and trailer: the content of a file."""
    head = _TRAILER.pack(_MAGIC, generation, len(image), 0)[:-_CRC_BYTES]
    body = image + head
    return body + struct.pack("<I", crc32c(body))


def decode_image(data: bytes, size: int) -> tuple[bytes, int | None]:
    """Return the image and its generation, None without trailer. Raises ValueError if damaged."""
    if len(data) > size + TRAILER_BYTES:
        raise ValueError("longer than the area")
    if len(data) >= TRAILER_BYTES:
        magic, generation, stored, crc = _TRAILER.unpack_from(data, len(data) - TRAILER_BYTES)
        if crc32c(data[:-_CRC_BYTES]) == crc and magic == _MAGIC:
            if stored != len(data) - TRAILER_BYTES:
                raise ValueError("size does not match")
            return data[:stored], generation
    if len(data) > size:
        raise ValueError("checksum mismatch")
    return data, None


class FileArea:
    """An area in a file, complete in memory. One process at a time may have it.

    `report` says what was found when it was made; making it never fails because of the files.
    """

    kind: int = AreaKind.FILE

    def __init__(
        self,
        name: str,
        path: Path | str,
        size: int,
        address: int = 0,
        ops: FileOps | None = None,
    ) -> None:
        if size < 1 or address < 0 or not name:
            raise MisuseError(f"area {name!r} needs a name, a size and an address from 0 on")
        self.name = name
        self.address = address
        self.size = size
        self.path = str(path)
        self._ops: FileOps = ops if ops is not None else SystemFileOps()
        self._generation = 0
        # Whether the file under the plain name is worth keeping as the previous copy.
        self._primary_good = False
        self._dirty = False
        self._image = bytearray(size)
        self.report = self._load()
        self.fresh = self.report.source in (Source.EMPTY, Source.LOST)

    # -- memory

    @property
    def dirty(self) -> bool:
        """Whether something was written since the last flush."""
        return self._dirty

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes. Raises MisuseError outside the area."""
        check_range(self, offset, length)
        return bytes(self._image[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes to memory; `flush` makes them durable. Raises MisuseError outside."""
        check_range(self, offset, len(data))
        if self._image[offset : offset + len(data)] != data:
            self._image[offset : offset + len(data)] = data
            self._dirty = True

    # -- disk

    def flush(self) -> None:
        """Make the image durable if it has changed; does nothing else.

        Raises StoreError, and then the image on disk is the old or the new one, and a later flush
        tries again.
        """
        if not self._dirty:
            return
        new = f"{self.path}.new"
        self._generation += 1
        try:
            self._write_file(new, encode_image(bytes(self._image), self._generation))
            self._rotate(new)
        except OSError as error:
            raise StoreError(f"cannot store area {self.name}: {error}") from error
        self._dirty = False

    def _rotate(self, new: str) -> None:
        """Make a complete, synced file the present one, and the present one the previous one."""
        if self._primary_good:
            self._primary_good = False
            self._ops.rename(self.path, f"{self.path}.old")
        self._ops.rename(new, self.path)
        self._primary_good = True
        self._sync(os.path.dirname(self.path) or ".", os.O_RDONLY | os.O_DIRECTORY)

    def _write_file(self, path: str, content: bytes) -> None:
        fd = self._ops.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            position = 0
            while position < len(content):
                written = self._ops.write(fd, content[position:])
                if written <= 0:
                    raise OSError("nothing written")
                position += written
            self._ops.fsync(fd)
        finally:
            self._ops.close(fd)

    def _sync(self, path: str, flags: int) -> None:
        fd = self._ops.open(path, flags)
        try:
            self._ops.fsync(fd)
        finally:
            self._ops.close(fd)

    def _read_copy(self, path: str, damaged: list[str]) -> _Copy | None:
        try:
            data = self._ops.read(path, self.size + TRAILER_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            damaged.append(f"{os.path.basename(path)}: {error.strerror or error}")
            return None
        try:
            image, generation = decode_image(data, self.size)
        except ValueError as error:
            damaged.append(f"{os.path.basename(path)}: {error}")
            return None
        return _Copy(image, generation)

    def _load(self) -> LoadReport:
        damaged: list[str] = []
        primary = self._read_copy(self.path, damaged)
        # An unfinished new copy is what an interrupted flush leaves, not damage.
        new = self._read_copy(f"{self.path}.new", [])
        old = self._read_copy(f"{self.path}.old", damaged)
        source, chosen = self._choose(primary, new, old)
        copies = [copy for copy in (primary, new, old) if copy is not None]
        self._generation = max((copy.generation or 0 for copy in copies), default=0)
        if chosen is None:
            source = Source.LOST if damaged else Source.EMPTY
        else:
            self._image[: len(chosen.image)] = chosen.image
            self._primary_good = primary is not None and (
                primary is chosen or primary.generation is not None
            )
            # Anything else than an intact file is repaired by the next flush.
            self._dirty = source is not Source.PRIMARY
            if source is Source.NEW:
                self._finish_flush()
        generation = (chosen.generation or 0) if chosen is not None else 0
        return LoadReport(source=source, generation=generation, damaged=tuple(damaged))

    def _finish_flush(self) -> None:
        """Do the rest of an interrupted flush, so that the next one does not overwrite its copy."""
        new = f"{self.path}.new"
        try:
            # After a kill the copy may be complete for us but not yet on the medium.
            self._sync(new, os.O_RDONLY)
            self._rotate(new)
        except OSError:
            return  # still dirty: the next flush writes it all again
        self._dirty = False

    def _choose(
        self, primary: _Copy | None, new: _Copy | None, old: _Copy | None
    ) -> tuple[Source, _Copy | None]:
        # A raw file of the full size was put here on purpose. A shorter one may be what a broken
        # file system left of ours, so it counts only if there is nothing better.
        if primary is not None and primary.generation is None and len(primary.image) == self.size:
            return Source.RAW, primary
        ranked = [
            (copy.generation, source, copy)
            for source, copy in ((Source.PRIMARY, primary), (Source.NEW, new), (Source.OLD, old))
            if copy is not None and copy.generation is not None
        ]
        if ranked:
            _, source, chosen = max(ranked, key=lambda row: row[0])
            return source, chosen
        if old is not None and len(old.image) == self.size:
            return Source.OLD, old
        if primary is not None:
            return Source.RAW, primary
        return Source.EMPTY, None
