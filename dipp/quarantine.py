"""Keep the input of failed batches, one file each, bounded in bytes.

Theory of operation: a file is a header (why, when, the queue message) followed by the original
bytes of the batch, written under a temporary name, synced and renamed: the rename is the moment
the batch is quarantined. When there is no room, the oldest files go first and are reported as
dropped; a batch larger than the whole quarantine is not kept. Files left over under temporary
names are removed on opening. Source: design.md 3 and 9, defect D10.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dipp.batch import Reader
from dipp.errors import ContentError
from dipp.journal import sync_directory

DEFAULT_LIMIT_BYTES = 256 << 20
# Pieces between which the caller may serve its bus; well under a second on the slowest flash.
PIECE_BYTES = 4 << 20
_HEADER = struct.Struct("<8sIIIdQHHI")
_MAGIC = b"DIPPQ1\r\n"
_SUFFIX = ".batch"
_TEMPORARY_SUFFIX = ".part"
_REASON_MAX_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a batch is quarantined. `status` is the log_status word, `time_unix` wall clock."""

    batch: int
    status: int
    attempts: int
    time_unix: float
    message: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineEntry:
    """A file of the quarantine."""

    verdict: Verdict
    path: Path
    payload_offset: int
    payload_bytes: int


def encode_header(verdict: Verdict, payload_bytes: int) -> bytes:
    """Return what precedes the original bytes of a batch."""
    reason = verdict.reason.encode(errors="replace")[:_REASON_MAX_BYTES]
    text = verdict.message + reason
    fields = (
        verdict.status,
        verdict.attempts,
        verdict.time_unix,
        verdict.batch,
        len(verdict.message),
        len(reason),
        payload_bytes,
    )
    body = _HEADER.pack(_MAGIC, 0, *fields) + text
    return _HEADER.pack(_MAGIC, zlib.crc32(body), *fields) + text


def decode_header(data: bytes) -> tuple[Verdict, int, int]:
    """Parse a header; return verdict, payload offset, payload size. Raises ContentError."""
    if len(data) < _HEADER.size:
        raise ContentError(f"quarantine header of {len(data)} bytes")
    magic, crc, status, attempts, when, batch, message_bytes, reason_bytes, payload = (
        _HEADER.unpack_from(data)
    )
    end = _HEADER.size + message_bytes + reason_bytes
    zeroed = data[:8] + bytes(4) + data[12:end]
    if magic != _MAGIC or len(data) < end or zlib.crc32(zeroed) != crc:
        raise ContentError("not a quarantine file, or a damaged one")
    middle = _HEADER.size + message_bytes
    verdict = Verdict(
        batch=batch,
        status=status,
        attempts=attempts,
        time_unix=when,
        message=data[_HEADER.size : middle],
        reason=data[middle:end].decode(errors="replace"),
    )
    return verdict, end, payload


class Quarantine:
    """The directory of failed batches. `on_evict` hears the number of each file that goes."""

    def __init__(
        self,
        directory: Path,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        on_evict: Callable[[int], None],
        evicted_through: int = 0,
        durable: bool = True,
    ) -> None:
        """Open or create the directory. Files up to `evicted_through` go. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._on_evict = on_evict
        self._durable = durable
        self._sizes: dict[int, int] = {}
        for path in sorted(directory.iterdir()):
            number = int(path.stem) if path.stem.isdecimal() else None
            if path.suffix == _TEMPORARY_SUFFIX or (number or 0) <= evicted_through > 0:
                path.unlink()
            elif path.suffix == _SUFFIX and number is not None:
                self._sizes[number] = path.stat().st_size

    @property
    def bytes_used(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    @property
    def count(self) -> int:
        """Number of files."""
        return len(self._sizes)

    def holds(self, batch: int) -> bool:
        """Say whether a batch is here."""
        return batch in self._sizes

    def store(self, verdict: Verdict, payload_bytes: int, read: Reader) -> Iterator[None]:
        """Write a batch in pieces; iterate to the end, doing other things between the pieces.

        The batch is quarantined when the iteration has ended. `read` gives the original bytes; what
        it no longer has is written as zeros. Raises ContentError if it is larger
        than the limit or the disk is full even after everything older has gone; OSError.
        """
        header = encode_header(verdict, payload_bytes)
        needed = len(header) + payload_bytes
        if needed > self._limit_bytes:
            raise ContentError(f"batch of {needed} bytes, quarantine holds {self._limit_bytes}")
        while self.bytes_used + needed > self._limit_bytes:
            self._evict_oldest()
        temporary = self._path(verdict.batch).with_suffix(_TEMPORARY_SUFFIX)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._write(fd, header)
            for start in range(0, payload_bytes, PIECE_BYTES):
                size = min(PIECE_BYTES, payload_bytes - start)
                self._write(fd, bytes(read(start, size)).ljust(size, b"\0"))
                if self._durable:
                    os.fdatasync(fd)
                yield
            os.replace(temporary, self._path(verdict.batch))
        except (OSError, ContentError):
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        if self._durable:
            sync_directory(self._directory)
        self._sizes[verdict.batch] = needed

    def _write(self, fd: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if not self._sizes:
                    raise ContentError("disk full and the quarantine already empty") from error
                self._evict_oldest()

    def _evict_oldest(self) -> None:
        batch = min(self._sizes)
        # Told first: after a kill in between the file is still there and goes on opening.
        self._on_evict(batch)
        self._path(batch).unlink(missing_ok=True)
        del self._sizes[batch]

    def remove(self, batch: int) -> None:
        """Delete a file, for example after the operator has looked at it."""
        self._path(batch).unlink(missing_ok=True)
        self._sizes.pop(batch, None)

    def entries(self) -> Iterator[QuarantineEntry]:
        """Yield what is kept, oldest first; files that are damaged are left out."""
        for batch in sorted(self._sizes):
            path = self._path(batch)
            try:
                with path.open("rb") as file:
                    head = file.read(_HEADER.size + 8192 + _REASON_MAX_BYTES)
                verdict, offset, size = decode_header(head)
            except (OSError, ContentError):
                continue
            yield QuarantineEntry(
                verdict=verdict, path=path, payload_offset=offset, payload_bytes=size
            )

    def _path(self, batch: int) -> Path:
        return self._directory / f"{batch:012d}{_SUFFIX}"
