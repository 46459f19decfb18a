"""Look at the image ring of another node over the bus: header and table by vmem, elements by ring
download.

The table is read where it lies in the file: tail, head, then the offsets, then the data.
Source: dipp.md 14.1, 14.4.
"""

from __future__ import annotations

import struct

from csp.crc import crc32c
from csp.errors import DecodeError, Refused
from csp.rdp_wire import RdpOptions
from csp.stack import Stack
from csp.vmem.client import VmemClient
from csp.vmem.wire import AreaInfo
from dipp.ringindex import FLOWN_ENTRIES, HEADER_BYTES, OFFSET_BYTES
from sim.mirror import LOOK_BYTES, Bounds, Look

RING_NAME = "images"
# Lists cut names to five characters.
_LISTED_NAME = RING_NAME[:5]
_PAIR = struct.Struct("<II")
_OFFSET = struct.Struct("<I")
# A node whose A53 sleeps does not answer at all; waiting the usual ten seconds gains nothing.
_OPTIONS = RdpOptions(window=20, conn_timeout_ms=4000)


class BusRing:
    """The ring of one node, with a table of `entries` offsets.

    `timeout_s` is how long to wait for an answer on the bus.
    """

    def __init__(
        self, stack: Stack, node: int, timeout_s: float, entries: int = FLOWN_ENTRIES
    ) -> None:
        self._entries = entries
        self._client = VmemClient(stack, timeout_s, pause_s=2 * timeout_s, options=_OPTIONS)
        self._node = node
        self._area: AreaInfo | None = None

    async def bounds(self) -> Bounds:
        """Return tail and head. Raises DecodeError if they cannot be those of a ring."""
        # Asked every time: after a restart the node may have put the area somewhere else.
        self._area = await self._find()
        tail, head = _PAIR.unpack(await self._read(0, _PAIR.size))
        if max(tail, head) >= self._entries:
            raise DecodeError("not a ring", expected=self._entries, actual=max(tail, head))
        return Bounds(tail=tail, head=head, entries=self._entries)

    async def look(self, slot: int) -> Look:
        """Return how the element in a slot looks."""
        start = await self._offset(slot)
        end = await self._offset((slot + 1) % self._entries)
        data_start = HEADER_BYTES + OFFSET_BYTES * self._entries
        data_bytes = self._size() - data_start
        if not 0 <= max(start, end) < data_bytes:
            raise DecodeError("offset outside the ring", expected=data_bytes, actual=start)
        # An element may wrap; its piece before the end of the file is enough to know it.
        length = min(LOOK_BYTES, (end - start) % data_bytes, data_bytes - start)
        first = await self._read(data_start + start, length) if length else b""
        return Look(start=start, end=end, first_bytes=length, first_crc=crc32c(first))

    async def download(self, position: int) -> bytes:
        """Return an element, 0 = oldest."""
        return await self._client.ring_download(self._node, RING_NAME, position)

    async def _find(self) -> AreaInfo:
        for area in await self._client.list(self._node):
            if area.name == _LISTED_NAME:
                return area
        raise Refused(f"node {self._node} has no memory area {RING_NAME}")

    def _size(self) -> int:
        return self._area.size if self._area is not None else 0

    async def _offset(self, slot: int) -> int:
        raw = await self._read(HEADER_BYTES + OFFSET_BYTES * slot, _OFFSET.size)
        return int(_OFFSET.unpack(raw)[0])

    async def _read(self, offset: int, length: int) -> bytes:
        base = self._area.address if self._area is not None else 0
        return await self._client.download(self._node, base + offset, length, rdp=False)
