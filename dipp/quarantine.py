"""Keep the input of failed batches, one file each, bounded in bytes.

Theory of operation: a file is a header (why, when, the queue message) followed by the original
bytes of the batch, written under a temporary name, synced and renamed: the rename is the moment
the batch is quarantined. When there is no room, the oldest files go first and are reported as
dropped; a batch larger than the whole quarantine is not kept. Files left over under temporary
names are removed on opening.

A batch that is run again is no longer kept: its file is renamed to its new number as `.replay`,
which no eviction touches and which does not count for the bound. If it fails again, the new verdict
is appended after its bytes and the file renamed back; nothing is copied, so no full disk can lose
it. Source: design.md 3 and 9, defect D10.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dipp.batch import Reader
from dipp.errors import Code, ContentError
from dipp.journal import sync_directory

DEFAULT_LIMIT_BYTES = 256 << 20
# Pieces between which the caller may serve its bus; well under a second on the slowest flash.
PIECE_BYTES = 4 << 20
_HEADER = struct.Struct("<8sIIIdQHHI")
_MAGIC = b"DIPPQ1\r\n"
_SUFFIX = ".batch"
_TEMPORARY_SUFFIX = ".part"
_REPLAY_SUFFIX = ".replay"
_REASON_MAX_BYTES = 1024
# Queue messages have at most 8 KiB, by the kernel.
_HEAD_MAX_BYTES = _HEADER.size + 8192 + _REASON_MAX_BYTES


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


def _later_verdict(data: bytes, first: Verdict, batch: int) -> Verdict:
    """Return the verdict after the bytes of a batch that failed again, else the first one."""
    try:
        later, _, _ = decode_header(data)
    except ContentError:
        later = first
    return replace(later if later.batch == batch else first, batch=batch)


class Quarantine:
    """The directory of failed batches. `on_evict` hears the number of each file that goes."""

    def __init__(
        self,
        directory: Path,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        on_evict: Callable[[int], None],
        evicted_through: int = 0,
        replays: Mapping[int, int] | None = None,
        durable: bool = True,
    ) -> None:
        """Open or create the directory. Files up to `evicted_through` go. Raises OSError.

        `replays` are the batches being run again: new number to the one they had here.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._on_evict = on_evict
        self._durable = durable
        self._sizes: dict[int, int] = {}
        self._sources = dict(replays or {})
        for replay in self._sources:
            self._rename_source(replay)
        for path in sorted(directory.iterdir()):
            number = int(path.stem) if path.stem.isdecimal() else None
            if path.suffix == _REPLAY_SUFFIX:
                if number not in self._sources:
                    # Its batch has its fate; only the removal did not happen any more.
                    path.unlink()
            elif path.suffix == _TEMPORARY_SUFFIX or (number or 0) <= evicted_through > 0:
                path.unlink()
            elif path.suffix == _SUFFIX and number is not None:
                self._sizes[number] = path.stat().st_size

    @property
    def limit_bytes(self) -> int:
        """How much all files together may have."""
        return self._limit_bytes

    @property
    def numbers(self) -> list[int]:
        """The batches that are here, oldest first."""
        return sorted(self._sizes)

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
        A batch that was run again is put back as it is.
        """
        if verdict.batch in self._sources:
            self._rename_source(verdict.batch)
            if self._replay_path(verdict.batch).exists():
                self._put_back(verdict)
                return
        header = encode_header(verdict, payload_bytes)
        needed = len(header) + payload_bytes
        if needed > self._limit_bytes:
            raise ContentError(f"batch of {needed} bytes, quarantine holds {self._limit_bytes}")
        self._make_room(needed)
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
        self._sync_directory()
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

    def _make_room(self, needed: int) -> None:
        while self._sizes and self.bytes_used + needed > self._limit_bytes:
            self._evict_oldest()

    def _evict_oldest(self) -> None:
        batch = min(self._sizes)
        # Told first: after a kill in between the file is still there and goes on opening.
        self._on_evict(batch)
        self._path(batch).unlink(missing_ok=True)
        del self._sizes[batch]

    # -- run again

    def begin_replay(self, source: int, number: int) -> None:
        """Hand a batch over to its new number. Raises OSError; `open_replay` then tries again."""
        self._sizes.pop(source, None)
        self._sources[number] = source
        self._rename_source(number)

    def _rename_source(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._path(self._sources[number]), self._replay_path(number))
            self._sync_directory()

    def open_replay(self, number: int) -> QuarantineEntry:
        """Return the file of a batch that is being run again. Raises ContentError, OSError."""
        self._rename_source(number)
        try:
            return self._read_entry(self._replay_path(number), number)
        except FileNotFoundError as error:
            raise ContentError(
                f"quarantine has no file of batch {number}", Code.BATCH_NOT_KEPT
            ) from error

    def end_replay(self, number: int) -> None:
        """Delete what a batch was run again from, once it has its fate. Raises OSError."""
        self._replay_path(number).unlink(missing_ok=True)
        self._sources.pop(number, None)

    def _put_back(self, verdict: Verdict) -> None:
        """Keep a batch that has failed again: new verdict after its bytes, then the new name."""
        path, batch = self._replay_path(verdict.batch), verdict.batch
        # With its old verdict rather than not at all.
        with contextlib.suppress(OSError, ContentError):
            self._append_verdict(self._read_entry(path, batch), verdict)
        size = path.stat().st_size
        self._make_room(size)
        os.replace(path, self._path(batch))
        self._sync_directory()
        self._sizes[batch] = size
        self._sources.pop(batch, None)

    def _append_verdict(self, entry: QuarantineEntry, verdict: Verdict) -> None:
        end = entry.payload_offset + entry.payload_bytes
        fd = os.open(entry.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            # An earlier one goes: only the last says how it ended.
            os.ftruncate(fd, end)
            os.pwrite(fd, encode_header(verdict, 0), end)
            if self._durable:
                os.fdatasync(fd)
        finally:
            os.close(fd)

    # -- reading

    def entries(self, numbers: Iterable[int] | None = None) -> Iterator[QuarantineEntry]:
        """Yield what is kept, oldest first; files that are damaged are left out."""
        for batch in self.numbers if numbers is None else numbers:
            try:
                yield self._read_entry(self._path(batch), batch)
            except (OSError, ContentError):
                continue

    def entry(self, batch: int) -> QuarantineEntry:
        """Return one that is kept or run again. Raises ContentError, OSError."""
        path = self._path(batch)
        return self._read_entry(path if path.exists() else self._replay_path(batch), batch)

    def _read_entry(self, path: Path, batch: int) -> QuarantineEntry:
        with path.open("rb") as file:
            verdict, offset, size = decode_header(file.read(_HEAD_MAX_BYTES))
            if verdict.batch != batch:
                file.seek(offset + size)
                verdict = _later_verdict(file.read(_HEAD_MAX_BYTES), verdict, batch)
        return QuarantineEntry(
            verdict=verdict, path=path, payload_offset=offset, payload_bytes=size
        )

    def _sync_directory(self) -> None:
        if self._durable:
            sync_directory(self._directory)

    def _replay_path(self, batch: int) -> Path:
        return self._path(batch).with_suffix(_REPLAY_SUFFIX)

    def _path(self, batch: int) -> Path:
        return self._directory / f"{batch:012d}{_SUFFIX}"
