"""Encode and decode parameter queues: what pull and push packets carry.

Theory of operation: a queue is a row of items, each a header, some optional raw fields and, in
pushes and responses, a value. In version 2 the 16-bit header is byte swapped and then written as a
minimal MessagePack number, so it takes one, two or three bytes; node and timestamp are sticky:
an item without them means those of the item before. Source: csp.md 9.1, 9.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from csp.errors import DecodeError, MisuseError
from csp.param.msgpack import decode_value, encode_uint
from csp.param.types import Value

PARAM_PORT = 10
LIST_PORT = 12
# A node must take 256-byte buffers; every known server uses this size (csp.md 2.6, 11.1).
QUEUE_MAX_BYTES = 200
INDEX_MAX = 127  # one byte that receivers read as signed, csp.md 9
V1_ID_MAX = 511
V1_NODE_MASK = 0x1F

FLAG_END = 0x80
FLAG_NOACK = 0x40
FLAG_ACK_VALUES = 0x01


class PacketType(IntEnum):
    """First byte of every packet on port 10. Source: csp.md 11, 13."""

    PULL_V1 = 0
    RESPONSE_V1 = 1
    PUSH_V1 = 2
    ACKNOWLEDGE = 3
    PULL_ALL_V1 = 4
    PULL = 5
    RESPONSE = 6
    PUSH = 7
    PULL_ALL = 8
    PUSH_HWID = 33
    # Reserved: 9, 14 to 20 and 32 are schedule services, 21 to 29 stored commands (csp.md 13).


_INDEX, _NODE, _TIMESTAMP, _EXTENSION, _NANOSECONDS = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800
_ID_LOW = 0x03FF
_V1_INDEX = 0x0400


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a queue. `node` is None if neither it nor an item before names one.

    `timestamp` is Unix seconds, 0 for none. `value` is None in requests. `index` is the raw byte:
    above 127 it is negative for the receiver, hence invalid.
    """

    id: int
    node: int | None = None
    index: int | None = None
    timestamp: int = 0
    value: Value | None = None


class QueueWriter:
    """Collect items until `limit` bytes are full; `take` hands out the queue and starts anew."""

    def __init__(self, version: int = 2, limit: int = QUEUE_MAX_BYTES) -> None:
        if version not in (1, 2):
            raise MisuseError(f"queue version {version} does not exist; use 1 or 2")
        self._version = version
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._node: int | None = None
        self._timestamp = 0

    def __len__(self) -> int:
        return self._size

    def add(
        self,
        number: int,
        *,
        node: int,
        index: int | None = None,
        timestamp: int = 0,
        value: bytes = b"",
    ) -> bool:
        """Append an item whose value is already encoded; False, and nothing added, if full.

        Raises MisuseError for an id, node or index that the version cannot express.
        """
        if index is not None and not 0 <= index <= INDEX_MAX:
            raise MisuseError(f"element {index} cannot be addressed singly, only 0..{INDEX_MAX}")
        if self._version == 2:
            head = self._head(number, node, index, timestamp)
        else:
            head = _head_v1(number, node, index)
        size = self._size + len(head) + len(value)
        if size > self._limit:
            return False
        if self._version == 2:
            self._node, self._timestamp = node, timestamp
        self._parts += (head, value)
        self._size = size
        return True

    def _head(self, number: int, node: int, index: int | None, timestamp: int) -> bytes:
        header, tail = number & _ID_LOW, b""
        if index is not None:
            header |= _INDEX
            tail = index.to_bytes(1, "big")
        if node != self._node:
            header |= _NODE
            tail += node.to_bytes(2, "big")
        if timestamp != self._timestamp:
            header |= _TIMESTAMP
            tail += timestamp.to_bytes(4, "big")
        if number > _ID_LOW:
            header |= _EXTENSION
            tail += ((number & 0xFC00) >> 8).to_bytes(1, "big")
        return encode_uint((header & 0xFF) << 8 | header >> 8) + tail

    def take(self) -> bytes:
        """Return the queue and start an empty one, which names its node again."""
        queue = b"".join(self._parts)
        self._parts.clear()
        self._size, self._node, self._timestamp = 0, None, 0
        return queue


def _head_v1(number: int, node: int, index: int | None) -> bytes:
    if number > V1_ID_MAX or node > V1_NODE_MASK:
        raise MisuseError(f"id {number} at node {node} does not fit queue version 1")
    if index is None:
        return encode_uint(node << 11 | number)
    return encode_uint(node << 11 | _V1_INDEX | number) + index.to_bytes(1, "big")


class _Reader:
    """A position in a queue, and what is sticky."""

    __slots__ = ("data", "node", "offset", "timestamp")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0
        self.node: int | None = None
        self.timestamp = 0

    def raw(self, size: int) -> int:
        """Take `size` bytes as a big-endian number."""
        start, end = self.offset, self.offset + size
        if end > len(self.data):
            raise DecodeError("item cut off", offset=start, expected=end, actual=len(self.data))
        self.offset = end
        return int.from_bytes(self.data[start:end], "big")

    def header(self) -> int:
        """Take a MessagePack number of at most 16 bits."""
        start = self.offset
        first = self.raw(1)
        if first < 0x80:
            return first
        if first == 0xCC:
            return self.raw(1)
        if first == 0xCD:
            return self.raw(2)
        raise DecodeError("not an item header", offset=start, actual=f"{first:02x}")

    def item(self, has_value: bool) -> Item:
        """Take one item of a version 2 queue."""
        swapped = self.header()
        header = (swapped & 0xFF) << 8 | swapped >> 8
        number, index = header & _ID_LOW, None
        if header & _INDEX:
            index = self.raw(1)
        if header & _NODE:
            self.node = self.raw(2)
        if header & _TIMESTAMP:
            self.timestamp = self.raw(4)
        if header & _NANOSECONDS:
            self.raw(4)
        if header & _EXTENSION:
            number |= self.raw(1) << 8
        return self._finish(number, self.node, index, self.timestamp, has_value)

    def item_v1(self, has_value: bool) -> Item:
        """Take one item of a version 1 queue."""
        header = self.header()
        index = self.raw(1) if header & _V1_INDEX else None
        return self._finish(header & V1_ID_MAX, header >> 11, index, 0, has_value)

    def _finish(
        self, number: int, node: int | None, index: int | None, timestamp: int, has_value: bool
    ) -> Item:
        if not has_value:
            return Item(id=number, node=node, index=index, timestamp=timestamp)
        value, self.offset = decode_value(self.data, self.offset)
        return Item(id=number, node=node, index=index, timestamp=timestamp, value=value)


def decode_queue(data: bytes, version: int = 2, *, has_values: bool) -> list[Item]:
    """Decode a whole queue. Raises DecodeError if it is not one from its first to last byte."""
    reader = _Reader(data)
    take = reader.item if version == 2 else reader.item_v1
    items = []
    while reader.offset < len(data):
        items.append(take(has_values))
    return items
