"""Bulk download of ring elements, port 7: requests over RDP, data as paced single packets. Pure.

Theory of operation: a client asks for an element and a list of packet intervals; the answer tells
how much will come; then the packets go to port 8 of the client without acknowledgement, each with
its byte offset. What got lost is asked for again with the missing intervals. The node keeps no
state between requests; a client that vanishes costs at most the rest of one transfer, and a new
request of the same client replaces its old one. Source: dipp.md 14.3, defect D19.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from csp.connection import Connection
from csp.errors import DecodeError, MisuseError, NoResponse, PeerError
from csp.packet import Packet, Priority
from csp.sched import Promise, Scheduler, Task, Timeout
from csp.stack import Stack
from dipp.errors import ContentError
from dipp.ring import Ring
from dipp.ringindex import Element

DTP_PORT, DTP_DATA_PORT = 7, 8
MAX_INTERVALS = 19
TO_END = 0xFFFFFFFF
WIRE_BYTES = 164
_HEAD = struct.Struct("<IBxHH2x")
_INTERVAL = struct.Struct("<II")
_RESPONSE = struct.Struct("<II")
_OFFSET = struct.Struct("<I")
ROUND_S = 0.1
# What a CSP packet of the flown stack can carry; below the smallest nothing would be sent.
MIN_MTU, MAX_MTU = 16, 2000
# Sixteen megabytes per second; more would only fill the buffers of the link.
MAX_THROUGHPUT_KIB = 16 * 1024
MAX_TRANSFERS = 4
_REQUEST_TIMEOUT_S = 5.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DtpRequest:
    """Ask for packets of an element. Intervals are (first, end) packet numbers, end exclusive.

    `throughput` is KiB/s, `position` counts from the oldest element, `mtu` is bytes per packet
    including its offset. Raises MisuseError for what the wire cannot carry.
    """

    position: int
    throughput: int
    mtu: int
    intervals: tuple[tuple[int, int], ...] = ((0, TO_END),)

    def __post_init__(self) -> None:
        if not 0 < len(self.intervals) <= MAX_INTERVALS:
            raise MisuseError(f"{len(self.intervals)} intervals, allowed 1..{MAX_INTERVALS}")
        if not MIN_MTU <= self.mtu <= MAX_MTU or not 0 <= self.position <= 0xFFFF:
            raise MisuseError(f"mtu {self.mtu} or element {self.position} out of range")
        if self.throughput <= 0 or any(not 0 <= a < b <= TO_END for a, b in self.intervals):
            raise MisuseError("throughput of nothing, or an interval without packets")

    @property
    def packet_bytes(self) -> int:
        """Bytes of the element in one packet."""
        return self.mtu - _OFFSET.size

    @property
    def packets_per_round(self) -> int:
        """Packets in each 100 ms."""
        rate = min(self.throughput, MAX_THROUGHPUT_KIB) * 1024
        return max(1, int(rate / self.mtu * ROUND_S))

    def ranges(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of every packet to send, for an element of `size` bytes."""
        last = math.ceil(size / self.packet_bytes)
        for first, end in self.intervals:
            for number in range(first, min(end, last)):
                offset = number * self.packet_bytes
                yield offset, min(self.packet_bytes, size - offset)

    def total(self, size: int) -> int:
        """Return the bytes that will be sent for an element of `size` bytes."""
        last = math.ceil(size / self.packet_bytes)
        total = 0
        for first, end in self.intervals:
            if first < min(end, last):
                total += min(min(end, last) * self.packet_bytes, size) - first * self.packet_bytes
        return total


def encode_dtp_request(request: DtpRequest) -> bytes:
    """Return the 164 bytes of a request."""
    head = _HEAD.pack(request.throughput, len(request.intervals), request.position, request.mtu)
    return (head + b"".join(_INTERVAL.pack(*pair) for pair in request.intervals)).ljust(
        WIRE_BYTES, b"\0"
    )


def decode_dtp_request(data: bytes) -> DtpRequest:
    """Parse a request. Raises DecodeError."""
    if len(data) < _HEAD.size:
        raise DecodeError("DTP request too short", expected=WIRE_BYTES, actual=len(data))
    throughput, count, position, mtu = _HEAD.unpack_from(data)
    end = _HEAD.size + count * _INTERVAL.size
    if count > MAX_INTERVALS or len(data) < end:
        raise DecodeError("DTP intervals", expected=MAX_INTERVALS, actual=count)
    try:
        return DtpRequest(
            position=position,
            throughput=throughput,
            mtu=mtu,
            intervals=tuple(_INTERVAL.iter_unpack(data[_HEAD.size : end])),
        )
    except MisuseError as error:
        raise DecodeError(str(error)) from error


class DtpServer:
    """Serves the elements of a ring."""

    def __init__(self, stack: Stack, ring: Ring) -> None:
        self._stack = stack
        self._ring = ring
        self._transfers: dict[int, Task[None]] = {}

    async def serve(self, connection: Connection) -> None:
        """Answer one request and start to send; the caller closes the connection."""
        try:
            data = await connection.receive(_REQUEST_TIMEOUT_S)
            request = None if data is None else decode_dtp_request(data)
        except (NoResponse, DecodeError):
            return
        element = None if request is None else self._ring.element(request.position)
        if request is None or element is None:
            return
        peer = connection.peer
        replaced = self._transfers.pop(peer, None)
        if replaced is not None:
            replaced.cancel()
        if len(self._transfers) >= MAX_TRANSFERS:
            return
        response = _RESPONSE.pack(request.total(element.size), element.size)
        await connection.send(response.ljust(WIRE_BYTES, b"\0"))
        scheduler = self._stack.scheduler
        task = scheduler.spawn_background(self._send(peer, request, element), "dtp")
        self._transfers[peer] = task
        task.on_done(lambda: self._forget(peer, task))

    def _forget(self, peer: int, task: Task[None]) -> None:
        if self._transfers.get(peer) is task:
            del self._transfers[peer]

    async def _send(self, peer: int, request: DtpRequest, element: Element) -> None:
        ranges = request.ranges(element.size)
        while True:
            for _ in range(request.packets_per_round):
                place = next(ranges, None)
                if place is None:
                    return
                try:
                    data = self._ring.read(element, *place)
                except ContentError:
                    # Overwritten under the transfer: the client sees that no more comes.
                    return
                self._stack.send(
                    peer, DTP_DATA_PORT, _OFFSET.pack(place[0]) + data,
                    prio=Priority.NORM, flags=0,
                )  # fmt: skip
            await self._stack.scheduler.sleep(ROUND_S)


class DtpClient:
    """Downloads elements by DTP; owns port 8 of its stack. One download at a time."""

    def __init__(self, stack: Stack, *, pause_s: float = 1.0) -> None:
        """`pause_s` is how long nothing may arrive before what is missing is asked for again."""
        self._stack = stack
        self._pause_s = pause_s
        self._parts: dict[int, bytes] = {}
        self._peer: int | None = None
        self._packet_bytes = 1
        self._arrived: Promise[None] = Promise()
        stack.bind(DTP_DATA_PORT, self._on_data)

    def _on_data(self, packet: Packet) -> None:
        if packet.src != self._peer or len(packet.data) <= _OFFSET.size:
            return
        (offset,) = _OFFSET.unpack_from(packet.data)
        data = packet.data[_OFFSET.size :]
        # Leftovers of an earlier download with another packet size are no parts of this one.
        if offset % self._packet_bytes == 0 and len(data) <= self._packet_bytes:
            self._parts[offset] = data
            self._arrived.resolve(None)

    async def download(
        self,
        node: int,
        position: int,
        *,
        throughput: int = 100,
        mtu: int = 200,
        rounds: int = 10,
        progress: Progress | None = None,
    ) -> bytes:
        """Return an element, asking again for what is missing.

        `rounds` times in a row may bring nothing new. `progress` is told (bytes done, bytes in
        all). Raises NoResponse if it stays incomplete, PeerError if it became another element
        meanwhile, MisuseError.
        """
        intervals: Sequence[tuple[int, int]] = ((0, TO_END),)
        first_size: int | None = None
        fruitless = 0
        try:
            while fruitless < rounds:
                request = DtpRequest(
                    position=position,
                    throughput=throughput,
                    mtu=mtu,
                    intervals=tuple(intervals[:MAX_INTERVALS]),
                )
                if first_size is None:
                    self._parts, self._peer = {}, node
                    self._packet_bytes = request.packet_bytes
                expected, size = await self._ask(node, request)
                if first_size not in (None, size):
                    raise PeerError(f"element {position} of node {node} is another one now")
                first_size, before = size, len(self._parts)
                count = before + math.ceil(expected / request.packet_bytes)
                await self._collect(count, size, progress)
                intervals = self._missing(size, request.packet_bytes)
                if not intervals:
                    return b"".join(self._parts[offset] for offset in sorted(self._parts))[:size]
                fruitless = 0 if len(self._parts) > before else fruitless + 1
        finally:
            self._peer = None
        raise NoResponse(f"element {position} of node {node} stayed incomplete")

    async def _ask(self, node: int, request: DtpRequest) -> tuple[int, int]:
        connection = await self._stack.connect(node, DTP_PORT)
        try:
            await connection.send(encode_dtp_request(request))
            reply = await connection.receive(_REQUEST_TIMEOUT_S)
        finally:
            connection.close()
        if reply is None or len(reply) < _RESPONSE.size:
            raise NoResponse(f"node {node} has no element {request.position}")
        expected, size = _RESPONSE.unpack_from(reply)
        return expected, size

    async def _collect(self, count: int, size: int, progress: Progress | None) -> None:
        """Wait until that many packets are here or nothing came for a while."""
        scheduler: Scheduler = self._stack.scheduler
        while len(self._parts) < count:
            self._arrived = Promise()
            try:
                await scheduler.wait_for(self._arrived, self._pause_s)
            except Timeout:
                return
            if progress is not None:
                progress(min(len(self._parts) * self._packet_bytes, size), size)

    def _missing(self, size: int, packet_bytes: int) -> list[tuple[int, int]]:
        gaps: list[tuple[int, int]] = []
        for number in range(math.ceil(size / packet_bytes)):
            offset = number * packet_bytes
            if len(self._parts.get(offset, b"")) == min(packet_bytes, size - offset):
                continue
            if gaps and gaps[-1][1] == number:
                gaps[-1] = gaps[-1][0], number + 1
            else:
                gaps.append((number, number + 1))
        return gaps
