"""Answer parameter pulls and pushes, and list the parameters of a node.

Theory of operation: `ParamServer.answer` turns the bytes of one request packet into the bytes of
its response packets and does nothing else; who sent it does not matter. A request that does not
decode is refused as a whole. In a push every item stands alone: good ones are applied even if
others are refused, but then there is no answer, because "No response" is the only negative signal
that real shells understand. Refused: an unknown parameter, another node, a read-only parameter, a
value of another kind, a value out of range (real servers truncate, we do not), an element that
does not exist. Each refusal is counted, and the last ones are kept in `refusals`.
Source: csp.md 9 to 11.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from csp.errors import DecodeError, MisuseError
from csp.packet import Packet
from csp.param.codec import (
    FLAG_ACK_VALUES,
    FLAG_END,
    FLAG_NOACK,
    INDEX_MAX,
    QUEUE_MAX_BYTES,
    V1_ID_MAX,
    V1_NODE_MASK,
    Item,
    PacketType,
    QueueWriter,
    decode_queue,
    decode_request,
)
from csp.param.entry import ListEntry, encode_entry
from csp.param.errors import ParamError
from csp.param.msgpack import encode_value
from csp.param.table import Parameter, ParamTable
from csp.param.types import Mask

# Always accepted as hardware id (csp.md 11, type 33).
HARDWARE_ID_WILDCARD = 1234
# Enough to see what an operator did wrong this pass; cannot grow in a node that runs for months.
REFUSALS_KEPT = 32

_ACKNOWLEDGE = bytes((PacketType.ACKNOWLEDGE, FLAG_END))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why one item or packet had no effect. `id` is None for a whole packet."""

    packet_type: int
    id: int | None
    reason: str


@dataclass(slots=True)
class ServerCounters:
    """What the server has seen and done since it started."""

    pulls: int = 0
    pushes: int = 0
    lists: int = 0
    items_written: int = 0
    items_refused: int = 0
    packets_refused: int = 0


class EntrySink(Protocol):
    """What a list download needs of an RDP connection."""

    async def send(self, data: bytes) -> None:
        """Send one packet, waiting for the window."""


class ParamServer:
    """The parameter server of one node.

    `addresses` are the node's own (a live collection is fine); node 0 is always accepted.
    `hardware_id` is what a push of type 33 must name. `commit` runs after the items of a push are
    applied and before it is acknowledged: it makes the values durable, or raises MisuseError and
    then there is no answer. `storage_kinds` says which kind a vmem area has, by name. The last
    three may be set later.
    """

    def __init__(
        self,
        table: ParamTable,
        addresses: Collection[int] = (),
        *,
        hardware_id: Callable[[], int] | None = None,
        commit: Callable[[], None] | None = None,
        storage_kinds: Mapping[str, int] | None = None,
    ) -> None:
        self.table = table
        self.counters = ServerCounters()
        self.refusals: deque[Refusal] = deque(maxlen=REFUSALS_KEPT)
        self._addresses = addresses
        self.hardware_id = hardware_id
        self.commit = commit
        self.storage_kinds: Mapping[str, int] = storage_kinds or {}

    # -- port 10

    def answer(self, request: bytes) -> list[bytes]:
        """Serve one packet and return the packets to send back. Never raises on content."""
        if len(request) < 2:
            self._refuse_packet(request, "shorter than two bytes")
            return []
        handler = _HANDLERS.get(request[0])
        if handler is None:
            self._refuse_packet(request, "no such packet type")
            return []
        try:
            return handler(self, request)
        except DecodeError as error:
            self._refuse_packet(request, str(error))
            return []

    def handle(self, packet: Packet) -> list[bytes]:
        """Serve a packet: the handler to bind to port 10, CRC required."""
        return self.answer(packet.data)

    def _pull(self, request: bytes) -> list[bytes]:
        version = 1 if request[0] == PacketType.PULL_V1 else 2
        items = decode_request(request[2:], version)
        self.counters.pulls += 1
        response = _Response(version)
        for item in items:
            parameter = self._find(item, version)
            if parameter is None:
                self._refuse(request, item.id, "unknown here")
            elif item.index is None:
                self._add(request, response, parameter)
            elif item.index <= INDEX_MAX and item.index < parameter.elements:
                self._add(request, response, parameter, item.index)
            else:
                self._refuse(request, item.id, f"no element {item.index}")
        return response.finish()

    def _pull_all(self, request: bytes) -> list[bytes]:
        version = 1 if request[0] == PacketType.PULL_ALL_V1 else 2
        size = 8 if version == 1 else 12
        if len(request) < size:
            raise DecodeError("pull-all request too short", expected=size, actual=len(request))
        include = int.from_bytes(request[4:8], "big")
        exclude = int.from_bytes(request[8:12], "big") if version == 2 else 0
        exclude |= int(Mask.HIDDEN)
        self.counters.pulls += 1
        response = _Response(version)
        for parameter in self.table:
            mask = parameter.mask
            expressible = version == 2 or parameter.id <= V1_ID_MAX
            if mask & include and not mask & exclude and expressible:
                self._add(request, response, parameter)
        return response.finish()

    def _push(self, request: bytes) -> list[bytes]:
        version = 1 if request[0] == PacketType.PUSH_V1 else 2
        return self._apply(request, decode_queue(request[2:], version, has_values=True), version)

    def _push_hardware_id(self, request: bytes) -> list[bytes]:
        if len(request) < 6:
            raise DecodeError("no room for the hardware id", expected=6, actual=len(request))
        named = int.from_bytes(request[-4:], "little")
        own = self.hardware_id() & 0xFFFFFFFF if self.hardware_id is not None else None
        if named not in (own, HARDWARE_ID_WILDCARD):
            self._refuse_packet(request, f"hardware id {named} is not ours")
            return []
        return self._apply(request, decode_queue(request[2:-4], has_values=True), 2)

    def _ignore(self, request: bytes) -> list[bytes]:
        """Responses and acknowledgements of others get no answer, csp.md 11."""
        return []

    def _apply(self, request: bytes, items: list[Item], version: int) -> list[bytes]:
        self.counters.pushes += 1
        written: dict[int, Parameter] = {}
        refused = False
        for item in items:
            parameter = self._find(item, version)
            if parameter is None:
                self._refuse(request, item.id, "unknown here")
                refused = True
                continue
            try:
                _write(parameter, item)
            except ParamError as error:
                self._refuse(request, item.id, str(error))
                refused = True
            else:
                self.counters.items_written += 1
                written[item.id] = parameter
        if self.commit is not None and written:
            try:
                self.commit()
            except MisuseError as error:
                self._refuse_packet(request, f"applied but not stored: {error}")
                return []
        if refused:
            return []
        return self._acknowledge(request, written.values(), version)

    def _acknowledge(
        self, request: bytes, written: Iterable[Parameter], version: int
    ) -> list[bytes]:
        flags = request[1]
        if flags & FLAG_NOACK:
            return []
        # Version 1 knows only the plain acknowledgement (csp.md 11).
        if version == 1 or not flags & FLAG_ACK_VALUES:
            return [_ACKNOWLEDGE]
        response = _Response(version)
        for parameter in written:
            self._add(request, response, parameter)
        return response.finish()

    def _find(self, item: Item, version: int) -> Parameter | None:
        node = item.node
        own = node == 0 or node in self._addresses
        if version == 1 and not own:
            # The node field has five bits there, our address may have more.
            own = any(address & V1_NODE_MASK == node for address in self._addresses)
        return self.table.find_id(item.id) if own else None

    def _add(
        self, request: bytes, response: _Response, parameter: Parameter, index: int | None = None
    ) -> None:
        value = parameter.get_all() if index is None else parameter.get(index)
        raw = encode_value(parameter.row, value)
        if not response.add(parameter.id, index, raw):
            self._refuse(request, parameter.id, f"{len(raw)} bytes do not fit a packet")

    def _refuse(self, request: bytes, number: int, reason: str) -> None:
        self.counters.items_refused += 1
        self.refusals.append(Refusal(packet_type=request[0], id=number, reason=reason))

    def _refuse_packet(self, request: bytes, reason: str) -> None:
        self.counters.packets_refused += 1
        kind = request[0] if request else -1
        self.refusals.append(Refusal(packet_type=kind, id=None, reason=reason))

    # -- port 12

    def entries(self) -> list[bytes]:
        """Return the list entries of all parameters that are not hidden, in table order."""
        return [
            encode_entry(
                ListEntry(
                    spec=parameter.spec,
                    storage=self.storage_kinds.get(parameter.spec.area or "", 0),
                )
            )
            for parameter in self.table
            if not parameter.mask & Mask.HIDDEN
        ]

    async def serve_list(self, connection: EntrySink) -> None:
        """Send one packet per parameter. Returning closes the connection, which ends the list."""
        self.counters.lists += 1
        for entry in self.entries():
            await connection.send(entry)


def _write(parameter: Parameter, item: Item) -> None:
    """Write a pushed value. A scalar without index means element 0, as in real servers."""
    if item.value is None:
        raise ParamError("an item without value")
    index = 0 if item.index is None else item.index
    if index > INDEX_MAX:
        raise ParamError(f"element {index - 256} does not exist")
    parameter.write(item.value, index)


class _Response:
    """Collect response items into packets of at most `QUEUE_MAX_BYTES` of queue."""

    __slots__ = ("_packets", "_type", "_writer")

    def __init__(self, version: int) -> None:
        self._type = PacketType.RESPONSE if version == 2 else PacketType.RESPONSE_V1
        self._writer = QueueWriter(version, QUEUE_MAX_BYTES)
        self._packets: list[bytes] = []

    def add(self, number: int, index: int | None, value: bytes) -> bool:
        """Append an item of node 0; False if it does not even fit an empty packet."""
        if self._writer.add(number, node=0, index=index, value=value):
            return True
        if not len(self._writer):
            return False
        self._packets.append(bytes((self._type, 0)) + self._writer.take())
        return self._writer.add(number, node=0, index=index, value=value)

    def finish(self) -> list[bytes]:
        """Return all packets; the last one carries the END flag."""
        self._packets.append(bytes((self._type, FLAG_END)) + self._writer.take())
        return self._packets


_HANDLERS: dict[int, Callable[[ParamServer, bytes], list[bytes]]] = {
    PacketType.PULL_V1: ParamServer._pull,
    PacketType.PULL: ParamServer._pull,
    PacketType.PULL_ALL_V1: ParamServer._pull_all,
    PacketType.PULL_ALL: ParamServer._pull_all,
    PacketType.PUSH_V1: ParamServer._push,
    PacketType.PUSH: ParamServer._push,
    PacketType.PUSH_HWID: ParamServer._push_hardware_id,
    PacketType.RESPONSE_V1: ParamServer._ignore,
    PacketType.RESPONSE: ParamServer._ignore,
    PacketType.ACKNOWLEDGE: ParamServer._ignore,
}
