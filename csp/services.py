"""Answer the ports every node has: CMP, ping, ps, memory, reboot, buffers, uptime. Pure.

Each handler takes a packet and returns what to answer, as `Stack.bind` wants it. What a handler
needs from outside comes in with the constructor. Source: csp.md 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from csp import cmp
from csp.cmp import Code, Ident
from csp.errors import CspError
from csp.packet import Packet
from csp.vmem.area import Area

if TYPE_CHECKING:
    from csp.stack import Stack

# The identity of a node is what it answers to ident.
Identity = Ident

PORT_CMP, PORT_PING, PORT_PS, PORT_MEMFREE = 0, 1, 2, 3
PORT_REBOOT, PORT_BUFFERS, PORT_UPTIME = 4, 5, 6

MAGIC_REBOOT = 0x80078007
MAGIC_SHUTDOWN = 0xD1E5529A
PS_REQUEST = 0x55


class WallClock(Protocol):
    """Wall time as data: never used for timeouts."""

    def now(self) -> float:
        """Return Unix seconds."""

    def set(self, unix_s: float) -> None:
        """Set the clock, or refuse by doing nothing."""


# What peek and poke reach is what vmem serves.
MemoryArea = Area


class Services:
    """The handlers of ports 0 to 6.

    `reboot` is called with True for reboot and False for shutdown. Peek and poke reach `areas` and
    nothing else. `memory_free` returns bytes, `buffers_free` a count.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        identity: Identity,
        wall: WallClock,
        reboot: Callable[[bool], None],
        areas: Sequence[MemoryArea] = (),
        memory_free: Callable[[], int] = lambda: 0,
        buffers_free: Callable[[], int] = lambda: 0,
    ) -> None:
        self._stack = stack
        self._identity = identity
        self._wall = wall
        self._reboot = reboot
        self._areas = tuple(areas)
        self._memory_free = memory_free
        self._buffers_free = buffers_free
        self._started_at = stack.scheduler.now
        self._cmp = {
            Code.IDENT: self._ident,
            Code.IF_STATS: self._if_stats,
            Code.CLOCK: self._clock,
            Code.PEEK: self._peek,
            Code.POKE: self._poke,
            Code.PEEK_V2: self._peek,
            Code.POKE_V2: self._poke,
            Code.ROUTE_SET_V1: self._route_set,
            Code.ROUTE_SET_V2: self._route_set,
        }

    @property
    def uptime_s(self) -> int:
        """Whole seconds since the node was made."""
        return int(self._stack.scheduler.now - self._started_at)

    def bind(self) -> None:
        """Bind all seven ports; they insist on a checksum (csp.md 2.5)."""
        handlers = {
            PORT_CMP: self.handle_cmp,
            PORT_PING: lambda packet: packet.data,
            PORT_PS: self._ps,
            PORT_MEMFREE: lambda packet: _u32(self._memory_free()),
            PORT_REBOOT: self._power,
            PORT_BUFFERS: lambda packet: _u32(self._buffers_free()),
            PORT_UPTIME: lambda packet: _u32(self.uptime_s),
        }
        for port, handler in handlers.items():
            self._stack.bind(port, handler, crc_required=True)

    def handle_cmp(self, packet: Packet) -> bytes | None:
        """Answer a CMP request; None for what is no request, unknown or refused."""
        data = packet.data
        if len(data) < 2 or data[0] != cmp.REQUEST:
            return None
        try:
            code = Code(data[1])
            handler = self._cmp.get(code)
            body = None if handler is None else handler(code, data[2:])
        except (ValueError, CspError):
            # An unknown code, a broken body, memory that refuses; csp.md 5 demands silence.
            return None
        return None if body is None else cmp.encode_record(cmp.REPLY, code, body)

    def _ident(self, code: Code, body: bytes) -> bytes:
        return self._identity.encode()

    def _if_stats(self, code: Code, body: bytes) -> bytes | None:
        name = cmp.decode_interface_name(body)
        for interface in self._stack.interfaces:
            if interface.name.lower() == name.lower():
                return cmp.InterfaceStats(name=interface.name, counters=interface.counters).encode()
        return None

    def _clock(self, code: Code, body: bytes) -> bytes:
        wanted = cmp.Clock.decode(body.ljust(8, b"\0"))
        if wanted.unix_ns >= 1_000_000_000:
            self._wall.set(wanted.unix_ns / 1e9)
        return cmp.Clock(unix_ns=int(self._wall.now() * 1e9)).encode()

    def _area(self, access: cmp.MemoryAccess) -> MemoryArea | None:
        for area in self._areas:
            if area.address <= access.address <= area.address + area.size - access.length:
                return area
        return None

    def _peek(self, code: Code, body: bytes) -> bytes | None:
        access = cmp.MemoryAccess.decode(code, body)
        area = self._area(access)
        if area is None:
            return None
        data = area.read(access.address - area.address, access.length)
        return cmp.MemoryAccess(
            address=access.address, length=access.length, data=bytes(data)
        ).encode(code)

    def _poke(self, code: Code, body: bytes) -> bytes | None:
        access = cmp.MemoryAccess.decode(code, body)
        area = self._area(access)
        if area is None:
            return None
        offset = access.address - area.address
        area.write(offset, access.data)
        area.flush()
        # What the area did not keep, because it would be no valid content, is not acknowledged.
        if bytes(area.read(offset, access.length)) != access.data:
            return None
        return access.encode(code)

    def _route_set(self, code: Code, body: bytes) -> bytes | None:
        wanted = cmp.RouteSet.decode(code, body)
        # No interface of ours can address a packet to another node than its destination.
        if wanted.has_next_hop and wanted.via != wanted.destination:
            return None
        self._stack.routes.set(wanted.destination, wanted.netmask, wanted.interface)
        return wanted.encode()

    def _ps(self, packet: Packet) -> bytes | None:
        # As the POSIX reference: an empty packet, because it has no task list.
        return b"" if packet.data[:1] == bytes((PS_REQUEST,)) else None

    def _power(self, packet: Packet) -> None:
        magic = int.from_bytes(packet.data[:4], "big")
        if magic == MAGIC_REBOOT:
            self._reboot(True)
        elif magic == MAGIC_SHUTDOWN:
            self._reboot(False)


def _u32(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "big")
