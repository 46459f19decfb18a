"""Encode and decode the part of MessagePack that parameter values use.

The wire format needs minimal integers, raw bytes between values and a decoder that never trusts a
length, so this is its own small codec instead of a package. Source: csp.md 9.1, 15 (trap 12).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from csp.errors import DecodeError
from csp.param.spec import decode_text, encode_text
from csp.param.types import TYPES, TypeClass, TypeRow, Value

_U16, _U32, _U64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_I8, _I16 = struct.Struct(">b"), struct.Struct(">h")
_I32, _I64 = struct.Struct(">i"), struct.Struct(">q")
_F32, _F64 = struct.Struct(">f"), struct.Struct(">d")
_FIXINT: Final = tuple(bytes((value,)) for value in range(128))


def encode_uint(value: int) -> bytes:
    """Encode 0 <= value < 2**64 in the fewest bytes."""
    if value < 0x80:
        return _FIXINT[value]
    if value < 0x100:
        return b"\xcc" + value.to_bytes(1, "big")
    if value < 0x10000:
        return b"\xcd" + _U16.pack(value)
    if value < 0x100000000:
        return b"\xce" + _U32.pack(value)
    return b"\xcf" + _U64.pack(value)


def encode_int(value: int) -> bytes:
    """Encode -2**63 <= value < 2**64 in the fewest bytes; positive ones as unsigned."""
    if value >= 0:
        return encode_uint(value)
    if value >= -32:
        return _I8.pack(value)
    if value >= -0x80:
        return b"\xd0" + _I8.pack(value)
    if value >= -0x8000:
        return b"\xd1" + _I16.pack(value)
    if value >= -0x80000000:
        return b"\xd2" + _I32.pack(value)
    return b"\xd3" + _I64.pack(value)


def _encode_single(value: float) -> bytes:
    return b"\xca" + _F32.pack(value)


def _encode_double(value: float) -> bytes:
    return b"\xcb" + _F64.pack(value)


def encode_str(text: str) -> bytes:
    """Encode text of at most 65535 bytes."""
    raw = encode_text(text)
    size = len(raw)
    if size < 32:
        return bytes((0xA0 | size,)) + raw
    if size < 0x100:
        return bytes((0xD9, size)) + raw
    return b"\xda" + _U16.pack(size) + raw


def encode_bin(raw: bytes) -> bytes:
    """Encode at most 65535 bytes of data."""
    if len(raw) < 0x100:
        return bytes((0xC4, len(raw))) + raw
    return b"\xc5" + _U16.pack(len(raw)) + raw


def _element_encoder(row: TypeRow) -> Callable[..., bytes]:
    if row.kind is TypeClass.FLOAT:
        return _encode_single if row.size == 4 else _encode_double
    by_kind: dict[TypeClass, Callable[..., bytes]] = {
        TypeClass.UINT: encode_uint,
        TypeClass.INT: encode_int,
        TypeClass.STRING: encode_str,
        TypeClass.DATA: encode_bin,
    }
    return by_kind[row.kind]


# Indexed by type number, as `TYPES`.
_ENCODERS: tuple[Callable[..., bytes], ...] = tuple(_element_encoder(row) for row in TYPES)


def encode_value(row: TypeRow, value: Value) -> bytes:
    """Encode one value, or a list as an array, in the wire form of the type.

    The value must be of the type and in its range, as `Parameter.store` has checked.
    """
    encode = _ENCODERS[row.type]
    if not isinstance(value, (list, tuple)):
        return encode(value)
    count = len(value)
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + _U16.pack(count)
    return head + b"".join([encode(element) for element in value])


# First byte -> (struct, bytes after the first byte) of a number.
_NUMBERS: dict[int, struct.Struct] = {
    0xCA: _F32, 0xCB: _F64, 0xCC: struct.Struct(">B"), 0xCD: _U16, 0xCE: _U32, 0xCF: _U64,
    0xD0: _I8, 0xD1: _I16, 0xD2: _I32, 0xD3: _I64,
}  # fmt: skip
# First byte -> (bytes of the length field, whether it is text).
_BLOBS: dict[int, tuple[int, bool]] = {
    0xC4: (1, False), 0xC5: (2, False), 0xC6: (4, False),
    0xD9: (1, True), 0xDA: (2, True), 0xDB: (4, True),
}  # fmt: skip
_ARRAYS: dict[int, int] = {0xDC: 2, 0xDD: 4}


def _cut(offset: int, size: int, have: int) -> DecodeError:
    return DecodeError("value cut off", offset=offset, expected=offset + size, actual=have)


def _decode_number(data: bytes, offset: int) -> tuple[int | float, int]:
    first = data[offset]
    if first < 0x80:
        return first, offset + 1
    if first >= 0xE0:
        return first - 0x100, offset + 1
    layout = _NUMBERS.get(first)
    if layout is None:
        raise DecodeError("not a value", offset=offset, actual=f"{first:02x}")
    end = offset + 1 + layout.size
    if end > len(data):
        raise _cut(offset, 1 + layout.size, len(data))
    return layout.unpack_from(data, offset + 1)[0], end


def _decode_length(data: bytes, offset: int, width: int) -> tuple[int, int]:
    end = offset + 1 + width
    if end > len(data):
        raise _cut(offset, 1 + width, len(data))
    return int.from_bytes(data[offset + 1 : end], "big"), end


def _decode_blob(data: bytes, offset: int) -> tuple[str | bytes, int]:
    first = data[offset]
    if first & 0xE0 == 0xA0:
        size, start, is_text = first & 0x1F, offset + 1, True
    else:
        width, is_text = _BLOBS[first]
        size, start = _decode_length(data, offset, width)
    end = start + size
    if end > len(data):
        raise _cut(offset, end - offset, len(data))
    raw = data[start:end]
    return (decode_text(raw) if is_text else raw), end


def _decode_array(data: bytes, offset: int) -> tuple[Value, int]:
    first = data[offset]
    if first & 0xF0 == 0x90:
        count, position = first & 0x0F, offset + 1
    else:
        count, position = _decode_length(data, offset, _ARRAYS[first])
    # Each element takes at least one byte: a longer claim is refused before anything is built.
    if count > len(data) - position:
        raise _cut(offset, count, len(data))
    elements: list[int | float] = []
    for _ in range(count):
        if position >= len(data):
            raise _cut(position, 1, len(data))
        element, position = _decode_number(data, position)
        elements.append(element)
    return elements, position


def decode_value(data: bytes, offset: int = 0) -> tuple[Value, int]:
    """Decode one value and say where it ends.

    Numbers, text (up to its first NUL), data, and arrays of numbers; anything else, and anything
    that reaches beyond the data, raises DecodeError.
    """
    if offset >= len(data):
        raise _cut(offset, 1, len(data))
    first = data[offset]
    if first < 0x80:
        return first, offset + 1
    if first & 0xE0 == 0xA0 or first in _BLOBS:
        return _decode_blob(data, offset)
    if first & 0xF0 == 0x90 or first in _ARRAYS:
        return _decode_array(data, offset)
    return _decode_number(data, offset)
