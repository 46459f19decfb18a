"""Split data over packets and join it again with the simple fragmentation protocol. Pure.

Each fragment carries offset and total size as a trailer and the FRAGMENT flag; fragments come in
order. Source: csp.md 2.4 and 7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from csp.errors import DecodeError, MisuseError

_TRAILER = struct.Struct(">II")
TRAILER_BYTES = _TRAILER.size
# Nothing on this network is bigger than an image of the payload camera.
DEFAULT_LIMIT_BYTES = 64 * 1024 * 1024


def encode_fragments(data: bytes, fragment_bytes: int) -> Iterator[bytes]:
    """Yield the payloads that carry the data, each with at most `fragment_bytes` of it.

    Raises MisuseError for empty data or a fragment size below one.
    """
    if fragment_bytes < 1 or not data:
        raise MisuseError(f"cannot split {len(data)} bytes into pieces of {fragment_bytes}")
    for offset in range(0, len(data), fragment_bytes):
        yield data[offset : offset + fragment_bytes] + _TRAILER.pack(offset, len(data))


class Assembler:
    """Joins the fragments of one sender; a wrong one starts over."""

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._data = bytearray()
        # Bytes of the current data that are there, and how many it has.
        self.progress = 0, 0

    def feed(self, payload: bytes) -> bytes | None:
        """Take one payload with its trailer; return the data when complete.

        Raises DecodeError if the fragment does not follow, contradicts its total or is empty.
        """
        size = len(payload) - TRAILER_BYTES
        if size < 0:
            raise DecodeError("no room for the SFP trailer", expected=8, actual=len(payload))
        offset, total = _TRAILER.unpack_from(payload, size)
        if offset == 0:
            self._data.clear()
        expected = len(self._data)
        if offset != expected or not size or not offset + size <= total <= self._limit:
            self._data.clear()
            raise DecodeError(
                f"fragment of {size} bytes does not fit a total of {total}",
                offset=offset,
                expected=expected,
                actual=offset,
            )
        self._data += payload[:size]
        self.progress = len(self._data), total
        if len(self._data) < total:
            return None
        data, self._data = bytes(self._data), bytearray()
        return data
