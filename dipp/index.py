"""The observation index, port 13: how many images there are, and what each one is.

One request per connection, any number of clients at once. Source: dipp.md 14.2, defect D19.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from csp.connection import Connection
from csp.errors import DecodeError, NoResponse
from csp.stack import Stack
from dipp.errors import ContentError
from dipp.ring import Ring

INDEX_PORT = 13
REQUEST_COUNT, REQUEST_ENTRY = 0, 1
_COUNT = struct.Struct("<I")
_ASK = struct.Struct("<BH")
_ENTRY = struct.Struct("<BH2xII")
_FOUND, _NOT_FOUND = 1, b"\0"
# A client that connects and says nothing; csh asks at once.
_REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """What the index says of an image: its position (0 = oldest), bytes of pixels, observation."""

    position: int
    size_bytes: int
    obid: int


def answer(ring: Ring, request: bytes) -> bytes | None:
    """Return the answer to a request; None if it is not one. Pure but for reading the ring."""
    if request[:1] == bytes([REQUEST_COUNT]):
        return _COUNT.pack(ring.count)
    if request[:1] != bytes([REQUEST_ENTRY]) or len(request) < _ASK.size:
        return None
    _, position = _ASK.unpack_from(request)
    element = ring.element(position)
    if element is None:
        return _NOT_FOUND
    try:
        metadata = ring.describe(element).metadata
    except (ContentError, OSError):
        return _NOT_FOUND
    return _ENTRY.pack(_FOUND, position, metadata.size, metadata.obid & 0xFFFFFFFF)


class IndexService:
    """Serves the index of a ring."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    async def serve(self, connection: Connection) -> None:
        """Answer one request; the caller closes the connection."""
        try:
            request = await connection.receive(_REQUEST_TIMEOUT_S)
        except NoResponse:
            return
        reply = None if request is None else answer(self._ring, request)
        if reply is not None:
            await connection.send(reply)


async def fetch_count(stack: Stack, node: int, timeout_s: float = 5.0) -> int:
    """Ask a node how many images it has. Raises PeerError."""
    reply = await _ask(stack, node, bytes([REQUEST_COUNT]), timeout_s)
    if len(reply) != _COUNT.size:
        raise DecodeError("not an image count", expected=_COUNT.size, actual=len(reply))
    return int(_COUNT.unpack(reply)[0])


async def fetch_entry(
    stack: Stack, node: int, position: int, timeout_s: float = 5.0
) -> IndexEntry | None:
    """Ask a node about one image, 0 = oldest; None if there is none. Raises PeerError."""
    reply = await _ask(stack, node, _ASK.pack(REQUEST_ENTRY, position), timeout_s)
    if reply == _NOT_FOUND:
        return None
    if len(reply) != _ENTRY.size:
        raise DecodeError("not an index entry", expected=_ENTRY.size, actual=len(reply))
    _, found, size, obid = _ENTRY.unpack(reply)
    return IndexEntry(position=found, size_bytes=size, obid=obid)


async def _ask(stack: Stack, node: int, request: bytes, timeout_s: float) -> bytes:
    connection = await stack.connect(node, INDEX_PORT)
    try:
        await connection.send(request)
        reply = await connection.receive(timeout_s)
    finally:
        connection.close()
    if reply is None:
        raise NoResponse(f"node {node} closed without an answer")
    return reply
