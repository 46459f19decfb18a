"""Carry frames over a CAN bus through SocketCAN. Source: csp.md 8.4. Driver.

Needs a kernel with CAN and an interface that is up (`ip link set can0 up type can bitrate ...`);
the bit rate belongs to the interface, not to this program.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

from csp.cfp import CAN_DATA_BYTES, ID_MASK, CanFrame, Reassembler, Segmenter, receive_filters
from csp.errors import MisuseError
from csp.guard import Guard
from csp.links.base import OnFrame
from csp.sched import Scheduler, Timer

if TYPE_CHECKING:
    from csp.loop import Loop

# struct can_frame of linux/can.h: identifier with flags, length, padding, data.
WIRE = struct.Struct("=IB3x8s")
_FILTER = struct.Struct("=II")
EXTENDED = 0x80000000
_REMOTE, _ERROR = 0x40000000, 0x20000000
_BURST = 256
# The kernel's own queue holds about ten frames; a CSP packet is up to 257. What waits here is two
# seconds of a bus at 125 kbit/s; more is lost, as on a radio.
_MAX_WAITING_FRAMES = 2048
_RETRY_S = 0.001
_BUSY = {errno.ENOBUFS, errno.EAGAIN}
_GONE = {errno.ENODEV, errno.ENXIO}


def open_can_socket(device: str) -> socket.socket:
    """Open a raw CAN socket on an interface. Raises MisuseError that says what is missing."""
    family = getattr(socket, "AF_CAN", None)
    if family is None:
        raise MisuseError("this Python was built without CAN")
    try:
        bus = socket.socket(family, socket.SOCK_RAW, socket.CAN_RAW)
    except OSError as error:
        raise MisuseError(f"this kernel has no CAN: {error}") from error
    try:
        bus.bind((device,))
    except OSError as error:
        bus.close()
        raise MisuseError(f"cannot use CAN interface {device}: {error}") from error
    return bus


class CanLink:
    """A CAN interface, CFP 2 for CSP v2 and CFP 1 for CSP v1.

    `bus` is the name of the interface, or a datagram socket that carries `struct can_frame`.
    `address` and `netmask` choose what the kernel lets through; with `promiscuous` everything.
    Raises MisuseError if there is no such interface.
    """

    def __init__(
        self,
        bus: str | socket.socket,
        *,
        address: int,
        netmask: int = 8,
        version: int = 2,
        promiscuous: bool = False,
        name: str = "CAN",
    ) -> None:
        self.name = name
        self.guard: Guard | None = None
        self.foreign = 0
        self._segmenter = Segmenter(version, address)
        self._reassembler = Reassembler(version)
        self._loop: Loop | None = None
        self._waiting: deque[bytes] = deque()
        self._retry: Timer | None = None
        self._socket = bus if isinstance(bus, socket.socket) else open_can_socket(bus)
        self._socket.setblocking(False)
        if self._socket.family == getattr(socket, "AF_CAN", None) and not promiscuous:
            filters = b"".join(
                _FILTER.pack(each.can_id | EXTENDED, each.mask | EXTENDED | _REMOTE)
                for each in receive_filters(address, netmask, version)
            )
            self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, filters)

    @property
    def errors(self) -> int:
        """How many packets and fragments were thrown away."""
        return self._reassembler.errors

    def open(self, loop: Loop | Scheduler, on_frame: OnFrame) -> None:
        """Start to receive. Raises MisuseError for a scheduler without a loop."""
        if isinstance(loop, Scheduler):
            raise MisuseError("a CAN link needs an event loop, not a bare scheduler")
        self._loop, self._on_frame = loop, on_frame
        loop.add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(_BURST):
            try:
                raw = self._socket.recv(WIRE.size)
            except BlockingIOError:
                return
            except OSError as error:
                # An interface that is down comes back; one that is gone would spin the loop.
                if error.errno in _GONE:
                    self.close()
                return
            self._take(raw)
            if self._loop is None:
                return

    def _take(self, raw: bytes) -> None:
        if len(raw) != WIRE.size:
            self.foreign += 1
            return
        word, size, data = WIRE.unpack(raw)
        if word & (EXTENDED | _REMOTE | _ERROR) != EXTENDED or size > CAN_DATA_BYTES:
            self.foreign += 1
            return
        if self._loop is None:
            return
        now = self._loop.scheduler.now
        frame = self._reassembler.feed(word & ID_MASK, data[:size], now)
        if frame is not None:
            self._on_frame(frame)

    def send(self, frame: bytes) -> None:
        """Send the CAN frames of a frame; what the bus cannot take yet waits.

        Raises OSError if too much waits, MisuseError if the frame is too long for CFP 1.
        """
        if self._loop is None:
            return
        pieces = self._segmenter.segment(frame)
        if len(self._waiting) + len(pieces) > _MAX_WAITING_FRAMES:
            raise OSError(errno.ENOBUFS, "the CAN bus is too slow")
        self._waiting.extend(map(encode_can_frame, pieces))
        if self._retry is None:
            self._write()

    def _write(self) -> None:
        self._retry = None
        while self._waiting and self._loop is not None:
            try:
                self._socket.send(self._waiting[0])
            except OSError as error:
                if error.errno not in _BUSY:
                    # Bus off or interface down: half a packet helps nobody.
                    self._waiting.clear()
                    raise
                self._retry = self._loop.scheduler.call_later(_RETRY_S, self._try_again)
                return
            self._waiting.popleft()

    def _try_again(self) -> None:
        try:
            self._write()
        except OSError:
            # Nobody is there to be told; what waited is lost and the next `send` will raise.
            return

    def close(self) -> None:
        """Close the socket. Harmless if done twice."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._socket.close()


def encode_can_frame(frame: CanFrame) -> bytes:
    """Return the `struct can_frame` of an extended frame."""
    return WIRE.pack(frame.can_id | EXTENDED, len(frame.data), frame.data)
