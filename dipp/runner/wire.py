"""Field codecs: how the values of a frame become bytes and, suspiciously, values again.

Theory of operation: a codec writes one field and reads it back. Every length is checked against a
limit of its own and against the bytes that are there before anything is allocated. All numbers are
little endian. Pure.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Protocol

from dipp.errors import Code, ContentError


class FrameError(ContentError):
    """Bytes are not the frame they should be."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Code.RESULT_INVALID)


class Reader:
    """A position in received bytes."""

    __slots__ = ("_data", "offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def take(self, size_bytes: int) -> bytes:
        """Return the next bytes. Raises FrameError if there are fewer."""
        start, end = self.offset, self.offset + size_bytes
        if end > len(self._data):
            left = len(self._data) - start
            raise FrameError(f"truncated at byte {start}: expected {size_bytes}, found {left}")
        self.offset = end
        return self._data[start:end]

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self.offset

    def finish(self) -> None:
        """Raise FrameError if bytes are left."""
        if self.offset != len(self._data):
            raise FrameError(f"{len(self._data) - self.offset} bytes too many at {self.offset}")


class Field(Protocol):
    """Writes and reads one kind of value."""

    def write(self, out: bytearray, value: Any) -> None:
        """Append the value. Raises FrameError if it does not fit."""

    def read(self, reader: Reader) -> Any:
        """Return the value. Raises FrameError."""


class Number:
    """A number in one `struct` format; floats must be finite."""

    def __init__(self, form: str) -> None:
        self.form = form
        self._struct = struct.Struct("<" + form)

    def write(self, out: bytearray, value: Any) -> None:
        """Append the number."""
        try:
            out += self._struct.pack(value)
        except struct.error as error:
            raise FrameError(f"{value!r} does not fit: {error}") from error

    def read(self, reader: Reader) -> Any:
        """Return the number."""
        (value,) = self._struct.unpack(reader.take(self._struct.size))
        if isinstance(value, float) and not math.isfinite(value):
            raise FrameError(f"{value} before byte {reader.offset}")
        return value


U8, U16, U32, U64 = Number("B"), Number("H"), Number("I"), Number("Q")
I32, F64 = Number("i"), Number("d")


class Blob:
    """Bytes with a length before them, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def write(self, out: bytearray, value: Any) -> None:
        """Append length and bytes."""
        if len(value) > self.limit:
            raise FrameError(f"{len(value)} bytes, at most {self.limit}")
        U32.write(out, len(value))
        out += value

    def read(self, reader: Reader) -> Any:
        """Return the bytes."""
        length = U32.read(reader)
        if length > self.limit:
            raise FrameError(f"{length} bytes before byte {reader.offset}, at most {self.limit}")
        return reader.take(length)


class Text:
    """UTF-8 text of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._blob = Blob(limit)

    def write(self, out: bytearray, value: Any) -> None:
        """Append the text."""
        try:
            self._blob.write(out, value.encode())
        except UnicodeEncodeError as error:
            raise FrameError(f"text: {error}") from error

    def read(self, reader: Reader) -> Any:
        """Return the text."""
        try:
            return self._blob.read(reader).decode()
        except UnicodeDecodeError as error:
            raise FrameError(f"text before byte {reader.offset}: {error}") from error


class Many:
    """A tuple of at most `limit` values of one kind."""

    def __init__(self, item: Field, limit: int) -> None:
        self._item = item
        self._limit = limit

    def write(self, out: bytearray, value: Any) -> None:
        """Append count and items."""
        if len(value) > self._limit:
            raise FrameError(f"{len(value)} items, at most {self._limit}")
        U32.write(out, len(value))
        for item in value:
            self._item.write(out, item)

    def read(self, reader: Reader) -> Any:
        """Return the items."""
        count = U32.read(reader)
        if count > self._limit:
            raise FrameError(f"{count} items before byte {reader.offset}, at most {self._limit}")
        return tuple(self._item.read(reader) for _ in range(count))


class Record:
    """A dataclass as its fields in order.

    Numbers that follow one another are one `struct`, which is much quicker.
    """

    def __init__(self, kind: type, **fields: Field) -> None:
        self.kind = kind
        self._parts: list[tuple[tuple[str, ...], Field | _Row]] = []
        row: dict[str, Number] = {}
        for name, field in [*fields.items(), ("", None)]:
            if isinstance(field, Number):
                row[name] = field
                continue
            if row:
                self._parts.append((tuple(row), _Row(row)))
                row = {}
            if field is not None:
                self._parts.append(((name,), field))

    def write(self, out: bytearray, value: Any) -> None:
        """Append the fields."""
        for names, part in self._parts:
            if isinstance(part, _Row):
                part.write(out, value)
            else:
                part.write(out, getattr(value, names[0]))

    def read(self, reader: Reader) -> Any:
        """Return a new object of the class."""
        values: dict[str, Any] = {}
        for names, part in self._parts:
            if isinstance(part, _Row):
                values.update(zip(names, part.read(reader), strict=True))
            else:
                values[names[0]] = part.read(reader)
        return self.kind(**values)


class _Row:
    """Numbers of a record that lie side by side."""

    def __init__(self, fields: dict[str, Number]) -> None:
        self._struct = struct.Struct("<" + "".join(field.form for field in fields.values()))
        self._get = attrgetter(*fields)
        self._is_single = len(fields) == 1
        self._floats = tuple(i for i, f in enumerate(fields.values()) if f.form == "d")

    def write(self, out: bytearray, value: Any) -> None:
        """Append the numbers."""
        numbers = self._get(value)
        try:
            out += self._struct.pack(numbers) if self._is_single else self._struct.pack(*numbers)
        except struct.error as error:
            raise FrameError(f"{numbers!r} do not fit: {error}") from error

    def read(self, reader: Reader) -> tuple[Any, ...]:
        """Return the numbers."""
        values = self._struct.unpack(reader.take(self._struct.size))
        for index in self._floats:
            if not math.isfinite(values[index]):
                raise FrameError(f"{values[index]} before byte {reader.offset}")
        return values


class Pair:
    """A tuple of two values of different kinds."""

    def __init__(self, first: Field, second: Field) -> None:
        self._parts = (first, second)

    def write(self, out: bytearray, value: Any) -> None:
        """Append both."""
        for part, item in zip(self._parts, value, strict=True):
            part.write(out, item)

    def read(self, reader: Reader) -> Any:
        """Return both."""
        return tuple(part.read(reader) for part in self._parts)


class Choice:
    """A value of one of several Python types, told apart by a byte."""

    def __init__(self, options: Sequence[tuple[type, Field]]) -> None:
        self._options = tuple(options)

    def write(self, out: bytearray, value: Any) -> None:
        """Append tag and value."""
        for tag, (kind, field) in enumerate(self._options):
            if type(value) is kind:
                out.append(tag)
                field.write(out, value)
                return
        raise FrameError(f"{type(value).__name__} cannot be sent")

    def read(self, reader: Reader) -> Any:
        """Return the value as its type."""
        tag = U8.read(reader)
        if tag >= len(self._options):
            raise FrameError(f"kind {tag} before byte {reader.offset}")
        kind, field = self._options[tag]
        return kind(field.read(reader))
