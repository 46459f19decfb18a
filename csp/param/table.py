"""Hold the parameters of one node in memory that forked children share.

Theory of operation: one anonymous shared mapping holds every value, each aligned to its own size.
There is one typed `memoryview` per element type over the whole mapping, so an element is
`parameter.view[parameter.base + index]` in this process and in every child forked from it. A single
element is stored with one machine store; text and data are copied byte by byte, so a child may see
half of a new text. Callbacks and persistence belong to the process that made the table (the owner):
a child that stores through `view` tells the owner, which calls `Parameter.stored`.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from csp.param.errors import (
    BadIndex,
    OutOfRange,
    ReadOnlyParam,
    SpecError,
    TypeMismatch,
    UnknownParam,
)
from csp.param.spec import ParamSpec, decode_text, encode_text
from csp.param.types import SINGLE_LIMIT, TYPES, Mask, ParamType, TypeClass, Value

__all__ = ["ChangeHook", "ParamSpec", "ParamTable", "Parameter", "TextParameter", "WriteCallback"]

WriteCallback: TypeAlias = Callable[["Parameter", int], None]
ChangeHook: TypeAlias = Callable[["Parameter", int, int], None]


class Parameter:
    """A handle on one parameter of a table: resolve it once, then use it often.

    `view[base + i]`, i < `count`, is element i; for text and data the elements are bytes.
    """

    __slots__ = (
        "_hooks", "_is_single", "base", "callbacks", "count", "id", "is_readonly", "mask", "name",
        "row", "spec", "view",
    )  # fmt: skip

    def __init__(self, spec: ParamSpec, view: memoryview, base: int, hooks: list[ChangeHook]):
        self.spec = spec
        self.row = spec.row
        self.name = spec.name
        self.id = spec.id
        self.view = view
        self.base = base
        self.count = spec.array_size
        # Plain numbers, as flag arithmetic is slow. `is_readonly`: clients may not write it.
        self.mask = int(spec.mask)
        self.is_readonly = bool(self.mask & Mask.READONLY)
        self.callbacks: tuple[WriteCallback, ...] = ()
        self._hooks = hooks
        self._is_single = spec.type is ParamType.FLOAT

    def __repr__(self) -> str:
        return f"<Parameter {self.id} {self.name} {self.row.label}[{self.count}]>"

    @property
    def elements(self) -> int:
        """How many separately written values there are: 1 for text and data."""
        return self.count

    @property
    def needs_owner(self) -> bool:
        """Whether the owner must hear of a store: it has callbacks or a place on disk."""
        return bool(self.callbacks) or self.spec.area is not None

    def get(self, index: int = 0) -> int | float | str | bytes:
        """Return one element; text and data whole. Raises BadIndex."""
        if 0 <= index < self.count:
            return self.view[self.base + index]
        raise BadIndex(f"{self.name} has no element {index}, only 0..{self.count - 1}")

    def get_all(self) -> Value:
        """Return every element: a list for an array, else the value itself."""
        if self.count == 1:
            return self.view[self.base]
        return self.view[self.base : self.base + self.count].tolist()

    def set(self, value: Value, index: int | None = None) -> None:
        """Store as the owner: read-only does not matter and no callback runs.

        Without an index a list writes the elements from 0 on, a scalar writes all of them.
        Raises TypeMismatch, OutOfRange, BadIndex; nothing is stored then.
        """
        first, stop = self.store(value, index)
        for hook in self._hooks:
            hook(self, first, stop)

    def write(self, value: Value, index: int | None = None) -> None:
        """Store on behalf of a client or a plan, then run the callbacks once per element.

        Raises ReadOnlyParam as well; a finite float that is infinite in the parameter's precision
        is OutOfRange here, while `set` rounds it.
        """
        if self.is_readonly:
            raise ReadOnlyParam(f"{self.name} is read-only")
        if self._is_single:
            self._check_precision(value)
        first, stop = self.store(value, index)
        self.stored(first, stop)

    def stored(self, first: int = 0, stop: int | None = None) -> None:
        """Do what follows a store of elements first..stop-1: hooks, then callbacks in order."""
        stop = self.elements if stop is None else stop
        for hook in self._hooks:
            hook(self, first, stop)
        if self.callbacks:
            for index in range(first, stop):
                for callback in self.callbacks:
                    callback(self, index)

    def store(self, value: Value, index: int | None = None) -> tuple[int, int]:
        """Put the value into memory and nothing else; return first and stop element."""
        if index is not None:
            if not 0 <= index < self.count:
                raise BadIndex(f"{self.name} has no element {index}, only 0..{self.count - 1}")
            if isinstance(value, (list, tuple)):
                return self._store_list(value, index)
            self._store_one(value, index)
            return index, index + 1
        if isinstance(value, (list, tuple)):
            return self._store_list(value, 0)
        self._store_one(value, 0)
        if self.count > 1:
            first = self.view[self.base]
            for position in range(self.base + 1, self.base + self.count):
                self.view[position] = first
        return 0, self.count

    def _store_one(self, value: Value, index: int) -> None:
        try:
            self.view[self.base + index] = value  # type: ignore[assignment]
        except TypeError:
            raise TypeMismatch(f"{self.name} is {self.row.name}, not {value!r}") from None
        except (ValueError, OverflowError):
            raise OutOfRange(f"{value!r} does not fit {self.name} ({self.row.name})") from None

    def _store_list(self, values: Sequence[int | float], first: int) -> tuple[int, int]:
        if first + len(values) > self.count:
            raise OutOfRange(
                f"{len(values)} values from element {first} do not fit {self.name}[{self.count}]"
            )
        # All or nothing: elements already overwritten get their old values back.
        old = self.view[self.base + first : self.base + first + len(values)].tolist()
        try:
            for offset, value in enumerate(values):
                self._store_one(value, first + offset)
        except (TypeMismatch, OutOfRange):
            for offset, value in enumerate(old):
                self.view[self.base + first + offset] = value
            raise
        return first, first + len(values)

    def _check_precision(self, value: Value) -> None:
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, float) and math.isfinite(one) and abs(one) >= SINGLE_LIMIT:
                raise OutOfRange(f"{one!r} does not fit {self.name} (float)")


class TextParameter(Parameter):
    """A string or data parameter: `count` bytes that are written and read as one value."""

    __slots__ = ()

    @property
    def elements(self) -> int:
        """One: the bytes are not separately written."""
        return 1

    def get(self, index: int = 0) -> str | bytes:
        """Return the text up to its first NUL, or all bytes of data. Raises BadIndex."""
        if index != 0:
            raise BadIndex(f"{self.name} is one value: it has no element {index}")
        raw = bytes(self.view[self.base : self.base + self.count])
        return decode_text(raw) if self.row.kind is TypeClass.STRING else raw

    def get_all(self) -> str | bytes:
        """Return the whole value."""
        return self.get()

    def store(self, value: Value, index: int | None = None) -> tuple[int, int]:
        """Put the value into memory, the rest of the array zero; text keeps room for its NUL."""
        if index not in (None, 0):
            raise BadIndex(f"{self.name} is one value: it has no element {index}")
        if self.row.kind is TypeClass.STRING:
            if not isinstance(value, str):
                raise TypeMismatch(f"{self.name} is text, not {value!r}")
            raw, limit = encode_text(value), self.count - 1
            if b"\0" in raw:
                raise OutOfRange(f"{self.name}: text cannot hold a NUL")
        else:
            if not isinstance(value, (bytes, bytearray, memoryview)):
                raise TypeMismatch(f"{self.name} is data, not {value!r}")
            raw, limit = bytes(value), self.count
        if len(raw) > limit:
            raise OutOfRange(f"{len(raw)} bytes do not fit {self.name}, which holds {limit}")
        self.view[self.base : self.base + self.count] = raw.ljust(self.count, b"\0")
        return 0, 1


class ParamTable:
    """The parameters of one node, in the order given, which is the order of a list download.

    Raises SpecError for a duplicate id or name or a default that does not fit.
    """

    def __init__(self, specs: Iterable[ParamSpec]) -> None:
        specs = tuple(specs)
        offsets, size = _layout(specs)
        # MAP_SHARED and anonymous: forked children see the same pages.
        self._memory = memoryview(mmap.mmap(-1, max(size, 8)))
        views = {row.code: self._memory.cast(row.code) for row in TYPES}  # type: ignore[call-overload]
        self._hooks: list[ChangeHook] = []
        self._by_name: dict[str, Parameter] = {}
        self._by_id: dict[int, Parameter] = {}
        for spec, offset in zip(specs, offsets, strict=True):
            self._add(spec, views[spec.row.code], offset // spec.row.size)

    def _add(self, spec: ParamSpec, view: memoryview, base: int) -> None:
        if spec.id in self._by_id or spec.name in self._by_name:
            raise SpecError(f"parameter {spec.name!r} or its id {spec.id} is there twice")
        kind = TextParameter if spec.row.is_text else Parameter
        parameter = kind(spec, view, base, self._hooks)
        self._by_id[spec.id] = self._by_name[spec.name] = parameter
        if spec.default is not None:
            try:
                parameter.store(spec.default)
            except (TypeMismatch, OutOfRange) as error:
                raise SpecError(f"default of a parameter: {error}") from None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._by_id.values())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Parameter:
        """Return the handle of a name. Raises UnknownParam."""
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownParam(f"no parameter is called {name!r}") from None

    def by_id(self, number: int) -> Parameter:
        """Return the handle of an id. Raises UnknownParam."""
        try:
            return self._by_id[number]
        except KeyError:
            raise UnknownParam(f"no parameter has the id {number}") from None

    def find_id(self, number: int) -> Parameter | None:
        """Return the handle of an id, or None."""
        return self._by_id.get(number)

    def on_write(self, name: str, callback: WriteCallback) -> None:
        """Call back (parameter, element) after each element that a client or plan writes."""
        self[name].callbacks += (callback,)

    def on_change(self, hook: ChangeHook) -> None:
        """Call (parameter, first, stop) after any store, before the write callbacks."""
        self._hooks.append(hook)


def _layout(specs: Sequence[ParamSpec]) -> tuple[list[int], int]:
    """Return the byte offset of each parameter and the size of all, a multiple of 8."""
    offsets, end = [], 0
    for spec in specs:
        alignment = spec.row.size
        end = -(-end // alignment) * alignment
        offsets.append(end)
        end += spec.size_bytes
    return offsets, -(-end // 8) * 8
