"""The image ring as ground sees it over port 14: a readable area, ring upload and ring download.

Theory of operation: the area gives the bytes of the file as they lie there; writing to it is
refused, because a raw write would break what the ring advertises. A download holds an `Element`
and ends early if that element is evicted under it, which the client sees from the announced
length. An upload is collected in memory and appended only when it is complete.
Source: dipp.md 4 and 14.4, defect D13; fault 66.
"""

from __future__ import annotations

from collections.abc import Callable

from csp.connection import Connection
from csp.errors import DecodeError, MisuseError
from csp.sched import Scheduler
from csp.vmem.area import AreaKind
from csp.vmem.server import VmemServer
from csp.vmem.wire import (
    CHUNK_BYTES,
    RequestKind,
    RingRequest,
    decode_ring_request,
    encode_ring_length,
)
from dipp.errors import ContentError
from dipp.ring import Ring

AREA_NAME = "images"
# Ground compares no more than this: the request has five characters for the name.
_WIRE_NAME = AREA_NAME[:5]
# An hour of uplink is some megabytes; two at once bound the memory.
UPLOAD_MAX_BYTES = 16 << 20
MAX_UPLOADS = 2
UPLOAD_PAUSE_S = 30.0
# Chunks are far smaller than what is worth a disk access.
_READ_BYTES = 64 * CHUNK_BYTES
_RING_WAIT_S = 0.01


class RingArea:
    """Read access to the ring file."""

    kind: int = AreaKind.FILE
    name = AREA_NAME
    address = 0

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self.size = ring.geometry.file_bytes
        self.fresh = ring.count == 0

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes. Raises MisuseError outside the area."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise MisuseError(f"{length} bytes at {offset} are not in area {self.name}")
        return self._ring.read_raw(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Refuse. Raises MisuseError; images are added by ring upload."""
        raise MisuseError("the image ring takes images by ring upload only")

    def flush(self) -> None:
        """Do nothing: the ring is durable by itself."""


class RingService:
    """Requests 7 and 8 of port 14. `on_append` hears of every appended image."""

    def __init__(
        self, ring: Ring, scheduler: Scheduler, on_append: Callable[[OSError | None], None]
    ) -> None:
        self._ring = ring
        self._scheduler = scheduler
        self._on_append = on_append
        self._uploads = 0

    def register(self, server: VmemServer) -> None:
        """Serve both requests on a memory server."""
        server.register(RequestKind.RING_DOWNLOAD, self.download)
        server.register(RequestKind.RING_UPLOAD, self.upload)

    async def download(self, data: bytes, connection: Connection) -> None:
        """Send length and bytes of an element; nothing if there is no such element."""
        request = _decode(data)
        element = None if request is None else self._ring.element(request.value)
        if element is None:
            return
        await connection.send(encode_ring_length(element.size))
        for start in range(0, element.size, _READ_BYTES):
            try:
                block = self._ring.read(element, start, _READ_BYTES)
            except ContentError:
                return
            for position in range(0, len(block), CHUNK_BYTES):
                await connection.send(block[position : position + CHUNK_BYTES])

    async def upload(self, data: bytes, connection: Connection) -> None:
        """Append what the client streams until it closes, if it is as long as announced."""
        request = _decode(data)
        limit = min(UPLOAD_MAX_BYTES, self._ring.geometry.data_bytes - 1)
        if request is None or not 0 < request.value <= limit or self._uploads >= MAX_UPLOADS:
            return
        self._uploads += 1
        try:
            element = await _collect(connection, request.value)
            if element is not None:
                await self._append(element)
        finally:
            self._uploads -= 1

    async def _append(self, element: bytes) -> None:
        while self._ring.is_busy:
            await self._scheduler.sleep(_RING_WAIT_S)
        try:
            self._ring.append([element])
        except OSError as error:
            self._on_append(error)
            return
        self._on_append(None)


def _decode(data: bytes) -> RingRequest | None:
    try:
        request = decode_ring_request(data)
    except DecodeError:
        return None
    return request if request.name == _WIRE_NAME else None


async def _collect(connection: Connection, length: int) -> bytes | None:
    """Return what the peer sends until it closes; None unless that is `length` bytes."""
    collected = bytearray()
    while (chunk := await connection.receive(UPLOAD_PAUSE_S)) is not None:
        collected += chunk
        if len(collected) > length:
            return None
    return bytes(collected) if len(collected) == length else None
