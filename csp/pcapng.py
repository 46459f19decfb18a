"""Write frames to a pcapng file and read them back. Pure: the stream comes from the caller.

Theory of operation: section header, one interface description, one enhanced packet per frame, all
as every reader of pcapng knows them. No link type is registered for CSP, so it is USER0 (147); the
interface is named `csp-v2` or `csp-v1`, because nothing in a frame tells the version. The reader
takes either byte order and any time resolution and passes over blocks it does not know. Source:
draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from csp.errors import DecodeError
from csp.packet import check_version

LINK_TYPE = 147
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_OPTION_NAME, _OPTION_APPLICATION, _OPTION_RESOLUTION = 2, 4, 9
_MICROSECONDS = 6
# No frame has this many bytes, not even with the widest header and the longest comment.
_MAX_BLOCK_BYTES = 1 << 20
_MAX_INTERFACES = 1024
_HEAD_BYTES, _TAIL_BYTES = 8, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A frame as it was seen: Unix seconds, CSP version, header and all that follows."""

    time_s: float
    version: int
    frame: bytes


class CaptureWriter:
    """Writes frames of one CSP version to a binary stream, which stays the caller's."""

    def __init__(self, stream: BinaryIO, version: int = 2) -> None:
        """Write the head of the file. Raises OSError."""
        self._stream = stream
        name = f"csp-v{check_version(version)}".encode()
        section = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)
        self._block(_SECTION, section + _option(_OPTION_APPLICATION, b"csp monitor") + _END)
        self._block(
            _INTERFACE,
            struct.pack("<HHI", LINK_TYPE, 0, 0)
            + _option(_OPTION_NAME, name)
            + _option(_OPTION_RESOLUTION, bytes((_MICROSECONDS,)))
            + _END,
        )

    def write(self, time_s: float, frame: bytes) -> None:
        """Add a frame seen at `time_s` (Unix seconds). Raises OSError."""
        ticks = round(time_s * 10**_MICROSECONDS)
        head = struct.pack("<IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
        self._block(_PACKET, head + _padded(frame))

    def _block(self, kind: int, body: bytes) -> None:
        size = _HEAD_BYTES + len(body) + _TAIL_BYTES
        self._stream.write(struct.pack("<II", kind, size) + body + struct.pack("<I", size))


_END = bytes(4)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def read_capture(stream: BinaryIO) -> Iterator[Captured]:
    """Yield the frames of a file, in its order.

    Raises DecodeError, after the frames before it, where the file is damaged, cut off, or holds
    something else than CSP.
    """
    reader = _Reader(stream)
    while (block := reader.next_block()) is not None:
        kind, body = block
        if kind == _INTERFACE:
            reader.add_interface(body)
        elif kind == _PACKET:
            yield reader.packet(body)


@dataclass(frozen=True, slots=True)
class _Interface:
    version: int
    ticks_per_s: int


class _Reader:
    """Cuts a stream into blocks and keeps what they say about those after them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = 0
        self._order = ""
        self._interfaces: list[_Interface] = []

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise DecodeError(
                "capture file cut off", offset=self._offset, expected=size, actual=len(data)
            )
        self._offset += size
        return data

    def next_block(self) -> tuple[int, bytes] | None:
        """Return kind and body of the next block, None at the end of the file."""
        first = self._stream.read(1)
        if not first:
            return None
        self._offset += 1
        head = first + self._take(_HEAD_BYTES - 1)
        consumed = b""
        # The kind of a section header reads the same in both byte orders; its magic tells which.
        if head[:4] == _SECTION.to_bytes(4, "little"):
            consumed = self._take(4)
            self._begin_section(consumed)
        if not self._order:
            raise DecodeError("not a pcapng file", offset=0, actual=head[:4].hex())
        kind, size = struct.unpack(self._order + "II", head)
        rest = size - _HEAD_BYTES - len(consumed) - _TAIL_BYTES
        if size % 4 or rest < 0 or size > _MAX_BLOCK_BYTES:
            raise DecodeError("impossible block size", offset=self._offset, actual=size)
        body = consumed + self._take(rest)
        (again,) = struct.unpack(self._order + "I", self._take(_TAIL_BYTES))
        if again != size:
            raise DecodeError(
                "block sizes differ", offset=self._offset, expected=size, actual=again
            )
        return kind, body

    def _begin_section(self, magic: bytes) -> None:
        for order, name in (("<", "little"), (">", "big")):
            if magic == _BYTE_ORDER.to_bytes(4, name):  # type: ignore[arg-type]
                self._order = order
                self._interfaces = []
                return
        raise DecodeError("no byte order", offset=self._offset, actual=magic.hex())

    def _unpack(self, layout: str, body: bytes) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + layout, body)
        except struct.error:
            raise DecodeError("block too short", offset=self._offset, actual=len(body)) from None

    def add_interface(self, body: bytes) -> None:
        """Keep what an interface description says."""
        link_type = self._unpack("HHI", body)[0]
        if link_type != LINK_TYPE:
            raise DecodeError(
                "not a capture of CSP", offset=self._offset, expected=LINK_TYPE, actual=link_type
            )
        if len(self._interfaces) >= _MAX_INTERFACES:
            raise DecodeError("too many interfaces", offset=self._offset, expected=_MAX_INTERFACES)
        version, ticks = 2, 10**_MICROSECONDS
        for code, value in self._options(body[8:]):
            if code == _OPTION_NAME and value.endswith(b"-v1"):
                version = 1
            elif code == _OPTION_RESOLUTION and value:
                ticks = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        self._interfaces.append(_Interface(version, ticks))

    def _options(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        while len(data) >= 4:
            code, size = struct.unpack_from(self._order + "HH", data)
            if code == 0:
                return
            yield code, data[4 : 4 + size]
            data = data[4 + size + -size % 4 :]

    def packet(self, body: bytes) -> Captured:
        """Return the frame of an enhanced packet block."""
        number, high, low, size, _ = self._unpack("IIIII", body)
        frame = body[20 : 20 + size]
        if number >= len(self._interfaces) or len(frame) < size:
            raise DecodeError("packet of no interface, or cut off", offset=self._offset)
        interface = self._interfaces[number]
        time_s = (high << 32 | low) / interface.ticks_per_s
        return Captured(time_s=time_s, version=interface.version, frame=frame)
