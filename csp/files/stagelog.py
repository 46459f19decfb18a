"""The staged file: what of an upload is on board, readable after a crash at any byte. Pure.

A header says what is being uploaded, then each piece follows with its length and checksum, in the
order of the stream. Whatever a crash leaves, the longest run of intact pieces from the start is
what was received; the rest is cut off and sent again. One file instead of data and sidecar: the
two can never disagree, and each piece costs one write.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from csp.crc import crc32c
from csp.errors import DecodeError
from csp.files.wire import DATA_MAX_BYTES, Offer, decode_request

_MAGIC = b"CSPSTAG1"
_LENGTH = struct.Struct("<H")
_PIECE = struct.Struct("<HI")
_CRC_BYTES = 4
# Smaller pieces are refused, except the last one: the heads must not outgrow the data.
PIECE_MIN_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a staged file holds: the stream so far, and where the intact part of the file ends."""

    offer: Offer
    stream: bytes
    intact_bytes: int


def file_limit(wire_size: int) -> int:
    """Return how long the staged file of a stream may become."""
    pieces = wire_size // PIECE_MIN_BYTES + 1
    return len(_MAGIC) + _LENGTH.size + DATA_MAX_BYTES + wire_size + pieces * _PIECE.size


def encode_header(offer: Offer) -> bytes:
    """Return the start of a staged file."""
    data = offer.encode()
    head = _MAGIC + _LENGTH.pack(len(data)) + data
    return head + crc32c(head).to_bytes(_CRC_BYTES, "little")


def encode_piece(data: bytes) -> bytes:
    """Return what to append for a piece of the stream."""
    return _PIECE.pack(len(data), crc32c(data)) + data


def decode_header(data: bytes) -> tuple[Offer, int]:
    """Return the offer and the offset of the first piece. Raises DecodeError."""
    start = len(_MAGIC) + _LENGTH.size
    if len(data) < start or not data.startswith(_MAGIC):
        raise DecodeError("not a staged file", expected=_MAGIC, actual=data[: len(_MAGIC)])
    end = start + _LENGTH.unpack_from(data, len(_MAGIC))[0]
    stored = data[end : end + _CRC_BYTES]
    if stored != crc32c(data[:end]).to_bytes(_CRC_BYTES, "little"):
        raise DecodeError("header of the staged file is damaged", offset=end)
    offer = decode_request(data[start:end])
    if not isinstance(offer, Offer):
        raise DecodeError("staged file without an offer", offset=start)
    return offer, end + _CRC_BYTES


def scan(data: bytes) -> Scan:
    """Find what is intact in a staged file. Raises DecodeError if not even its header is."""
    offer, offset = decode_header(data)
    stream = bytearray()
    while offset + _PIECE.size <= len(data):
        length, crc = _PIECE.unpack_from(data, offset)
        end = offset + _PIECE.size + length
        piece = data[offset + _PIECE.size : end]
        if not length or end > len(data) or crc32c(piece) != crc:
            break
        if len(stream) + length > offer.wire_size:
            break
        stream += piece
        offset = end
    return Scan(offer=offer, stream=bytes(stream), intact_bytes=offset)
