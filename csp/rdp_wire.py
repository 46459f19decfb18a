"""Encode and decode what RDP puts on the wire: the trailer and the options of a SYN. Pure.

Source: csp.md 6.1 and 6.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

from csp.errors import DecodeError

TRAILER = struct.Struct(">BHH")
TRAILER_BYTES = TRAILER.size
_OPTIONS = struct.Struct(">6I")

# The peer chooses these; the bounds keep a hostile choice from holding memory or flooding.
_MAX_WINDOW = 64
_MAX_TIMEOUT_MS = 600_000
# Faster repetition would be eaten by the peer's duplicate filter (100 ms).
_MIN_TIMEOUT_MS = 110


class RdpFlag(IntFlag):
    """Low nibble of the first trailer byte."""

    RST = 1
    EAK = 2
    ACK = 4
    SYN = 8


RST, ACK, SYN = int(RdpFlag.RST), int(RdpFlag.ACK), int(RdpFlag.SYN)


@dataclass(frozen=True, slots=True, kw_only=True)
class RdpOptions:
    """What the client proposes in its SYN. The defaults are those of libcsp: csp.md 6.2."""

    window: int = 4
    conn_timeout_ms: int = 10_000
    packet_timeout_ms: int = 1_000
    delayed_acks: bool = True
    ack_timeout_ms: int = 250
    ack_delay_count: int = 2

    def encode(self) -> bytes:
        """Encode the 24 bytes of a SYN."""
        return _OPTIONS.pack(
            self.window,
            self.conn_timeout_ms,
            self.packet_timeout_ms,
            int(self.delayed_acks),
            self.ack_timeout_ms,
            self.ack_delay_count,
        )

    @classmethod
    def decode(cls, data: bytes) -> RdpOptions:
        """Decode a SYN's data; more than 24 bytes are tolerated. Raises DecodeError if shorter."""
        if len(data) < _OPTIONS.size:
            raise DecodeError("SYN without options", expected=_OPTIONS.size, actual=len(data))
        window, conn, packet, delayed, ack, count = _OPTIONS.unpack_from(data)
        return cls(
            window=window,
            conn_timeout_ms=conn,
            packet_timeout_ms=packet,
            delayed_acks=bool(delayed),
            ack_timeout_ms=ack,
            ack_delay_count=count,
        )

    def bounded(self) -> RdpOptions:
        """Return the options with every number forced into what this node supports."""
        conn = _clamp(self.conn_timeout_ms, _MIN_TIMEOUT_MS, _MAX_TIMEOUT_MS)
        return RdpOptions(
            window=_clamp(self.window, 1, _MAX_WINDOW),
            conn_timeout_ms=conn,
            packet_timeout_ms=_clamp(self.packet_timeout_ms, _MIN_TIMEOUT_MS, conn),
            delayed_acks=self.delayed_acks,
            ack_timeout_ms=_clamp(self.ack_timeout_ms, 1, conn),
            ack_delay_count=_clamp(self.ack_delay_count, 0, _MAX_WINDOW),
        )


# For bulk transfer between our own nodes; a real node's queues hold a handful of packets only.
BULK = RdpOptions(window=32, ack_delay_count=8, ack_timeout_ms=100)


def _clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


class Segment(NamedTuple):
    """One RDP packet: trailer fields, and the data before them. A tuple for speed, as `Packet`."""

    flags: int
    seq: int
    ack: int
    data: bytes = b""

    def encode(self, rolling: int = 0) -> bytes:
        """Encode data and trailer; `rolling` is the high nibble of the flags byte."""
        return self.data + TRAILER.pack(self.flags | rolling << 4, self.seq, self.ack)


def decode_segment(payload: bytes) -> Segment:
    """Decode a payload, masking the rolling nibble. Raises DecodeError if it has no trailer."""
    size = len(payload) - TRAILER_BYTES
    if size < 0:
        raise DecodeError("no room for the RDP trailer", expected=5, actual=len(payload))
    flags, seq, ack = TRAILER.unpack_from(payload, size)
    return Segment(flags & 0x0F, seq, ack, payload[:size])


def reset_for(segment: Segment) -> Segment | None:
    """Return the reset that answers a segment of an unknown connection, None for no answer.

    Its numbers are those the peer expects next, so that a half-open peer believes it. A bare reset
    gets no answer, or two nodes would reset each other for ever.
    """
    if segment.flags & RST and not segment.flags & ACK:
        return None
    seq = (segment.ack + 1) & 0xFFFF if segment.flags & ACK else 0
    return Segment(RST, seq, segment.seq)
