"""Encode and decode parameter queues: what pull and push packets carry.

Theory of operation: a queue is a row of items, each a header, some optional raw fields and, in
pushes and responses, a value. In version 2 the 16-bit header is byte swapped and then written as a
minimal MessagePack number, so it takes one, two or three bytes; node and timestamp are sticky:
an item without them means those of the item before. Source: csp.md 9.1, 9.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

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
            head = _head_v2(
                number,
                None if node == self._node else node,
                index,
                None if timestamp == self._timestamp else timestamp,
            )
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

    def take(self) -> bytes:
        """Return the queue and start an empty one, which names its node again."""
        queue = b"".join(self._parts)
        self._parts.clear()
        self._size, self._node, self._timestamp = 0, None, 0
        return queue


# A node answers for the same few parameters again and again.
@lru_cache(maxsize=1024)
def _head_v2(number: int, node: int | None, index: int | None, timestamp: int | None) -> bytes:
    """Encode what stands before a value; None is for what does not change."""
    header, tail = number & _ID_LOW, b""
    if index is not None:
        header |= _INDEX
        tail = index.to_bytes(1, "big")
    if node is not None:
        header |= _NODE
        tail += node.to_bytes(2, "big")
    if timestamp is not None:
        header |= _TIMESTAMP
        tail += timestamp.to_bytes(4, "big")
    if number > _ID_LOW:
        header |= _EXTENSION
        tail += ((number & 0xFC00) >> 8).to_bytes(1, "big")
    return encode_uint((header & 0xFF) << 8 | header >> 8) + tail


def _head_v1(number: int, node: int, index: int | None) -> bytes:
    if number > V1_ID_MAX or node > V1_NODE_MASK:
        raise MisuseError(f"id {number} at node {node} does not fit queue version 1")
    if index is None:
        return encode_uint(node << 11 | number)
    return encode_uint(node << 11 | _V1_INDEX | number) + index.to_bytes(1, "big")


def decode_queue(data: bytes, version: int = 2, *, has_values: bool) -> list[Item]:
    """Decode a whole queue. Raises DecodeError if it is not one from its first to last byte."""
    try:
        return _decode_v2(data, has_values) if version == 2 else _decode_v1(data, has_values)
    except IndexError:
        raise DecodeError("item cut off", offset=len(data)) from None


@lru_cache(maxsize=256)
def decode_request(data: bytes, version: int = 2) -> tuple[Item, ...]:
    """Decode a queue without values, remembering the last ones: polls repeat the same bytes."""
    return tuple(decode_queue(data, version, has_values=False))


# Both decoders index without looking at the length: an IndexError is a cut off item.


def _decode_v2(data: bytes, has_values: bool) -> list[Item]:
    items: list[Item] = []
    offset, size = 0, len(data)
    node: int | None = None
    timestamp = 0
    while offset < size:
        header, offset = _decode_header(data, offset)
        # The header travels byte swapped.
        header = (header & 0xFF) << 8 | header >> 8
        number, index, value = header & _ID_LOW, None, None
        if header & _INDEX:
            index = data[offset]
            offset += 1
        if header & _NODE:
            node = data[offset] << 8 | data[offset + 1]
            offset += 2
        if header & _TIMESTAMP:
            timestamp = data[offset + 3] | int.from_bytes(data[offset : offset + 3], "big") << 8
            offset += 4
        if header & _NANOSECONDS:
            offset += 4
        if header & _EXTENSION:
            number |= data[offset] << 8
            offset += 1
        if has_values:
            value, offset = decode_value(data, offset)
        items.append(Item(id=number, node=node, index=index, timestamp=timestamp, value=value))
    if offset > size:
        raise IndexError
    return items


def _decode_v1(data: bytes, has_values: bool) -> list[Item]:
    items: list[Item] = []
    offset = 0
    while offset < len(data):
        header, offset = _decode_header(data, offset)
        index, value = None, None
        if header & _V1_INDEX:
            index = data[offset]
            offset += 1
        if has_values:
            value, offset = decode_value(data, offset)
        items.append(Item(id=header & V1_ID_MAX, node=header >> 11, index=index, value=value))
    return items


def _decode_header(data: bytes, offset: int) -> tuple[int, int]:
    """Return a MessagePack number of at most 16 bits and where it ends."""
    first = data[offset]
    if first == 0xCD:
        return data[offset + 1] << 8 | data[offset + 2], offset + 3
    if first < 0x80:
        return first, offset + 1
    if first == 0xCC:
        return data[offset + 1], offset + 2
    raise DecodeError("not an item header", offset=offset, actual=f"{first:02x}")
