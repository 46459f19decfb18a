"""Give RDP connections to coroutines and keep the bounded table of them.

Theory of operation: `RdpConnection` (csp/rdp.py) decides, `Connection` lets tasks wait for it, the
`ConnectionTable` finds the connection of a packet, makes room for new ones and runs one task per
accepted connection. One lazy timer per connection: it fires early rather than being moved with
every packet. Source: csp.md 6.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from csp.errors import DecodeError, MisuseError, NoResponse, PeerError, Refused
from csp.interface import Interface
from csp.packet import SAFE_DATA_BYTES, Flag, Packet
from csp.rdp import End, RdpConnection, RdpOptions, State
from csp.rdp_wire import ACK, RST, SYN, Segment, decode_segment, reset_for
from csp.sched import Promise, Timeout, Timer

if TYPE_CHECKING:
    from csp.stack import Stack

Serve = Callable[["Connection"], Coroutine[Any, Any, None]]

# csh has 20 connections; a node that serves several ground stations may have more, not many.
MAX_CONNECTIONS = 64
# Handshakes may not fill the table: a SYN flood then only competes with other handshakes.
MAX_HALF_OPEN = 32
# A service may outlive its connection for a while, but not without bound.
_MAX_SERVING = 2 * MAX_CONNECTIONS
# An open connection is given up for a new one only after this silence.
_IDLE_S = 1.0
_CONTROL_PRIO = 1
_RDP_CRC = int(Flag.RDP | Flag.CRC32)
_FRAGMENT = int(Flag.FRAGMENT)

_Key = tuple[int, int, int]


class Connection:
    """An open RDP connection, for one reading and one writing task."""

    def __init__(
        self, table: ConnectionTable, machine: RdpConnection, interface: Interface, template: Packet
    ) -> None:
        self._table = table
        self._stack = table.stack
        self._scheduler = table.stack.scheduler
        self.machine = machine
        self.interface = interface
        # Data packets carry the SFP flag; see csp/transfer.py.
        self.sends_fragments = False
        self._template = template
        self._timer: Timer | None = None
        self._changed: Promise[None] = Promise()

    @property
    def peer(self) -> int:
        """The node at the other end."""
        return self._template.dst

    @property
    def key(self) -> _Key:
        """Peer, peer's port, own port."""
        return self._template.dst, self._template.dport, self._template.sport

    @property
    def mtu(self) -> int:
        """Bytes of data that every real node can take in one packet."""
        return SAFE_DATA_BYTES

    @property
    def closed(self) -> bool:
        """Whether nothing more will be sent or received; data may still be unread."""
        return self.machine.state is State.CLOSED

    # -- for tasks

    async def send(self, data: bytes) -> None:
        """Send one packet, waiting for room in the window. Raises PeerError if the peer is gone."""
        machine = self.machine
        while not machine.writable:
            if machine.state is not State.OPEN:
                raise self._ended("cannot send")
            await self._changed
        machine.send(data, self._scheduler.now)
        self.flush()

    async def receive(self, timeout_s: float | None = None) -> bytes | None:
        """Return the next packet; None once the peer has closed and all is read.

        Raises NoResponse after `timeout_s` or when the peer fell silent for the connection timeout.
        """
        machine = self.machine
        deadline = None if timeout_s is None else self._scheduler.now + timeout_s
        while not machine.received:
            if machine.state in (State.CLOSED, State.CLOSE_WAIT):
                if machine.end in (End.PEER, End.LOCAL, None):
                    return None
                raise self._ended("cannot receive")
            await self._wait(deadline)
        data = machine.read(self._scheduler.now)
        if machine.outgoing:
            self.flush()
        return data

    async def drain(self) -> None:
        """Wait until the peer has acknowledged everything. Raises PeerError if it never will."""
        while self.machine.unacknowledged:
            if self.closed:
                raise self._ended(f"{self.machine.unacknowledged} packets not acknowledged")
            await self._changed

    async def wait_closed(self) -> None:
        """Wait until the connection is closed on both sides or given up."""
        while not self.closed:
            await self._changed

    def close(self) -> None:
        """Say that no more data will come. Data sent before is still delivered."""
        self.machine.close(self._scheduler.now)
        self.flush()

    async def _wait(self, deadline: float | None) -> None:
        if deadline is None:
            await self._changed
            return
        try:
            await self._scheduler.wait_for(self._changed, deadline - self._scheduler.now)
        except Timeout:
            raise NoResponse(f"node {self.peer} sent nothing in time") from None

    def _ended(self, what: str) -> PeerError:
        end = self.machine.end
        text = f"{what}: connection to node {self.peer} {end.value if end else 'is closing'}"
        return NoResponse(text) if end is End.TIMEOUT else Refused(text)

    # -- for the table

    def receive_segment(self, segment: Segment) -> None:
        """Take a segment from the wire."""
        self.machine.receive(segment, self._scheduler.now)
        self.flush()

    def flush(self) -> None:
        """Send what the machine wants sent, wake the waiting tasks, arm the timer."""
        machine, template = self.machine, self._template
        if machine.outgoing:
            fragment = _FRAGMENT if self.sends_fragments else 0
            outgoing, machine.outgoing = machine.outgoing, []
            for payload, is_data in outgoing:
                packet = Packet(
                    prio=template.prio if is_data else min(template.prio, _CONTROL_PRIO),
                    dst=template.dst,
                    src=template.src,
                    dport=template.dport,
                    sport=template.sport,
                    flags=template.flags | fragment if is_data else template.flags,
                    data=payload,
                )
                self._stack.transmit(self.interface, packet)
        changed, self._changed = self._changed, Promise()
        changed.resolve(None)
        if machine.state is State.CLOSED:
            self._table.remove(self)
            if self._timer is not None:
                self._timer.cancel()
        else:
            self._arm()

    def _arm(self) -> None:
        when = self.machine.deadline()
        timer = self._timer
        if when is None:
            return
        if timer is not None and timer.callback is not None:
            if timer.when <= when:
                return
            timer.cancel()
        self._timer = self._scheduler.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self.machine.on_timer(self._scheduler.now)
        self.flush()


class ConnectionTable:
    """All RDP connections of a stack, at most `MAX_CONNECTIONS`."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.reclaimed = 0
        self.refused = 0
        self.malformed = 0
        self._listeners: dict[int, Serve] = {}
        self._connections: dict[_Key, Connection] = {}
        self._serving = 0
        self._rolling = itertools.count()

    def __len__(self) -> int:
        return len(self._connections)

    def listen(self, port: int, serve: Serve) -> None:
        """Accept connections to a port. Raises MisuseError if another service does."""
        if port in self._listeners:
            raise MisuseError(f"port {port} already has a listener")
        self._listeners[port] = serve

    def uses_port(self, local_port: int) -> bool:
        """Tell whether a connection has this own port."""
        return any(key[2] == local_port for key in self._connections)

    def _next_nibble(self) -> int:
        return next(self._rolling) & 0x0F

    # -- connecting

    async def connect(self, node: int, port: int, prio: int, options: RdpOptions) -> Connection:
        """Open a connection. Raises NoResponse, Refused, or MisuseError without a route."""
        interface = self.stack.interface_to(node)
        if interface is None:
            raise MisuseError(f"no interface leads to node {node}")
        source = self.stack.source_on(interface)
        template = Packet(
            prio=prio,
            dst=source if node == 0 else node,
            src=source,
            dport=port,
            sport=self.stack.take_client_port(),
            flags=_RDP_CRC,
        )
        if not self._make_room():
            raise MisuseError(f"all {MAX_CONNECTIONS} connections are in use")
        machine = RdpConnection.connect(
            options, self.stack.rng.getrandbits(16), self._next_nibble, self.stack.scheduler.now
        )
        connection = Connection(self, machine, interface, template)
        self._connections[connection.key] = connection
        connection.flush()
        try:
            while machine.half_open:
                await connection._changed
        finally:
            # Also when the waiting task is cancelled: the port must come back.
            if machine.half_open:
                connection.close()
        if machine.state is State.CLOSED and machine.end is not End.PEER:
            raise connection._ended(f"cannot connect to port {port}")
        return connection

    # -- receiving

    def receive(self, interface: Interface, packet: Packet) -> bool:
        """Take a packet with the RDP flag; return False if no service wants it."""
        try:
            segment = decode_segment(packet.data)
        except DecodeError:
            self.malformed += 1
            return True
        key = (packet.src, packet.sport, packet.dport)
        connection = self._connections.get(key)
        if connection is not None:
            if segment.flags & (SYN | ACK | RST) != SYN or connection.machine.opened_by(segment):
                connection.receive_segment(segment)
                return True
            # The peer has forgotten this connection and uses its port anew.
            self._abort(connection, End.RECLAIMED, tell=False)
        if segment.flags & (SYN | ACK | RST) == SYN:
            return self._accept(interface, packet, segment)
        if packet.dport <= 16 and packet.dport not in self._listeners:
            return False
        self._reset(interface, packet, segment)
        return True

    def _accept(self, interface: Interface, packet: Packet, syn: Segment) -> bool:
        serve = self._listeners.get(packet.dport)
        if serve is None:
            return False
        scheduler = self.stack.scheduler
        template = Packet(
            prio=packet.prio,
            dst=packet.src,
            src=self.stack.source_on(interface),
            dport=packet.sport,
            sport=packet.dport,
            flags=packet.flags & _RDP_CRC,
        )
        try:
            machine = RdpConnection.accept(
                syn, self.stack.rng.getrandbits(16), self._next_nibble, scheduler.now
            )
        except DecodeError:
            self.malformed += 1
            return True
        if self._serving >= _MAX_SERVING or not self._make_room():
            self.refused += 1
            self._reset(interface, packet, syn)
            return True
        connection = Connection(self, machine, interface, template)
        self._connections[connection.key] = connection
        connection.flush()
        scheduler.spawn_background(self._serve(connection, serve), f"rdp port {packet.dport}")
        return True

    def _reset(self, interface: Interface, packet: Packet, segment: Segment) -> None:
        reset = reset_for(segment)
        if reset is None:
            return
        self.stack.transmit(
            interface,
            Packet(
                prio=min(packet.prio, _CONTROL_PRIO),
                dst=packet.src,
                src=self.stack.source_on(interface),
                dport=packet.sport,
                sport=packet.dport,
                flags=packet.flags & _RDP_CRC,
                data=reset.encode(self._next_nibble()),
            ),
        )

    async def _serve(self, connection: Connection, serve: Serve) -> None:
        machine = connection.machine
        while machine.half_open:
            await connection._changed
        if machine.state is State.CLOSED and not machine.received:
            return
        self._serving += 1
        try:
            await serve(connection)
        except PeerError:
            # The peer went away in the middle; what the service needs to know it saw itself.
            pass
        except Exception as error:  # boundary: one connection's fault must not stop the node
            self.stack.counters.handler_faults += 1
            self.stack.faults.append((f"rdp port {connection.key[2]}", error))
        finally:
            self._serving -= 1
            connection.close()

    # -- bounds

    def _make_room(self) -> bool:
        """Free a place if there is none; False if all are in lively use."""
        half_open = [c for c in self._connections.values() if c.machine.state is State.SYN_RCVD]
        if len(half_open) >= MAX_HALF_OPEN:
            self._abort(half_open[0], End.RECLAIMED, tell=False)
        if len(self._connections) < MAX_CONNECTIONS:
            return True
        closing = [c for c in self._connections.values() if c.machine.state is State.CLOSE_WAIT]
        for candidates in (half_open, closing):
            if candidates:
                self._abort(candidates[0], End.RECLAIMED, tell=False)
                return True
        silent = min(self._connections.values(), key=lambda c: c.machine.last_heard)
        if self.stack.scheduler.now - silent.machine.last_heard < _IDLE_S:
            return False
        self._abort(silent, End.RECLAIMED, tell=True)
        return True

    def _abort(self, connection: Connection, end: End, *, tell: bool) -> None:
        self.reclaimed += 1
        connection.machine.abort(end, self.stack.scheduler.now)
        if not tell:
            connection.machine.outgoing.clear()
        connection.flush()

    def remove(self, connection: Connection) -> None:
        """Forget a closed connection. Called by the connection."""
        if self._connections.get(connection.key) is connection:
            del self._connections[connection.key]
