"""Be a CSP node: accept frames, find the port they are for, send packets and await answers.

Theory of operation: link drivers call `receive` with frames and are given a `send` function per
interface; everything in between is here and touches no operating system. Time comes from the
scheduler. A frame passes: own destination? duplicate? checksum? authentication? then goes to a
client port, an RDP connection, or a bound handler, else it is counted and dropped. Content can
never make `receive` raise. Source: csp.md 2-4, 7.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from csp.client import CLIENT_PORTS, Client
from csp.connection import Connection, ConnectionTable
from csp.errors import CspError, DecodeError, MisuseError
from csp.guard import Guard
from csp.interface import Interface
from csp.packet import (
    HEADER_BYTES,
    Flag,
    Packet,
    Priority,
    broadcast_address,
    check_version,
    decode_frame,
    destination,
    encode_frame,
)
from csp.rdp import RdpOptions
from csp.routes import RouteTable
from csp.sched import Scheduler

Answer = Iterable[bytes] | bytes | None
Handler = Callable[[Packet], Answer]
Serve = Callable[[Connection], Coroutine[Any, Any, None]]
Tap = Callable[[str, Packet, bytes], None]

SERVER_PORTS = range(17)
# The duplicate filter of csh: csp.md 3.
DEDUP_FRAMES = 16
DEDUP_WINDOW_S = 0.1

_CRC32, _RDP, _HMAC = int(Flag.CRC32), int(Flag.RDP), int(Flag.HMAC)
_NORM, _HIGH = int(Priority.NORM), int(Priority.HIGH)


@dataclass(slots=True)
class StackCounters:
    """What was dropped and why, over all interfaces; and faults of handlers."""

    not_for_us: int = 0
    duplicate: int = 0
    unbound: int = 0
    crc_missing: int = 0
    no_route: int = 0
    handler_faults: int = 0


@dataclass(frozen=True, slots=True)
class _Binding:
    handler: Handler
    crc_required: bool


class Stack:
    """One node's CSP stack. See the module docstring."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        version: int = 2,
        rng: random.Random | None = None,
        dedup: bool = True,
    ) -> None:
        self.scheduler = scheduler
        self.version = check_version(version)
        self.rng = rng if rng is not None else random.Random()
        self.interfaces: list[Interface] = []
        # The own addresses, without 0; grows with each interface.
        self.addresses: set[int] = set()
        self.taps: list[Tap] = []
        self.counters = StackCounters()
        # The last faults of handlers and serve tasks, for diagnosis; bounded like the scheduler's.
        self.faults: deque[tuple[str, BaseException]] = deque(maxlen=16)
        self._dedup = dedup
        self._seen: dict[bytes, float] = {}
        # Answers leave over the interface of their request, whatever is set here.
        self.routes = RouteTable(self.interfaces, version)
        self._default_claimed = False
        self._bindings: dict[int, _Binding] = {}
        self._clients: dict[int, Client] = {}
        self._next_client_port = self.rng.randrange(len(CLIENT_PORTS))
        self._loopback = Interface("LOOP", 0, self._no_link, 64, self.version)
        self.connections = ConnectionTable(self)

    # -- interfaces and addresses

    @property
    def address(self) -> int:
        """The address of the default interface; 0 while there is none."""
        default = self.routes.default
        return default.address if default is not None else 0

    def add_interface(
        self,
        name: str,
        address: int,
        send: Callable[[bytes], None],
        netmask: int = 8,
        default: bool = False,
        guard: Guard | None = None,
    ) -> Interface:
        """Add an interface. The first one is the default until another one claims that.

        With a guard everything sent there is authenticated, and everything unauthenticated that
        comes from there dropped and counted (`autherr`).
        """
        if any(interface.name == name for interface in self.interfaces):
            raise MisuseError(f"there already is an interface {name}")
        interface = Interface(name, address, send, netmask, self.version, guard)
        self.interfaces.append(interface)
        self.addresses.add(address)
        if self.routes.default is None or (default and not self._default_claimed):
            self.routes.default = interface
        self._default_claimed = self._default_claimed or default
        return interface

    def is_own(self, node: int) -> bool:
        """Tell whether a packet to this node would stay here."""
        return node == 0 or node in self.addresses

    # -- receiving

    def receive(self, interface: Interface, frame: bytes) -> None:
        """Take a frame from a link driver. Never raises because of the content."""
        counters = interface.counters
        counters.rx += 1
        header_bytes = HEADER_BYTES[self.version]
        if len(frame) < header_bytes:
            counters.frame += 1
            return
        counters.rxbytes += len(frame) - header_bytes
        if destination(frame, self.version) not in interface.accepted:
            self.counters.not_for_us += 1
            return
        if self._dedup and self._is_duplicate(frame):
            self.counters.duplicate += 1
            counters.drop += 1
            return
        try:
            packet = decode_frame(frame, self.version)
        except DecodeError:
            counters.rx_error += 1
            return
        if self.taps:
            self._tap("rx", packet, frame)
        guard = interface.guard
        if guard is not None or packet.flags & _HMAC:
            # Without a key nobody knows what an authenticated packet is worth.
            if guard is None:
                counters.autherr += 1
                return
            try:
                packet = guard.open(packet)
            except DecodeError:
                counters.autherr += 1
                return
        self._deliver(interface, packet)

    def _is_duplicate(self, frame: bytes) -> bool:
        seen, now = self._seen, self.scheduler.now
        when = seen.get(frame)
        if when is not None:
            if now - when <= DEDUP_WINDOW_S:
                return True
            del seen[frame]
        elif len(seen) >= DEDUP_FRAMES:
            del seen[next(iter(seen))]
        seen[frame] = now
        return False

    def _deliver(self, interface: Interface, packet: Packet) -> None:
        dport = packet.dport
        if packet.flags & _RDP:
            if not self.connections.receive(interface, packet):
                self.counters.unbound += 1
            return
        client = self._clients.get(dport)
        if client is not None:
            client.deliver(packet)
            return
        binding = self._bindings.get(dport)
        if binding is None:
            self.counters.unbound += 1
        elif binding.crc_required and not packet.flags & _CRC32:
            self.counters.crc_missing += 1
        else:
            self._serve(interface, packet, binding.handler)

    def _serve(self, interface: Interface, packet: Packet, handler: Handler) -> None:
        try:
            answer = handler(packet)
            if answer is None:
                return
            for data in (answer,) if isinstance(answer, bytes) else answer:
                self._transmit(interface, self._reply_to(interface, packet, data))
        except Exception as error:  # boundary: one handler's fault must not stop the node
            self.counters.handler_faults += 1
            self.faults.append((f"port {packet.dport}", error))

    def _reply_to(self, interface: Interface, request: Packet, data: bytes) -> Packet:
        # The own address also as answer to a broadcast: csp.md 3.
        return Packet(
            prio=request.prio,
            dst=request.src,
            src=self.address if interface is self._loopback else interface.address,
            dport=request.sport,
            sport=request.dport,
            flags=request.flags,
            data=data,
        )

    # -- serving

    def bind(self, port: int, handler: Handler, *, crc_required: bool = False) -> None:
        """Answer packets to a port. What the handler returns goes back to the sender.

        Raises MisuseError if the port is taken or not a server port (0..16).
        """
        self._check_server_port(port)
        if port in self._bindings:
            raise MisuseError(f"port {port} is already bound")
        self._bindings[port] = _Binding(handler, crc_required)

    def listen(self, port: int, serve: Serve) -> None:
        """Run `serve` as a task for each RDP connection to a port; it is closed afterwards.

        A port may have both `bind` and `listen`: the RDP flag decides.
        """
        self._check_server_port(port)
        self.connections.listen(port, serve)

    @staticmethod
    def _check_server_port(port: int) -> None:
        if port not in SERVER_PORTS:
            raise MisuseError(f"port {port} is not a server port (0..16)")

    def reply(self, request: Packet, data: bytes) -> None:
        """Answer a request later than its handler returned."""
        interface = self._loopback if self.is_own(request.src) else self.routes.find(request.src)
        if interface is None:
            self.counters.no_route += 1
            return
        self._transmit(interface, self._reply_to(interface, request, data))

    # -- sending

    def send(
        self,
        node: int,
        dport: int,
        data: bytes,
        *,
        sport: int = 0,
        prio: int = _NORM,
        flags: int = _CRC32,
    ) -> None:
        """Send one packet and forget it. Raises MisuseError if a field does not fit."""
        interface = self.interface_to(node)
        if interface is None:
            self.counters.no_route += 1
            return
        self._transmit(
            interface,
            Packet(
                prio=int(prio),
                dst=node,
                src=self.source_on(interface),
                dport=dport,
                sport=sport,
                flags=int(flags),
                data=bytes(data),
            ),
        )

    def interface_to(self, node: int) -> Interface | None:
        """Return the interface towards a node (the loopback for own addresses), None if none."""
        return self._loopback if self.is_own(node) else self.routes.find(node)

    def source_on(self, interface: Interface) -> int:
        """Return the source address for packets that leave over an interface."""
        return self.address if interface is self._loopback else interface.address

    def _transmit(self, interface: Interface, packet: Packet) -> None:
        if interface is self._loopback:
            # Via the scheduler, so that a handler never runs inside the one that called it.
            self.scheduler.call_soon(lambda: self._deliver(interface, packet))
            return
        counters = interface.counters
        if interface.guard is not None:
            try:
                packet = interface.guard.seal(packet)
            except OSError:
                # No stamp to be had, as on a full disk.
                counters.tx_error += 1
                return
        frame = encode_frame(packet, self.version)
        counters.tx += 1
        counters.txbytes += len(frame) - HEADER_BYTES[self.version]
        if self.taps:
            self._tap("tx", packet, frame)
        try:
            interface.send(frame)
        except (OSError, CspError):
            # A link that is down loses packets, as a radio does; the counter tells.
            counters.tx_error += 1

    # The connection table sends its segments through the same door.
    transmit = _transmit

    def _tap(self, direction: str, packet: Packet, frame: bytes) -> None:
        for tap in tuple(self.taps):
            tap(direction, packet, frame)

    @staticmethod
    def _no_link(frame: bytes) -> None:
        raise MisuseError("the loopback interface has no link")

    # -- clients

    def take_client_port(self) -> int:
        """Reserve nothing, but return the next free client port (17..63), round robin.

        Raises MisuseError if all are in use.
        """
        for _ in CLIENT_PORTS:
            port = CLIENT_PORTS[self._next_client_port % len(CLIENT_PORTS)]
            self._next_client_port += 1
            if port not in self._clients and not self.connections.uses_port(port):
                return port
        raise MisuseError(f"all {len(CLIENT_PORTS)} client ports are in use")

    def open(self, node: int, port: int, *, prio: int = _NORM, flags: int = _CRC32) -> Client:
        """Open a connectionless client socket to a node's port; close it after use."""
        local = self.take_client_port()
        client = Client(self, node, port, local, int(prio), int(flags))
        self._clients[local] = client
        return client

    def forget_client(self, client: Client) -> None:
        """Release a client's port. Called by `Client.close`."""
        if self._clients.get(client.local_port) is client:
            del self._clients[client.local_port]

    async def request(
        self, node: int, port: int, data: bytes, *, prio: int = _NORM, timeout_s: float = 1.0
    ) -> bytes:
        """Send one packet, return the data of the one that comes back. Raises NoResponse."""
        with self.open(node, port, prio=prio) as client:
            client.send(data)
            return await client.receive(timeout_s)

    async def connect(
        self,
        node: int,
        port: int,
        *,
        prio: int = _HIGH,
        options: RdpOptions | None = None,
    ) -> Connection:
        """Open an RDP connection. Raises NoResponse after the connection timeout of the options.

        Raises Refused if the peer answers with a reset.
        """
        return await self.connections.connect(node, port, int(prio), options or RdpOptions())

    def is_broadcast(self, node: int) -> bool:
        """Tell whether many nodes may answer packets to this address."""
        return node == broadcast_address(self.version) or any(
            interface.subnet_broadcast == node and interface.host_bits
            for interface in self.interfaces
        )
