"""Keep the keys of authenticated links, and what their replay window must not forget. Driver.

A key file is a passphrase in one line, readable by its owner only. A stamp file has 16-byte
records, each written in one piece and in place: what a killed process wrote is there. It is not
synced to disk for each packet; after a power failure up to some seconds of packets could be
replayed (the kernel writes back within 30 s by default).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from csp.errors import MisuseError
from csp.guard import Guard
from csp.hmac import derive_key

_RECORD = struct.Struct("<QQ")
# Sources are stored plus one: number 0 is the sender's own reservation.
_OWN = 0
# So many stamps are taken from the file at once; a restart leaves out what is left of them.
_RESERVED = 1 << 16
# A passphrase that can be guessed is no key, and four bytes of HMAC allow to try offline.
_MIN_PASSPHRASE = 16
_MAX_FILE_BYTES = 1 << 20


def load_key(path: Path) -> bytes:
    """Return the key of a key file. Raises MisuseError if it is missing, open to others, weak."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise MisuseError(f"cannot read the key file {path}: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise MisuseError(f"key file {path} is open to other users; say: chmod 600 {path}")
    try:
        passphrase = data.decode().strip("\r\n")
    except UnicodeDecodeError:
        raise MisuseError(f"key file {path} is not UTF-8 text") from None
    if len(passphrase) < _MIN_PASSPHRASE or "\n" in passphrase:
        raise MisuseError(
            f"key file {path} must be one line of at least {_MIN_PASSPHRASE} characters,"
            " such as from: openssl rand -hex 32"
        )
    return derive_key(passphrase)


class StampFile:
    """The stamps of one end of a link, in a file; implements `StampStore`."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises MisuseError if it is in use or damaged, OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._places = self._load(path)
        except BaseException:
            os.close(self._fd)
            raise
        # A file that was lost shall not make the other end refuse all that comes: time went on.
        self._next = max(self._own, time.time_ns() // 1000)
        self._reserved = self._next

    def _load(self, path: Path) -> dict[int, int]:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MisuseError(
                f"{path} is in use; each program on an authenticated link needs its own stamp file"
            ) from None
        data = os.pread(self._fd, _MAX_FILE_BYTES + 1, 0)
        if len(data) % _RECORD.size or len(data) > _MAX_FILE_BYTES:
            raise MisuseError(f"{path} is not a stamp file: {len(data)} bytes")
        records = list(_RECORD.iter_unpack(data))
        self._own = next((stamp for number, stamp in records if number == _OWN), 0)
        self._highest = {number - 1: stamp for number, stamp in records if number != _OWN}
        if len({number for number, _ in records}) != len(records):
            raise MisuseError(f"{path} is not a stamp file: a source is there twice")
        return {number: place for place, (number, _) in enumerate(records)}

    def _write(self, number: int, stamp: int) -> None:
        place = self._places.setdefault(number, len(self._places))
        os.pwrite(self._fd, _RECORD.pack(number, stamp), place * _RECORD.size)

    def take(self) -> int:
        """Return the next stamp. Raises OSError if it cannot be reserved."""
        if self._next >= self._reserved:
            self._write(_OWN, self._next + _RESERVED)
            self._reserved = self._next + _RESERVED
        self._next += 1
        return self._next - 1

    def highest(self) -> Mapping[int, int]:
        """Return what the file remembers."""
        return dict(self._highest)

    def note(self, source: int, stamp: int) -> None:
        """Write the stamp of a source. Raises OSError."""
        self._write(source + 1, stamp)

    def close(self) -> None:
        """Close the file and give up its lock. Harmless if done twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_guard(key_file: Path, stamp_file: Path | None, version: int) -> Guard:
    """Make a guard: with stamps if there is a file for them. Raises MisuseError, OSError."""
    key = load_key(key_file)
    stamps = None if stamp_file is None else StampFile(stamp_file)
    return Guard(key, version=version, stamps=stamps)
