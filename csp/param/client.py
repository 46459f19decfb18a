"""Pull and push parameters of other nodes, and download their lists.

Every request that needs more than one packet is split by size, and every wait has a deadline. Lost
pulls are repeated, pushes are not: a push whose acknowledgement got lost has been applied, and
repeating it would run its callbacks twice. Source: csp.md 10, 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from csp.errors import DecodeError, MisuseError, NoResponse, Refused
from csp.param.codec import (
    FLAG_ACK_VALUES,
    FLAG_END,
    INDEX_MAX,
    LIST_PORT,
    PARAM_PORT,
    PacketType,
    QueueWriter,
    decode_queue,
)
from csp.param.entry import decode_entry
from csp.param.errors import ParamError
from csp.param.msgpack import encode_value
from csp.param.spec import ParamSpec
from csp.param.types import Value
from csp.param.values import check_read, check_write
from csp.stack import Stack

# What csh pulls by default: all but parameters it got from others and hardware registers.
INCLUDE_ALL = 0xFFFFFFFF
EXCLUDE_DEFAULT = 0x00000012
# A table of 1024 big parameters; a peer that sends more is broken.
_MAX_RESPONSE_PACKETS = 2048
# Ids have 16 bits; more entries than that are not a list.
_MAX_LIST_ENTRIES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteParam:
    """A parameter of another node, as that node lists it."""

    spec: ParamSpec
    node: int
    storage: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PullItem:
    """What to pull: all elements, or the one with an index. A bare id is not type-checked."""

    param: RemoteParam | int
    index: int | None = None

    @property
    def id(self) -> int:
        """The parameter's id."""
        return self.param if isinstance(self.param, int) else self.param.spec.id


@dataclass(frozen=True, slots=True, kw_only=True)
class PushItem:
    """What to push: a scalar or a list, into all elements or from an index on."""

    param: RemoteParam
    value: Value
    index: int | None = None


@dataclass(slots=True)
class ClientCounters:
    """What the client has asked for; packets that had to be repeated count as retries."""

    pulls: int = 0
    pushes: int = 0
    list_downloads: int = 0
    retries: int = 0
    bad_entries: int = 0


_Key = tuple[int, int | None]
_RESPONSE_VERSIONS: dict[int, int] = {PacketType.RESPONSE: 2, PacketType.RESPONSE_V1: 1}


class ParamClient:
    """Parameter requests of one stack. `pull_attempts` bounds how often a pull is sent."""

    def __init__(
        self, stack: Stack, timeout_s: float = 1.0, *, pull_attempts: int = 3, version: int = 2
    ) -> None:
        if pull_attempts < 1:
            raise MisuseError("a pull needs at least one attempt")
        self.stack = stack
        self.timeout_s = timeout_s
        self.counters = ClientCounters()
        self._attempts = pull_attempts
        self._version = version

    # -- list

    async def download_list(
        self, node: int, *, version: int = 3, with_foreign: bool = False
    ) -> list[RemoteParam]:
        """Download a node's parameter list. Raises NoResponse, Refused.

        Entries that no parameter can be like are left out and counted. Entries that the node lists
        for other nodes are only included on demand.
        """
        self.counters.list_downloads += 1
        connection = await self.stack.connect(node, LIST_PORT)
        found: list[RemoteParam] = []
        try:
            for _ in range(_MAX_LIST_ENTRIES):
                data = await connection.receive()
                if data is None:
                    break
                try:
                    entry = decode_entry(data, version)
                except DecodeError:
                    self.counters.bad_entries += 1
                    continue
                if entry.node in (0, node) or with_foreign:
                    found.append(
                        RemoteParam(spec=entry.spec, node=entry.node or node, storage=entry.storage)
                    )
        finally:
            connection.close()
        return found

    # -- pull

    async def pull(self, node: int, items: Sequence[PullItem]) -> list[Value]:
        """Return the values in the order of the items. Raises NoResponse after all attempts.

        Raises Refused if the node left one out and DecodeError if a value is not of its type.
        """
        self.counters.pulls += 1
        wanted: dict[_Key, None] = {(item.id, item.index): None for item in items}
        values = await self._pull_keys(node, wanted)
        missing = [key for key in wanted if key not in values]
        # Unknown there, or in a response packet that got lost: asking again tells.
        if missing and len(missing) < len(wanted):
            self.counters.retries += 1
            values.update(await self._pull_keys(node, missing))
        return [_pick(node, item, values) for item in items]

    async def _pull_keys(self, node: int, keys: Iterable[_Key]) -> dict[_Key, Value]:
        kind = PacketType.PULL if self._version == 2 else PacketType.PULL_V1
        values: dict[_Key, Value] = {}
        for queue in self._split((key, b"") for key in keys):
            values.update(await self._pull_packets(node, bytes((kind, 0)) + queue(node)))
        return values

    async def pull_all(
        self, node: int, include: int = INCLUDE_ALL, exclude: int = EXCLUDE_DEFAULT
    ) -> dict[int, Value]:
        """Return the values of all parameters whose mask matches, by id. Raises NoResponse."""
        self.counters.pulls += 1
        if self._version == 2:
            request = bytes((PacketType.PULL_ALL, 0, 0, 0)) + include.to_bytes(4, "big")
            request += exclude.to_bytes(4, "big")
        else:
            request = bytes((PacketType.PULL_ALL_V1, 0, 0, 0)) + include.to_bytes(4, "big")
        values = await self._pull_packets(node, request)
        return {number: value for (number, _), value in values.items()}

    async def _pull_packets(self, node: int, request: bytes) -> dict[_Key, Value]:
        for attempt in range(self._attempts):
            try:
                return await self._exchange(node, request)
            except NoResponse:
                if attempt + 1 == self._attempts:
                    raise
                self.counters.retries += 1
        raise NoResponse(f"no response from node {node}")

    async def _exchange(self, node: int, request: bytes) -> dict[_Key, Value]:
        """Send a request from a fresh port and collect its responses up to the last one."""
        values: dict[_Key, Value] = {}
        with self.stack.open(node, PARAM_PORT) as client:
            client.send(request)
            for _ in range(_MAX_RESPONSE_PACKETS):
                data = await client.receive(self.timeout_s)
                if len(data) < 2:
                    raise DecodeError("response too short", expected=2, actual=len(data))
                if data[0] == PacketType.ACKNOWLEDGE:
                    return values
                version = _RESPONSE_VERSIONS.get(data[0])
                if version is None:
                    raise DecodeError("not a response", actual=data[0])
                for item in decode_queue(data[2:], version, has_values=True):
                    if item.value is not None:
                        values[item.id, item.index] = item.value
                if data[1] & FLAG_END:
                    return values
        raise DecodeError("a response without end", actual=_MAX_RESPONSE_PACKETS)

    # -- push

    async def push(
        self,
        node: int,
        items: Sequence[PushItem],
        ack: bool = True,
        *,
        hardware_id: int | None = None,
    ) -> list[Value] | None:
        """Write values. Returns, per item, what the node has stored, after its callbacks.

        With `ack` False the node confirms without values and None is returned. A value that the
        node does not read back is returned as pushed. Raises NoResponse if the node refused an
        item, does not know it, or does not answer: the protocol has no other sign. Raises
        ParamError, before anything is sent, for a value that does not fit.
        """
        self.counters.pushes += 1
        checked = [check_write(item.param.spec, item.value, item.index) for item in items]
        flags = FLAG_ACK_VALUES if ack else 0
        if hardware_id is not None:
            kind, tail = PacketType.PUSH_HWID, hardware_id.to_bytes(4, "little")
        else:
            kind, tail = PacketType.PUSH if self._version == 2 else PacketType.PUSH_V1, b""
        encoded = [
            pair
            for item, value in zip(items, checked, strict=True)
            for pair in _encode_push(item.param.spec, item.index, value)
        ]
        stored: dict[_Key, Value] = {}
        for queue in self._split(encoded):
            request = bytes((kind, flags)) + queue(node) + tail
            stored.update(await self._exchange(node, request))
        if not ack:
            return None
        return [_stored(item, value, stored) for item, value in zip(items, checked, strict=True)]

    def _split(self, pairs: Iterable[tuple[_Key, bytes]]) -> list[_Queue]:
        queues: list[_Queue] = [_Queue(self._version)]
        for (number, index), value in pairs:
            if not queues[-1].add(number, index, value):
                queues.append(_Queue(self._version))
                if not queues[-1].add(number, index, value):
                    raise MisuseError(f"value of parameter {number} does not fit a packet")
        return queues


class _Queue:
    """The items of one request packet; encoded once the node is known."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._probe = QueueWriter(version)
        self._items: list[tuple[int, int | None, bytes]] = []

    def add(self, number: int, index: int | None, value: bytes) -> bool:
        """Append an item; False if the packet is full."""
        if not self._probe.add(number, node=0, index=index, value=value):
            return False
        self._items.append((number, index, value))
        return True

    def __call__(self, node: int) -> bytes:
        """Return the encoded queue for a node."""
        writer = QueueWriter(self._version)
        for number, index, value in self._items:
            writer.add(number, node=node, index=index, value=value)
        return writer.take()


# Elements per pushed item when an array does not fit one packet: 16 doubles take 146 bytes.
_CHUNK = 16


def _encode_push(spec: ParamSpec, index: int | None, value: Value) -> list[tuple[_Key, bytes]]:
    """Encode a checked value as one item, or as several if it is a long array."""
    raw = encode_value(spec.row, value)
    if not isinstance(value, list) or len(value) <= _CHUNK:
        return [((spec.id, index), raw)]
    first = index or 0
    pairs: list[tuple[_Key, bytes]] = []
    for start in range(0, len(value), _CHUNK):
        if first + start > INDEX_MAX:
            raise MisuseError(f"elements of {spec.name} above {INDEX_MAX} cannot be addressed")
        chunk: Value = value[start : start + _CHUNK]
        pairs.append(((spec.id, first + start), encode_value(spec.row, chunk)))
    return pairs


def _checked(spec: ParamSpec, value: Value, index: int | None) -> Value:
    try:
        return check_read(spec, value, index)
    except ParamError as error:
        raise DecodeError(f"value does not match the list: {error}") from None


def _pick(node: int, item: PullItem, values: dict[_Key, Value]) -> Value:
    value = values.get((item.id, item.index))
    if value is None:
        raise Refused(f"node {node} has no parameter {item.id}, or no such element")
    if isinstance(item.param, int):
        return value
    return _checked(item.param.spec, value, item.index)


def _stored(item: PushItem, pushed: Value, stored: dict[_Key, Value]) -> Value:
    spec = item.param.spec
    value = stored.get((spec.id, None))
    if value is None:
        return pushed
    value = _checked(spec, value, None)
    if item.index is None or not isinstance(value, list):
        return value
    count = len(pushed) if isinstance(pushed, list) else 1
    part = value[item.index : item.index + count]
    return part if isinstance(pushed, list) else part[0]
