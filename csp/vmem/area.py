"""Say what a virtual memory area is, and provide one in plain memory."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from csp.errors import MisuseError


class StoreError(MisuseError):
    """The local storage did not take the data: full, gone or broken."""


class AreaKind(IntEnum):
    """Storage types as lists name them. Source: csp.md 10."""

    UNKNOWN = 0
    RAM = 1
    FRAM = 2
    FRAM_SECURE = 3
    FLASH = 4
    DRIVER = 5
    QSPI = 6
    FILE = 7
    FRAM_CACHED = 8
    NOR = 9
    BLOCK = 10


class Area(Protocol):
    """A range of addresses with bytes behind it. Offsets count from its start."""

    @property
    def name(self) -> str:
        """Unique on its node; ground sees the first five characters (16 in list version 3)."""

    @property
    def kind(self) -> int:
        """An `AreaKind`."""

    @property
    def address(self) -> int:
        """First address. Keep it below 2**32: csh sends 32 bits by default."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    @property
    def fresh(self) -> bool:
        """Whether nothing of an earlier run is in it."""

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes. Raises MisuseError outside the area."""

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes; durable after `flush`. Raises MisuseError outside the area."""

    def flush(self) -> None:
        """Make everything written durable. Raises StoreError."""


def check_range(area: Area, offset: int, length: int) -> None:
    """Raise MisuseError unless the range lies in the area."""
    if offset < 0 or length < 0 or offset + length > area.size:
        raise MisuseError(f"{length} bytes at {offset} are not in area {area.name}")


class RamArea:
    """An area that forgets at the end of the process."""

    kind: int = AreaKind.RAM
    fresh = True

    def __init__(self, name: str, size: int, address: int = 0) -> None:
        if size < 1 or address < 0 or not name:
            raise MisuseError(f"area {name!r} needs a name, a size and an address from 0 on")
        self.name = name
        self.address = address
        self.size = size
        self._image = bytearray(size)

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes. Raises MisuseError outside the area."""
        check_range(self, offset, length)
        return bytes(self._image[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes. Raises MisuseError outside the area."""
        check_range(self, offset, len(data))
        self._image[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Do nothing: there is nothing more durable here."""
