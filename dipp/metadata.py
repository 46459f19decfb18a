"""Image metadata: a typed value and its protobuf form.

Theory of operation: the wire form is the flown `Metadata` message. One field of ours, `padding`,
belongs to the layout of a segment (it aligns the pixels that follow) and not to the value: `decode`
drops it, `encode` adds it on request. Unknown fields are skipped, as any protobuf reader does.
Source: dipp.md 5 and 8, design.md 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter

from google.protobuf.message import DecodeError as ProtobufDecodeError

from dipp.errors import Code, ContentError, MisuseError
from dipp.pb import metadata_pb2

ItemValue = bool | int | float | str
Item = tuple[str, ItemValue]

# Sixteen times the largest metadata seen in flight data; bounds what one length field can make us
# read before anything is known about the image.
METADATA_LIMIT_BYTES = 65536
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

_INT_FIELDS = (
    "size", "height", "width", "channels", "timestamp", "bits_pixel", "obid",
)  # fmt: skip
_NUMBERS = attrgetter(*_INT_FIELDS)
_FIELDS = (*_INT_FIELDS, "camera", "items")
_UNSIGNED_FIELDS = ("size", "height", "width", "channels", "bits_pixel")
_FLOAT = struct.Struct("<f")
_set = object.__setattr__
# Field 15, length-delimited: the smallest padding is the tag and a zero length.
_PADDING_TAG = b"\x7a"
_PADDING_MIN_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What is known about one image. `timestamp` is Unix seconds; `size` is bytes of pixel data.

    Floats in items are rounded to float32 at construction, so a value equals its decoded form.
    Raises MisuseError for a value that the wire form cannot hold.
    """

    size: int = 0
    height: int = 0
    width: int = 0
    channels: int = 0
    timestamp: int = 0
    bits_pixel: int = 0
    obid: int = 0
    camera: str = ""
    items: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        self._check(_FIELDS, ())

    def _check(self, names: Collection[str], known: Sequence[Item]) -> None:
        """Check these fields; `known` items are in order."""
        for name in _INT_FIELDS:
            if name in names:
                _check_int(name, getattr(self, name), 0 if name in _UNSIGNED_FIELDS else INT32_MIN)
        if "camera" in names:
            _check_text("camera", self.camera)
        if "items" in names:
            checked = {id(item) for item in known}
            items = [item if id(item) in checked else _normal_item(item) for item in self.items]
            _set(self, "items", tuple(items))

    def replace(self, **changes: object) -> Metadata:
        """Return a copy with the named fields changed. Raises MisuseError like the constructor."""
        unknown = changes.keys() - _FIELDS
        if unknown:
            raise TypeError(f"metadata has no field {', '.join(sorted(unknown))}")
        copy = Metadata.__new__(Metadata)
        for name in _FIELDS:
            _set(copy, name, changes[name] if name in changes else getattr(self, name))
        # What is not changed has been checked before, and so have items that are taken over.
        copy._check(changes, self.items)
        return copy

    def with_item(self, key: str, value: ItemValue) -> Metadata:
        """Return a copy with one more item. Raises MisuseError (511) if the key is there."""
        if self.item(key) is not None:
            raise MisuseError(f"metadata key {key!r} is already there", Code.METADATA_DUPLICATE)
        return self.replace(items=(*self.items, (key, value)))

    def item(self, key: str) -> ItemValue | None:
        """Return the value of the first item of that key, or None."""
        for name, value in self.items:
            if name == key:
                return value
        return None

    def encode(self, padding: int = 0) -> bytes:
        """Return the wire form, longer by exactly `padding` bytes (0 or >= 2, below 130)."""
        message = metadata_pb2.Metadata(camera=self.camera)
        for name in _INT_FIELDS:
            setattr(message, name, getattr(self, name))
        for key, value in self.items:
            _add_item(message, key, value)
        data: bytes = message.SerializeToString()
        if len(data) + padding > METADATA_LIMIT_BYTES:
            raise MisuseError(f"metadata of {len(data)} bytes exceeds {METADATA_LIMIT_BYTES}")
        return data + _padding(padding)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Metadata:
        """Parse the wire form. Raises ContentError (305) for anything that is not metadata."""
        if len(data) > METADATA_LIMIT_BYTES:
            raise ContentError(f"metadata of {len(data)} bytes exceeds {METADATA_LIMIT_BYTES}")
        message = metadata_pb2.Metadata()
        try:
            message.ParseFromString(bytes(data))
        except ProtobufDecodeError as error:
            raise ContentError(f"metadata of {len(data)} bytes: {error}") from error
        numbers = _NUMBERS(message)
        try:
            items = tuple([_read_item(item) for item in message.items])
            if min(numbers) >= 0 and max(numbers) <= INT32_MAX:
                return _made(numbers, message.camera, items)
            fields = dict(zip(_INT_FIELDS, numbers, strict=True))
            return cls(camera=message.camera, items=items, **fields)
        except MisuseError as error:
            raise ContentError(f"metadata: {error}") from error


def _made(numbers: tuple[int, ...], camera: str, items: tuple[Item, ...]) -> Metadata:
    """Make one from values in which a constructor would find nothing wrong."""
    metadata = Metadata.__new__(Metadata)
    for name, value in zip(_INT_FIELDS, numbers, strict=True):
        _set(metadata, name, value)
    _set(metadata, "camera", camera)
    _set(metadata, "items", items)
    return metadata


def _check_int(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise MisuseError(f"{name} is {value!r}, not an integer")
    if not low <= value <= INT32_MAX:
        raise MisuseError(f"{name} is {value}, outside {low}..{INT32_MAX}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise MisuseError(f"{name} is {value!r}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MisuseError(f"{name} is not valid text: {error}") from error


def _normal_item(item: Item) -> Item:
    key, value = item
    _check_text("item key", key)
    if isinstance(value, bool):
        return item
    if isinstance(value, int):
        _check_int(f"item {key!r}", value, INT32_MIN)
    elif isinstance(value, float):
        return key, _round_to_float32(key, value)
    else:
        _check_text(f"item {key!r}", value)
    return item


def _round_to_float32(key: str, value: float) -> float:
    if not math.isfinite(value):
        raise MisuseError(f"item {key!r} is {value}, not a finite number")
    try:
        rounded: float = _FLOAT.unpack(_FLOAT.pack(value))[0]
    except OverflowError as error:
        raise MisuseError(f"item {key!r} is {value}, beyond float range") from error
    return rounded


def _add_item(message: metadata_pb2.Metadata, key: str, value: ItemValue) -> None:
    # bool before int: every bool is an int. A false or zero member is still written.
    if isinstance(value, bool):
        message.items.add(key=key, bool_value=value)
    elif isinstance(value, int):
        message.items.add(key=key, int_value=value)
    elif isinstance(value, float):
        message.items.add(key=key, float_value=value)
    else:
        message.items.add(key=key, string_value=value)


def _read_item(item: metadata_pb2.MetadataItem) -> Item:
    member = item.WhichOneof("value")
    if member is None:
        raise MisuseError(f"item {item.key!r} has no value")
    value: ItemValue = getattr(item, member)
    # All else that could be wrong with it, protobuf has seen to.
    if isinstance(value, float) and not math.isfinite(value):
        raise MisuseError(f"item {item.key!r} is {value}, not a finite number")
    return item.key, value


def _padding(length: int) -> bytes:
    if length == 0:
        return b""
    body = length - _PADDING_MIN_BYTES
    if not 0 <= body < 128:
        raise MisuseError(f"padding of {length} bytes cannot be written")
    return _PADDING_TAG + bytes([body]) + bytes(body)
