"""Image metadata: a typed value and its protobuf form.

Theory of operation: the wire form is the flown `Metadata` message. One field of ours, `padding`,
belongs to the layout of a segment (it aligns the pixels that follow) and not to the value: `decode`
drops it, `encode` adds it on request. Unknown fields are skipped, as any protobuf reader does.
Source: dipp.md 5 and 8, design.md 3.
"""

from __future__ import annotations

import dataclasses
import math
import struct
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
_UNSIGNED_FIELDS = ("size", "height", "width", "channels", "bits_pixel")
_FLOAT = struct.Struct("<f")
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
        for name in _INT_FIELDS:
            _check_int(name, getattr(self, name), 0 if name in _UNSIGNED_FIELDS else INT32_MIN)
        _check_text("camera", self.camera)
        object.__setattr__(self, "items", tuple(_normal_item(item) for item in self.items))

    def replace(self, **changes: object) -> Metadata:
        """Return a copy with the named fields changed. Raises MisuseError like the constructor."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

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
        if not message.items and min(numbers) >= 0 and max(numbers) <= INT32_MAX:
            # Nothing is left that a constructor could object to.
            return _plain(numbers, message.camera)
        fields = dict(zip(_INT_FIELDS, numbers, strict=True))
        try:
            items = tuple(_read_item(item) for item in message.items)
            return cls(camera=message.camera, items=items, **fields)
        except MisuseError as error:
            raise ContentError(f"metadata: {error}") from error


def _plain(numbers: tuple[int, ...], camera: str) -> Metadata:
    """Make one without items from values that have been checked; every image needs one."""
    metadata = Metadata.__new__(Metadata)
    for name, value in zip(_INT_FIELDS, numbers, strict=True):
        object.__setattr__(metadata, name, value)
    object.__setattr__(metadata, "camera", camera)
    object.__setattr__(metadata, "items", ())
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
    return item.key, value


def _padding(length: int) -> bytes:
    if length == 0:
        return b""
    body = length - _PADDING_MIN_BYTES
    if not 0 <= body < 128:
        raise MisuseError(f"padding of {length} bytes cannot be written")
    return _PADDING_TAG + bytes([body]) + bytes(body)
