"""The forms in which content crosses the link: as it is, compressed, or as compressed delta. Pure.

Both decoders are bounded: nothing on the wire can make them produce more than the announced size.
The brotli window is at most 16 MiB, the largest a decoder must support.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import brotli

from csp.errors import DecodeError, MisuseError
from csp.files.delta import body_limit, decode_delta, encode_delta

_QUALITY = 11
_WINDOW_BITS = range(16, 25)
_PIECE_BYTES = 65_536


class Form(IntEnum):
    """How content is put on the wire. The numbers are wire numbers."""

    PLAIN = 0
    BROTLI = 1
    DELTA = 2


def encode_form(form: Form, content: bytes, base: bytes | None = None) -> bytes:
    """Return what goes over the link. Raises MisuseError for a delta without a base."""
    if form is Form.PLAIN:
        return content
    if form is Form.BROTLI:
        return _compress(content)
    if base is None:
        raise MisuseError("a delta needs the content it starts from")
    return _compress(encode_delta(base, content))


def decode_form(form: Form, wire: bytes, base: bytes | None, size: int) -> Iterator[bytes]:
    """Yield the pieces of the content, `size` bytes in all.

    Raises DecodeError if it would be another size or the bytes are damaged, MisuseError for a
    delta without a base.
    """
    if form is Form.PLAIN:
        pieces = iter((wire,))
    elif form is Form.BROTLI:
        pieces = _decompress(wire, size)
    elif base is None:
        raise MisuseError("a delta needs the content it starts from")
    else:
        pieces = decode_delta(b"".join(_decompress(wire, body_limit(size))), base, size)
    made = 0
    for piece in pieces:
        made += len(piece)
        yield piece
    if made != size:
        raise DecodeError("content has another size", expected=size, actual=made)


def _compress(data: bytes) -> bytes:
    bits = min(max(len(data).bit_length(), _WINDOW_BITS[0]), _WINDOW_BITS[-1])
    compressed: bytes = brotli.compress(data, quality=_QUALITY, lgwin=bits)
    return compressed


def _decompress(stream: bytes, limit: int) -> Iterator[bytes]:
    decoder = brotli.Decompressor()
    made, data = 0, stream
    while True:
        try:
            piece = decoder.process(data, output_buffer_limit=_PIECE_BYTES)
        except brotli.error as error:
            raise DecodeError(f"brotli stream is damaged ({error})", offset=made) from error
        data = b""
        made += len(piece)
        if made > limit:
            raise DecodeError("brotli stream is too long", expected=limit, actual=made)
        if piece:
            yield piece
        if decoder.is_finished():
            return
        if not piece:
            raise DecodeError("brotli stream is cut off", offset=made)
