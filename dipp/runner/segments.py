"""How a module child finds the segments of its batch. Driver; runs in the child.

Arenas are mapped already, in the nursery. The input comes as a descriptor, with the order or, if it
has been announced, before it. To map a segment page by page takes longer than to copy it, so it is
mapped only if somebody looks at it, or ahead, while there is time. Source: performance.md 3.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

from dipp.errors import ContentError
from dipp.runner.arena import Mapping, map_for_good
from dipp.runner.channel import close_fds, receive_fds
from dipp.runner.frames import (
    ANNOUNCED,
    BY_DESCRIPTOR,
    UNUSED,
    Go,
)
from dipp.workspace import SegmentRange

# Of an announced input so much is mapped ahead at most, and so much at a time.
_WARM_LIMIT_BYTES = 64 << 20
_WARM_STEP_BYTES = 64 << 10


class Announced:
    """An input whose batch comes soon: mapped, and what can be of it made ready until then."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._ready_bytes = 0
        self._mapping = Mapping(0, memoryview(b""))
        # If it cannot be mapped now, it is tried again when the module looks.
        with contextlib.suppress(OSError, ContentError):
            self._mapping = map_for_good(fd, limit_bytes=_WARM_LIMIT_BYTES)

    def warm_a_bit(self) -> bool:
        """Make a little more of it ready; False if there is no more."""
        size = len(self._mapping.view)
        if self._ready_bytes >= size:
            return False
        self._mapping.warm(_WARM_STEP_BYTES, self._ready_bytes)
        self._ready_bytes += _WARM_STEP_BYTES
        return True

    def view(self, end: int) -> memoryview:
        """Return its first bytes, mapped. Raises OSError."""
        if len(self._mapping.view) >= end:
            return self._mapping.view[:end]
        return map_for_good(self.fd, limit_bytes=end).view

    def copy_ready(self, offset: int, target: memoryview) -> int:
        """Copy from an offset what is mapped to the last page; return how many bytes."""
        ready = min(self._ready_bytes, len(self._mapping.view))
        size = max(0, min(ready - offset, len(target)))
        target[:size] = self._mapping.view[offset : offset + size]
        return size

    def close(self) -> None:
        """Give it back."""
        self._mapping.unmap()
        os.close(self.fd)


class Segments:
    """The segments of a batch. Those that are passed nobody fetches before they are needed."""

    __slots__ = ("_announced", "_arenas", "_fds", "_go", "_passing")

    def __init__(
        self,
        go: Go,
        arenas: Sequence[memoryview],
        passing: socket.socket,
        announced: Announced | None,
    ) -> None:
        self._go = go
        self._arenas = arenas
        self._passing = passing
        self._announced = announced
        self._fds: list[int] | None = None

    def find(self, index: int) -> memoryview:
        """Map a segment. Raises OSError."""
        number = self._go.segments[index]
        if number < ANNOUNCED:
            return self._arenas[number]
        if number == UNUSED:
            return memoryview(b"")
        places = [place for seen in self._go.images for place in (seen.meta, seen.pixels)]
        end = max((place.end for place in places if place.segment == index), default=0)
        if number == ANNOUNCED and self._announced is not None:
            return self._announced.view(end)
        return map_for_good(self._passed_as(index), limit_bytes=end).view

    def read(self, place: SegmentRange, target: memoryview) -> bool:
        """Copy a range, without mapping it, if it does not lie in an arena. Raises OSError.

        Returns False if it does, or if the segment has become too short.
        """
        number, announced = self._go.segments[place.segment], self._announced
        offset, done = place.offset, 0
        if number == ANNOUNCED and announced is not None:
            fd = announced.fd
            done = announced.copy_ready(offset, target)
        elif number == BY_DESCRIPTOR:
            fd = self._passed_as(place.segment)
        else:
            return False
        while done < len(target):
            size = os.preadv(fd, [target[done:]], offset + done)
            if not size:
                return False
            done += size
        return True

    def fresh_arena(self) -> memoryview:
        """Map the arena to write that was passed behind the segments. Raises OSError."""
        return map_for_good(self._passed(-1), writable=True).view

    def close(self) -> None:
        """Give back what was passed."""
        close_fds(self._fds or ())
        self._fds = None

    def _passed_as(self, index: int) -> int:
        return self._passed(self._go.segments[:index].count(BY_DESCRIPTOR))

    def _passed(self, position: int) -> int:
        """Return a descriptor that was passed. Raises OSError, IndexError."""
        if self._fds is None:
            self._fds = receive_fds(self._passing)[1]
        return self._fds[position]
