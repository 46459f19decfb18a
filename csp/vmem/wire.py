"""Encode and decode what goes over port 14 for memory areas. Pure.

Source: csp.md 12; the ring request is csp.md 12.4 and dipp.md 14.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from csp.errors import DecodeError, MisuseError
from csp.packet import SAFE_DATA_BYTES
from csp.vmem.area import Area

VMEM_PORT = 14
CHUNK_BYTES = 192
REQUEST_BYTES = 18
VERSIONS = (1, 2, 3)


class RequestKind(IntEnum):
    """Second byte of a request. 3 to 5 (restore, backup, unlock) existed until 2024."""

    UPLOAD = 0
    DOWNLOAD = 1
    LIST = 2
    CRC32 = 6
    RING_UPLOAD = 7
    RING_DOWNLOAD = 8


# From here on kinds belong to handlers that somebody registered.
FIRST_USER_KIND = 7
# First byte of a procedure request, which shares the port (csp.md 12.5).
PROCEDURE_FLAG = 0x80

_HEAD = struct.Struct(">BB")
_RANGES = {1: struct.Struct(">II"), 2: struct.Struct(">QI"), 3: struct.Struct(">QQ")}
_WITH_RANGE = (RequestKind.UPLOAD, RequestKind.DOWNLOAD, RequestKind.CRC32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. `length` is 0 and means nothing for lists; user kinds have only `version`."""

    version: int
    kind: int
    address: int = 0
    length: int = 0


def encode_request(request: Request) -> bytes:
    """Encode the 18 bytes of a request. Raises MisuseError if the version cannot express it."""
    if request.version not in VERSIONS:
        raise MisuseError(f"vmem version {request.version} does not exist; use 1, 2 or 3")
    try:
        body = _RANGES[request.version].pack(request.address, request.length)
    except struct.error:
        raise MisuseError(
            f"{request.length} bytes at {request.address:#x} need a higher vmem version"
        ) from None
    return (_HEAD.pack(request.version, request.kind) + body).ljust(REQUEST_BYTES, b"\0")


def decode_request(data: bytes) -> Request:
    """Decode a request; shorter than 18 bytes is fine if what it needs is there.

    Raises DecodeError.
    """
    if len(data) < _HEAD.size:
        raise DecodeError("request too short", expected=_HEAD.size, actual=len(data))
    version, kind = _HEAD.unpack_from(data)
    if version not in VERSIONS:
        raise DecodeError("no such request version", offset=0, expected="1..3", actual=version)
    if kind not in _WITH_RANGE:
        return Request(version=version, kind=kind)
    layout = _RANGES[version]
    # An upload does not use its length.
    used = (4 if version == 1 else 8) if kind == RequestKind.UPLOAD else layout.size
    body = data[_HEAD.size : _HEAD.size + layout.size]
    if len(body) < used:
        raise DecodeError("request too short", expected=_HEAD.size + used, actual=len(data))
    address, length = layout.unpack(body.ljust(layout.size, b"\0"))
    return Request(version=version, kind=kind, address=address, length=length)


# -- ring requests, the exception that is little endian

_RING = struct.Struct("<BB5s3xi4x")
_RING_LENGTH = struct.Struct("<I")
_RING_NAME_BYTES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RingRequest:
    """A request to a ring of images. `value` is an index (negative: from the newest) or a length.

    `name` is cut to five characters on the wire.
    """

    kind: int
    name: str
    value: int
    version: int = 1


def encode_ring_request(request: RingRequest) -> bytes:
    """Encode the 18 bytes of a ring request. Raises MisuseError if the value has over 32 bits."""
    try:
        return _RING.pack(
            request.version,
            request.kind,
            request.name.encode("ascii", "replace")[:_RING_NAME_BYTES],
            request.value,
        )
    except struct.error:
        raise MisuseError(
            f"ring request with {request.value}: not a signed 32-bit number"
        ) from None


def decode_ring_request(data: bytes) -> RingRequest:
    """Decode a ring request; the last four bytes may be missing. Raises DecodeError."""
    needed = _RING.size - 4
    if len(data) < needed:
        raise DecodeError("ring request too short", expected=needed, actual=len(data))
    version, kind, name, value = _RING.unpack(data[: _RING.size].ljust(_RING.size, b"\0"))
    text = name.split(b"\0", 1)[0].decode("ascii", "replace")
    return RingRequest(version=version, kind=kind, name=text, value=value)


def encode_ring_length(length: int) -> bytes:
    """Encode the first packet of a ring download: the length of what follows."""
    return _RING_LENGTH.pack(length)


def decode_ring_length(data: bytes) -> int:
    """Decode the first packet of a ring download. Raises DecodeError."""
    if len(data) != _RING_LENGTH.size:
        raise DecodeError("not a ring length", expected=_RING_LENGTH.size, actual=len(data))
    return int(_RING_LENGTH.unpack(data)[0])


# -- lists

_RECORDS = {
    1: struct.Struct(">IIBB5s"),
    2: struct.Struct(">QIBB5s"),
    3: struct.Struct(">QQBB17s"),
}
_LIST_FIRST, _LIST_LAST = 0x40, 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaInfo:
    """An area as its node lists it. `id` is the position; always 0 in version 3."""

    name: str
    kind: int
    address: int
    size: int
    id: int = 0


def _record(version: int, number: int, area: Area) -> bytes:
    address, size, name = area.address, area.size, area.name.encode("ascii", "replace")
    if version == 3:
        return _RECORDS[3].pack(address, size, 0, area.kind, name[:16])
    # Cut like the reference does: ground then sees that the range cannot be right.
    if version == 1:
        address &= 0xFFFFFFFF
    return _RECORDS[version].pack(address, size & 0xFFFFFFFF, number & 0xFF, area.kind, name)


def encode_list(version: int, areas: Sequence[Area]) -> list[bytes]:
    """Encode a list; versions 1 and 2 are one packet, with as many areas as fit."""
    records = [_record(version, number, area) for number, area in enumerate(areas)]
    size = _RECORDS[version].size
    if version < 3:
        return [b"".join(records[: SAFE_DATA_BYTES // size])]
    per_packet = (CHUNK_BYTES - 1) // size
    groups = [records[i : i + per_packet] for i in range(0, len(records), per_packet)] or [[]]
    packets = []
    for position, group in enumerate(groups):
        flags = _LIST_FIRST if position == 0 else 0
        if position == len(groups) - 1:
            flags |= _LIST_LAST
        packets.append(bytes((flags,)) + b"".join(group))
    return packets


def is_last_list_packet(version: int, packet: bytes) -> bool:
    """Tell whether no more packets of a list follow."""
    return version < 3 or bool(packet[:1] and packet[0] & _LIST_LAST)


def decode_list(version: int, packets: Iterable[bytes]) -> list[AreaInfo]:
    """Decode the packets of a list. Raises DecodeError if one is not made of whole records."""
    layout, found = _RECORDS[version], []
    for packet in packets:
        body = packet[1:] if version == 3 else packet
        if (version == 3 and not packet) or len(body) % layout.size:
            raise DecodeError("not a list of areas", expected=layout.size, actual=len(packet))
        for address, size, number, kind, name in layout.iter_unpack(body):
            text = name.split(b"\0", 1)[0].decode("ascii", "replace")
            found.append(AreaInfo(name=text, kind=kind, address=address, size=size, id=number))
    return found


def chunks(read: Callable[[int, int], bytes], offset: int, length: int) -> Iterable[bytes]:
    """Yield `length` bytes from `offset` in pieces of `CHUNK_BYTES`."""
    for position in range(offset, offset + length, CHUNK_BYTES):
        yield read(position, min(CHUNK_BYTES, offset + length - position))
