"""Serve memory areas on port 14: list, download, upload, checksum, and registered extras. Pure.

The port is shared: an RDP connection is always for this server, a single packet is for procedures
if its first byte has the highest bit set (csp.md 12.5). Requests that reach outside every area are
refused by closing without data, or by silence. A checksum of an area that is being written waits
for the end of the upload, as in the reference, whose server does one thing at a time: operators ask
for it right after an upload, while lost chunks may still be on their way. Source: csp.md 12.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from csp.crc import crc32c
from csp.errors import DecodeError, MisuseError, PeerError
from csp.packet import Flag, Packet
from csp.vmem.area import Area, StoreError
from csp.vmem.wire import (
    FIRST_USER_KIND,
    PROCEDURE_FLAG,
    Request,
    RequestKind,
    chunks,
    decode_request,
    encode_list,
)

# As the reference: how long an upload may pause before it counts as broken.
UPLOAD_PAUSE_S = 30.0
# Without RDP everything is sent at once: more would only be lost in the peer's buffers.
PLAIN_LIMIT_BYTES = 1 << 20
# A checksum is computed in one go; this bounds how long the node does nothing else (some 10 ms).
CRC_LIMIT_BYTES = 16 << 20
# Clients that wait for an upload to end; an operator asks again after a second.
MAX_WAITING = 16


class Stream(Protocol):
    """What the server needs of an RDP connection."""

    async def send(self, data: bytes) -> None:
        """Send one packet, waiting for the window."""

    async def receive(self, timeout_s: float | None = None) -> bytes | None:
        """Return the next packet, None once the peer has closed."""


UserHandler = Callable[[bytes, Any], Coroutine[Any, Any, None]]
ProcedureHandler = Callable[[Packet], Iterable[bytes] | bytes | None]


@dataclass(slots=True)
class VmemCounters:
    """What the server has done, and what it would not do."""

    lists: int = 0
    downloads: int = 0
    uploads: int = 0
    checksums: int = 0
    refused: int = 0
    uploads_broken: int = 0
    store_failures: int = 0


class VmemServer:
    """The memory server of one node.

    Bind `handle` and let `serve` listen, both on port 14. `procedures` gets the procedure requests
    if the node has any; without it they are dropped. `late_reply` sends an answer later than the
    handler returned; without it nothing waits. Raises MisuseError if areas share addresses.
    """

    def __init__(
        self, areas: Sequence[Area] = (), procedures: ProcedureHandler | None = None
    ) -> None:
        self.areas = _without_overlap(areas)
        self.procedures = procedures
        self.late_reply: Callable[[Packet, bytes], None] | None = None
        self.counters = VmemCounters()
        self._being_written: list[Area] = []
        self._waiting: deque[tuple[Packet, Request]] = deque(maxlen=MAX_WAITING)
        self._users: dict[int, UserHandler] = {}

    def register(self, kind: int, handler: UserHandler) -> None:
        """Serve requests of a kind from 7 on: `await handler(request bytes, connection)`.

        Only requests over RDP reach it; returning closes the connection. Raises MisuseError for a
        kind that is taken or not free for users.
        """
        if not FIRST_USER_KIND <= kind <= 0xFF or kind in self._users:
            raise MisuseError(f"vmem request kind {kind} is not free")
        self._users[kind] = handler

    # -- single packets

    def handle(self, packet: Packet) -> Iterable[bytes] | bytes | None:
        """Serve a packet without RDP."""
        data = packet.data
        if data and data[0] & PROCEDURE_FLAG:
            if self.procedures is None or not packet.flags & Flag.CRC32:
                self.counters.refused += 1
                return None
            return self.procedures(packet)
        try:
            request = decode_request(data)
            if self._must_wait(request):
                self._waiting.append((packet, request))
                return None
            return self._answer(request)
        except (DecodeError, MisuseError):
            self.counters.refused += 1
            return None

    def _must_wait(self, request: Request) -> bool:
        if request.kind != RequestKind.CRC32 or self.late_reply is None:
            return False
        return self._locate(request.address, request.length)[0] in self._being_written

    def _serve_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque(maxlen=MAX_WAITING)
        for packet, request in waiting:
            if self._must_wait(request):
                self._waiting.append((packet, request))
            elif self.late_reply is not None:
                self.late_reply(packet, self._checksum(request))

    def _answer(self, request: Request) -> Iterable[bytes]:
        if request.kind == RequestKind.LIST:
            self.counters.lists += 1
            return encode_list(request.version, self.areas)
        if request.kind == RequestKind.CRC32:
            return [self._checksum(request)]
        if request.kind != RequestKind.DOWNLOAD:
            raise MisuseError(f"request kind {request.kind} needs RDP")
        if request.length > PLAIN_LIMIT_BYTES:
            raise MisuseError(f"download of {request.length} bytes needs RDP")
        area, offset = self._locate(request.address, request.length)
        self.counters.downloads += 1
        return chunks(area.read, offset, request.length)

    def _checksum(self, request: Request) -> bytes:
        if request.length > CRC_LIMIT_BYTES:
            raise MisuseError(f"checksum of {request.length} bytes is too much at once")
        area, offset = self._locate(request.address, request.length)
        self.counters.checksums += 1
        return crc32c(area.read(offset, request.length)).to_bytes(4, "big")

    def _locate(self, address: int, length: int) -> tuple[Area, int]:
        """Return the area that holds the whole range, and the offset in it."""
        for area in self.areas:
            offset = address - area.address
            if 0 <= offset < area.size and offset + length <= area.size:
                return area, offset
        raise MisuseError(f"no area holds {length} bytes at {address:#x}")

    # -- connections

    async def serve(self, connection: Stream) -> None:
        """Serve one request over RDP. The caller closes the connection afterwards."""
        data = await connection.receive(UPLOAD_PAUSE_S)
        if data is None:
            return
        user = self._users.get(data[1]) if len(data) > 1 else None
        if user is not None:
            await user(data, connection)
            return
        try:
            request = decode_request(data)
            if request.kind == RequestKind.UPLOAD:
                await self._upload(request, connection)
            elif request.kind == RequestKind.DOWNLOAD:
                await self._download(request, connection)
            else:
                for packet in self._answer(request):
                    await connection.send(packet)
        except (DecodeError, MisuseError):
            self.counters.refused += 1

    async def _download(self, request: Request, connection: Stream) -> None:
        area, offset = self._locate(request.address, request.length)
        self.counters.downloads += 1
        for chunk in chunks(area.read, offset, request.length):
            await connection.send(chunk)

    async def _upload(self, request: Request, connection: Stream) -> None:
        area, offset = self._locate(request.address, 0)
        self.counters.uploads += 1
        self._being_written.append(area)
        try:
            while (chunk := await connection.receive(UPLOAD_PAUSE_S)) is not None:
                area.write(offset, chunk)
                offset += len(chunk)
        except PeerError:
            self.counters.uploads_broken += 1
            raise
        finally:
            # What has arrived stays, as in the reference: the next pass goes on from there.
            self._flush(area)
            self._being_written.remove(area)
            self._serve_waiting()

    def _flush(self, area: Area) -> None:
        try:
            area.flush()
        except StoreError:
            # The peer gets no answer to an upload; the counter and its checksum request tell.
            self.counters.store_failures += 1


def _without_overlap(areas: Sequence[Area]) -> tuple[Area, ...]:
    ranked = sorted(areas, key=lambda area: area.address)
    for low, high in itertools.pairwise(ranked):
        if low.address + low.size > high.address:
            raise MisuseError(f"areas {low.name} and {high.name} share addresses")
    return tuple(areas)
