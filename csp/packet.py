"""Turn CSP packets into frames and back: header, checksum trailer, limits.

Theory of operation: a frame is header, payload, checksum; the payload is the data plus whatever
trailers (SFP, RDP, HMAC) the upper layers appended, see csp.md 2.4. This file knows the header and
the checksum only. Nothing in a frame tells the CSP version; it is a network-wide setting and an
argument here. `prio` and `flags` are plain ints in `Packet`, because enum arithmetic would cost
more than the rest of the codec; `Priority` and `Flag` name their values.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from csp.crc import crc32c
from csp.errors import DecodeError, MisuseError

# The data buffer of csh, trailers included (csp.md 2.6). Bigger frames cannot come from a real
# node, so they are refused before any memory is spent on them.
MAX_PAYLOAD_BYTES = 2048
# What every real node can receive: 256-byte buffers minus checksum and RDP trailer (csp.md 2.6).
SAFE_DATA_BYTES = 256 - 4 - 5

CRC_BYTES = 4
HEADER_BYTES = {1: 4, 2: 6}
ADDRESS_BITS = {1: 5, 2: 14}
PORT_LIMIT = 64


class Priority(IntEnum):
    """Two-bit priority of the header; 0 goes first."""

    CRITICAL = 0
    HIGH = 1
    NORM = 2
    LOW = 3


class Flag(IntFlag):
    """Header flags (csp.md 2.3). 0x04 (old XTEA) and 0x20 upwards are unused."""

    CRC32 = 0x01
    RDP = 0x02
    HMAC = 0x08
    FRAGMENT = 0x10


_CRC32 = int(Flag.CRC32)


class Packet(NamedTuple):
    """One CSP packet. `data` is the payload without the checksum, with all other trailers.

    Name the fields when making one. It is a named tuple because a frozen dataclass takes five
    times as long to make, which was a third of the cost of a packet.
    """

    dst: int
    src: int
    dport: int
    sport: int
    prio: int = 2
    flags: int = _CRC32
    data: bytes = b""


def broadcast_address(version: int) -> int:
    """Return the address that means everybody: 16383 in v2, 31 in v1."""
    return (1 << ADDRESS_BITS[version]) - 1


def check_version(version: int) -> int:
    """Return the version if it is 1 or 2. Raises MisuseError."""
    if version not in HEADER_BYTES:
        raise MisuseError(f"CSP version {version} does not exist; use 1 or 2")
    return version


def encode_header(packet: Packet, version: int) -> bytes:
    """Encode the header alone. Raises MisuseError if a field does not fit."""
    prio, dst, src = packet.prio, packet.dst, packet.src
    # A plain int, also of a `Flag`: enum remembers every value that `|` ever made of one.
    dport, sport, flags = packet.dport, packet.sport, +packet.flags
    if version == 2:
        fits = (prio | dport >> 4 | sport >> 4) < 4 and flags < 64 and (dst | src) < 16384
        word = prio << 46 | dst << 32 | src << 18 | dport << 12 | sport << 6 | flags
        size = 6
    else:
        fits = (prio | dport >> 4 | sport >> 4) < 4 and flags < 256 and (dst | src) < 32
        word = prio << 30 | src << 25 | dst << 20 | dport << 14 | sport << 8 | flags
        size = 4
    if not fits or min(prio, dst, src, dport, sport, flags) < 0:
        raise MisuseError(f"a header field does not fit CSP version {version}: {packet!r:.200}")
    return word.to_bytes(size, "big")


def encode_frame(packet: Packet, version: int = 2) -> bytes:
    """Encode header and payload, and append the checksum if the CRC32 flag is set.

    The checksum covers the payload only: a receiver of 2024 knows no other form (csp.md 2.5).
    Raises MisuseError if a field does not fit or the payload exceeds `MAX_PAYLOAD_BYTES`.
    """
    data = packet.data
    if packet.flags & _CRC32:
        data = data + crc32c(data).to_bytes(4, "big")
    if len(data) > MAX_PAYLOAD_BYTES:
        raise MisuseError(f"payload of {len(data)} bytes, limit is {MAX_PAYLOAD_BYTES}")
    return encode_header(packet, version) + data


def destination(frame: bytes, version: int) -> int:
    """Return the destination of a frame that has at least its header; cheap, for filters."""
    if version == 2:
        return (frame[0] & 0x3F) << 8 | frame[1]
    return (frame[0] & 1) << 4 | frame[1] >> 4


def check_size(frame: bytes, version: int) -> None:
    """Raise DecodeError unless the frame is as long as a frame can be."""
    header = HEADER_BYTES[version]
    if len(frame) < header:
        raise DecodeError("frame shorter than its header", expected=header, actual=len(frame))
    if len(frame) > header + MAX_PAYLOAD_BYTES:
        raise DecodeError("frame too long", expected=header + MAX_PAYLOAD_BYTES, actual=len(frame))


def _strip_crc(frame: bytes, header: int) -> bytes:
    end = len(frame) - CRC_BYTES
    if end < header:
        raise DecodeError("no room for the checksum", offset=header, actual=len(frame) - header)
    payload = frame[header:end]
    stored = int.from_bytes(frame[end:], "big")
    # Senders of 2025 may cover the header too; both are legal (csp.md 2.5).
    if crc32c(payload) != stored and crc32c(frame[:end]) != stored:
        raise DecodeError(
            "checksum mismatch",
            offset=end,
            expected=f"{crc32c(payload):08x}",
            actual=f"{stored:08x}",
        )
    return payload


def decode_frame(frame: bytes, version: int = 2) -> Packet:
    """Decode a frame, verify and strip the checksum if the CRC32 flag is set.

    Raises DecodeError if the frame is too short or too long or the checksum is wrong.
    """
    check_size(frame, version)
    if version == 2:
        word = int.from_bytes(frame[:6], "big")
        flags = word & 0x3F
        return Packet(
            prio=word >> 46,
            dst=word >> 32 & 0x3FFF,
            src=word >> 18 & 0x3FFF,
            dport=word >> 12 & 0x3F,
            sport=word >> 6 & 0x3F,
            flags=flags,
            data=_strip_crc(frame, 6) if flags & _CRC32 else frame[6:],
        )
    word = int.from_bytes(frame[:4], "big")
    flags = word & 0xFF
    return Packet(
        prio=word >> 30,
        dst=word >> 20 & 0x1F,
        src=word >> 25 & 0x1F,
        dport=word >> 14 & 0x3F,
        sport=word >> 8 & 0x3F,
        flags=flags,
        data=_strip_crc(frame, 4) if flags & _CRC32 else frame[4:],
    )
