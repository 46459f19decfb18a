"""Frame CSP for a byte stream: KISS with an additional checksum. Pure.

Theory of operation: `C0 00 <escaped frame and checksum> C0`; the checksum covers everything after
the CSP header and is always there. The decoder is fed chunks of any size, resynchronises at the
next C0 after anything broken, and never holds more than one frame. Source: csp.md 8.3.
"""

from __future__ import annotations

from csp.crc import crc32c
from csp.packet import CRC_BYTES, HEADER_BYTES, MAX_PAYLOAD_BYTES

FEND, FESC, TFEND, TFESC = 0xC0, 0xDB, 0xDC, 0xDD
_END = bytes((FEND,))
_COMMAND_DATA = b"\x00"
_ESCAPES = {TFEND: FEND, TFESC: FESC}
# The largest legal frame with every byte escaped, and the command byte.
_MAX_RAW_BYTES = 2 * (6 + MAX_PAYLOAD_BYTES + CRC_BYTES) + 1


def encode_kiss(frame: bytes, version: int = 2) -> bytes:
    """Return the bytes to write to the serial line for a frame."""
    body = frame + crc32c(frame[HEADER_BYTES[version] :]).to_bytes(CRC_BYTES, "big")
    escaped = body.replace(b"\xdb", b"\xdb\xdd").replace(_END, b"\xdb\xdc")
    return _END + _COMMAND_DATA + escaped + _END


class KissDecoder:
    """Collects frames from a byte stream; `errors` counts what was thrown away."""

    def __init__(self, version: int = 2) -> None:
        self.errors = 0
        self._header = HEADER_BYTES[version]
        self._raw = bytearray()
        # Until the first FEND there may be the tail of a frame that began before we listened.
        self._skipping = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take received bytes, return the frames that became complete, without KISS checksum."""
        frames = []
        *complete, rest = chunk.split(_END)
        for part in complete:
            self._append(part)
            frame = self._take()
            if frame is not None:
                frames.append(frame)
        self._append(rest)
        return frames

    def _append(self, part: bytes) -> None:
        if self._skipping:
            return
        self._raw += part
        if len(self._raw) > _MAX_RAW_BYTES:
            self.errors += 1
            self._raw.clear()
            self._skipping = True

    def _take(self) -> bytes | None:
        raw, self._raw = self._raw, bytearray()
        skipped, self._skipping = self._skipping, False
        if skipped or not raw:
            return None
        # The first byte is the KISS command; it is skipped without check, as real nodes do.
        body = _unescape(bytes(raw[1:]))
        frame = self._checked(body) if body is not None else None
        if frame is None:
            self.errors += 1
        return frame

    def _checked(self, body: bytes) -> bytes | None:
        end = len(body) - CRC_BYTES
        if not self._header <= end <= self._header + MAX_PAYLOAD_BYTES:
            return None
        if crc32c(body[self._header : end]) != int.from_bytes(body[end:], "big"):
            return None
        return body[:end]


def _unescape(raw: bytes) -> bytes | None:
    """Undo the escapes; None if one is broken."""
    first, *others = raw.split(b"\xdb")
    parts = [first]
    for part in others:
        byte = _ESCAPES.get(part[0]) if part else None
        if byte is None:
            return None
        parts.append(bytes((byte,)) + part[1:])
    return b"".join(parts)
