"""The journal on disk: append-only, checksummed, compacted, readable after a kill at any byte.

Theory of operation: `append` writes one record with one write call and applies it to the state; a
record that cannot be written is not applied. On opening, a torn tail is cut off and damaged
records are skipped and counted. Compaction writes the state to a temporary file, syncs and
renames it, so that either the old or the new journal exists. Source: design.md 3 and 9.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from dipp.errors import MisuseError
from dipp.records import (
    FILE_MAGIC,
    PAYLOAD_MAX_BYTES,
    RECORD_HEAD_BYTES,
    Record,
    State,
    encode_record,
    scan,
)

# Some thousand batches; small enough to be read and rewritten in a few milliseconds.
COMPACT_BYTES = 1 << 20
_TEMPORARY_SUFFIX = ".new"


class Journal:
    """The fates of batches. `state` is what all records add up to."""

    def __init__(
        self, path: Path, *, durable: bool = True, compact_bytes: int = COMPACT_BYTES
    ) -> None:
        """Open or create the journal. Raises OSError."""
        self._path = path
        self._durable = durable
        self._compact_bytes = compact_bytes
        self.state = State()
        self.damaged_bytes = 0
        self.compact_failures = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = self._recover()

    def _recover(self) -> int:
        data = self._read_all()
        if not data.startswith(FILE_MAGIC):
            # Shorter: killed while being created. Other content: not ours, nothing can be saved.
            self.damaged_bytes += len(data)
            os.ftruncate(self._fd, 0)
            _write_all(self._fd, FILE_MAGIC, 0)
            _reserve(self._fd, self._compact_bytes)
            self._sync()
            return len(FILE_MAGIC)
        records, end, skipped = scan(data)
        self.damaged_bytes += skipped
        for record in records:
            try:
                self.state.apply(record)
            except MisuseError:
                # The record before it was damaged; its own batch is settled at recovery.
                self.damaged_bytes += len(encode_record(record))
        os.ftruncate(self._fd, end)
        _reserve(self._fd, self._compact_bytes)
        return end

    def _read_all(self) -> bytes:
        size = os.fstat(self._fd).st_size
        data = bytearray()
        while len(data) < size:
            piece = os.pread(self._fd, size - len(data), len(data))
            if not piece:
                break
            data += piece
        return bytes(data)

    def append(self, record: Record) -> None:
        """Write a record and apply it. Raises MisuseError if it cannot follow, OSError."""
        trial = State(self.state.totals, self.state.last_batch, dict(self.state.open))
        trial.apply(record)
        data = encode_record(record)
        _write_all(self._fd, data, self._size)
        self._sync()
        self._size += len(data)
        self.state = trial
        if self._size > self._compact_bytes:
            self._try_compact()

    def _try_compact(self) -> None:
        try:
            self.compact()
        except OSError:
            # The disk is full: the record is written, the journal grows until there is room.
            self.compact_failures += 1
            self._compact_bytes = 2 * self._size

    def compact(self) -> None:
        """Rewrite the journal as its state. Raises OSError; the old journal stays then."""
        temporary = self._path.with_name(self._path.name + _TEMPORARY_SUFFIX)
        data = FILE_MAGIC + b"".join(encode_record(r) for r in self.state.snapshot())
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data, 0)
            _reserve(fd, self._compact_bytes)
            os.fsync(fd)
            os.replace(temporary, self._path)
        except OSError:
            os.close(fd)
            raise
        sync_directory(self._path.parent)
        os.close(self._fd)
        self._fd, self._size = fd, len(data)
        # The bound follows a state that is large by itself, or every append would compact.
        self._compact_bytes = max(self._compact_bytes, 2 * len(data))

    def _sync(self) -> None:
        if self._durable:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Give back the descriptor."""
        os.close(self._fd)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _reserve(fd: int, size_bytes: int) -> None:
    """Allocate zeros in advance, so that a full disk cannot stop the journal (fault 63)."""
    with contextlib.suppress(OSError):
        os.posix_fallocate(fd, 0, size_bytes + PAYLOAD_MAX_BYTES + RECORD_HEAD_BYTES)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
