"""Encode and decode one entry of a parameter list download. Source: csp.md 10."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from csp.errors import DecodeError
from csp.param.errors import SpecError
from csp.param.spec import ARRAY_MAX, NAME_MAX, UNIT_MAX, ParamSpec, decode_text, encode_text
from csp.param.types import Mask, ParamType

_ENTRY_V3 = struct.Struct(">HHBBI36sB10s")
_ENTRY_V2 = struct.Struct(">HHBBI")
_ENTRY_V1 = struct.Struct(">HBBI")
_V1_ID_MASK = 0x7FF


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEntry:
    """A parameter as its node lists it. `node` is 0 for the node's own parameters.

    `storage` is the kind of the vmem area that keeps it, 0 for plain memory.
    """

    spec: ParamSpec
    node: int = 0
    storage: int = 0


def encode_entry(entry: ListEntry) -> bytes:
    """Encode an entry in version 3, whose first 46 bytes are version 2."""
    spec = entry.spec
    head = _ENTRY_V3.pack(
        spec.id,
        entry.node,
        spec.type,
        spec.array_size,
        spec.mask & 0xFFFFFFFF,
        encode_text(spec.name),
        entry.storage,
        encode_text(spec.unit),
    )
    return head + encode_text(spec.help) + b"\0"


def _array_size(kind: int, listed: int) -> int:
    if 1 <= listed <= ARRAY_MAX:
        return listed
    # The flown camera's text of 512 bytes is listed as 0; it takes what a packet can carry.
    if listed == 0 and kind == ParamType.STRING:
        return ARRAY_MAX
    # Otherwise 0 and 255 mean a scalar to real clients (csp.md 9).
    return 1


def _make_spec(
    number: int, kind: int, size: int, mask: int, name: bytes, unit: bytes, text: bytes
) -> ParamSpec:
    if kind not in ParamType.__members__.values():
        raise DecodeError("no such parameter type", expected="0..15", actual=kind)
    try:
        return ParamSpec(
            id=number,
            name=decode_text(name[:NAME_MAX]),
            type=ParamType(kind),
            array_size=_array_size(kind, size),
            mask=Mask(mask),
            unit=decode_text(unit[:UNIT_MAX]),
            help=decode_text(text),
        )
    except SpecError as error:
        raise DecodeError(f"unusable list entry: {error}") from None


def decode_entry(data: bytes, version: int = 3) -> ListEntry:
    """Decode an entry of list version 1, 2 or 3; a short version 3 entry is read as version 2.

    Raises DecodeError if it is too short or too long or no parameter can be like that.
    """
    if version == 3 and len(data) >= _ENTRY_V3.size:
        number, node, kind, size, mask, name, storage, unit = _ENTRY_V3.unpack_from(data)
        spec = _make_spec(number, kind, size, mask, name, unit, data[_ENTRY_V3.size :])
        return ListEntry(spec=spec, node=node, storage=storage)
    layout = _ENTRY_V1 if version == 1 else _ENTRY_V2
    if len(data) <= layout.size:
        raise DecodeError("list entry too short", expected=layout.size + 1, actual=len(data))
    name = data[layout.size :]
    if version == 1:
        short_id, kind, size, mask = layout.unpack_from(data)
        number, node = short_id & _V1_ID_MASK, short_id >> 11
    else:
        number, node, kind, size, mask = layout.unpack_from(data)
    spec = _make_spec(number, kind, size, mask, name, b"", b"")
    return ListEntry(spec=spec, node=node)
