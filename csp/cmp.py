"""Encode and decode CSP management records (CMP, port 0). Pure.

A request may be shorter than its record, and what follows the fields it defines may be garbage;
replies are always complete. Source: csp.md 5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from csp.errors import DecodeError
from csp.interface import InterfaceCounters

REQUEST = 0x00
REPLY = 0xFF

_IDENT = struct.Struct(">20s30s20s12s9s")
_ROUTE_V1 = struct.Struct(">BB11s")
_ROUTE_V2 = struct.Struct(">HHH11sx")
_IF_NAME = struct.Struct(">11s")
_IF_STATS = struct.Struct(">11s10I")
_CLOCK = struct.Struct(">II")
# The client appends three bytes of padding to peek and poke records.
_MEMORY_PADDING = bytes(3)
_NANOSECONDS = 1_000_000_000


class Code(IntEnum):
    """Second byte of a record."""

    IDENT = 1
    ROUTE_SET_V1 = 2
    IF_STATS = 3
    PEEK = 4
    POKE = 5
    CLOCK = 6
    ROUTE_SET_V2 = 7
    PEEK_V2 = 8
    POKE_V2 = 9


_MEMORY = {
    Code.PEEK: (struct.Struct(">IB"), 200),
    Code.POKE: (struct.Struct(">IB"), 200),
    Code.PEEK_V2: (struct.Struct(">QB"), 196),
    Code.POKE_V2: (struct.Struct(">QB"), 196),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ident:
    """Who a node is. Each text is cut to its field, leaving room for a NUL."""

    hostname: str
    model: str = ""
    revision: str = ""
    date: str = ""
    time: str = ""

    def encode(self) -> bytes:
        """Encode the body of an ident reply, 91 bytes."""
        texts = (self.hostname, self.model, self.revision, self.date, self.time)
        sizes = (20, 30, 20, 12, 9)
        return _IDENT.pack(
            *(text.encode()[: size - 1] for text, size in zip(texts, sizes, strict=True))
        )

    @classmethod
    def decode(cls, body: bytes) -> Ident:
        """Decode the body of an ident reply. Raises DecodeError if it is too short."""
        hostname, model, revision, date, time = map(_text, _unpack(_IDENT, body))
        return cls(hostname=hostname, model=model, revision=revision, date=date, time=time)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceStats:
    """Counters of one interface as they travel."""

    name: str
    counters: InterfaceCounters

    def encode(self) -> bytes:
        """Encode the body of an if_stats reply, 51 bytes."""
        values = (getattr(self.counters, field) & 0xFFFFFFFF for field in _COUNTER_FIELDS)
        return _IF_STATS.pack(self.name.encode()[:10], *values)

    @classmethod
    def decode(cls, body: bytes) -> InterfaceStats:
        """Decode the body of an if_stats reply. Raises DecodeError if it is too short."""
        name, *values = _unpack(_IF_STATS, body)
        counters = InterfaceCounters(**dict(zip(_COUNTER_FIELDS, values, strict=True)))
        return cls(name=_text(name), counters=counters)


_COUNTER_FIELDS = tuple(InterfaceCounters.__slots__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """A point in time; zero in a request means "tell", anything else "set"."""

    unix_ns: int

    def encode(self) -> bytes:
        """Encode the eight bytes of a clock body; times outside 32-bit seconds wrap."""
        seconds, nanoseconds = divmod(self.unix_ns, _NANOSECONDS)
        return _CLOCK.pack(seconds & 0xFFFFFFFF, nanoseconds)

    @classmethod
    def decode(cls, body: bytes) -> Clock:
        """Decode a clock body. Raises DecodeError if too short or the nanoseconds too many."""
        seconds, nanoseconds = _unpack(_CLOCK, body)
        if nanoseconds >= _NANOSECONDS:
            raise DecodeError("more than a second of nanoseconds", offset=4, actual=nanoseconds)
        return cls(unix_ns=seconds * _NANOSECONDS + nanoseconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAccess:
    """A peek (no data in the request) or poke of `length` bytes."""

    address: int
    length: int
    data: bytes = b""

    def encode(self, code: Code) -> bytes:
        """Encode the body: address, length, `length` bytes, padding."""
        return (
            _MEMORY[code][0].pack(self.address, self.length)
            + self.data[: self.length].ljust(self.length, b"\0")
            + _MEMORY_PADDING
        )

    @classmethod
    def decode(cls, code: Code, body: bytes) -> MemoryAccess:
        """Decode a body. Raises DecodeError if it is too long or a poke lacks data."""
        layout, limit = _MEMORY[code]
        address, length = _unpack(layout, body)
        if length > limit:
            raise DecodeError("access too long", expected=limit, actual=length)
        data = body[layout.size : layout.size + length]
        if code in (Code.POKE, Code.POKE_V2) and len(data) < length:
            raise DecodeError("poke without its data", expected=length, actual=len(data))
        return cls(address=address, length=length, data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSet:
    """A route to be set. `netmask` is None in version 1; `via` 255 or 65535 is "no next hop"."""

    destination: int
    via: int
    netmask: int | None
    interface: str

    def encode(self) -> bytes:
        """Encode the body in the version that has a netmask, or the one that has none."""
        name = self.interface.encode()[:10]
        if self.netmask is None:
            return _ROUTE_V1.pack(self.destination, self.via, name)
        return _ROUTE_V2.pack(self.destination, self.via, self.netmask, name)

    @property
    def has_next_hop(self) -> bool:
        """Whether packets shall go to another node first."""
        return self.via != (0xFF if self.netmask is None else 0xFFFF)

    @classmethod
    def decode(cls, code: Code, body: bytes) -> RouteSet:
        """Decode a body. Raises DecodeError if it is too short."""
        netmask: int | None = None
        if code is Code.ROUTE_SET_V1:
            destination, via, name = _unpack(_ROUTE_V1, body)
        else:
            destination, via, netmask, name = _unpack(_ROUTE_V2, body)
        return cls(destination=destination, via=via, netmask=netmask, interface=_text(name))


def decode_interface_name(body: bytes) -> str:
    """Decode the body of an if_stats request. Raises DecodeError if it is too short."""
    return _text(_unpack(_IF_NAME, body)[0])


def encode_if_stats_request(name: str) -> bytes:
    """Encode an if_stats request as csh sends it: the full record with the name set."""
    return bytes((REQUEST, Code.IF_STATS)) + _IF_STATS.pack(name.encode()[:10], *(0,) * 10)


def encode_record(kind: int, code: Code, body: bytes = b"") -> bytes:
    """Put type and code before a body."""
    return bytes((kind, code)) + body


def decode_reply(data: bytes, code: Code) -> bytes:
    """Return the body of a reply. Raises DecodeError if it is not one to this code."""
    if len(data) < 2:
        raise DecodeError("CMP record too short", expected=2, actual=len(data))
    if data[0] != REPLY or data[1] != code:
        raise DecodeError("not the CMP reply", expected=f"ff {code:02x}", actual=data[:2].hex(" "))
    return data[2:]


def _unpack(layout: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) < layout.size:
        raise DecodeError("CMP body too short", expected=layout.size, actual=len(body))
    return layout.unpack_from(body)


def _text(field: bytes) -> str:
    # The peer is free to send no UTF-8; the operator shall still see something.
    return field.partition(b"\0")[0].decode(errors="replace")
