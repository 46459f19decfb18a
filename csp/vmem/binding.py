"""Keep parameters in memory areas: loaded at start, written through, and changed from outside.

Theory of operation: a parameter with `area` and `address` lives in the table; its bytes, little
endian and at any address, are mirrored in the area. A change in the table is written to the area
at once and made durable by `flush`, so that all changes of one packet cost one flush. Bytes
written to the area from outside (vmem upload, CMP poke) reach the parameters at the next flush of
the area or the binding: what differs is stored and its callbacks run, once per changed element.
Source: csp.md 12, dipp.md 3 and 4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from csp.errors import MisuseError
from csp.param.errors import SpecError
from csp.param.table import Parameter, ParamTable
from csp.vmem.area import Area, StoreError


class BoundArea:
    """An area as the outside should see it: writes to it reach the parameters that live there."""

    def __init__(self, binding: Binding, raw: Area) -> None:
        self._binding = binding
        self.raw = raw
        self._first, self._stop = raw.size, 0

    @property
    def name(self) -> str:
        """Name of the area behind."""
        return self.raw.name

    @property
    def kind(self) -> int:
        """Kind of the area behind."""
        return self.raw.kind

    @property
    def address(self) -> int:
        """First address."""
        return self.raw.address

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.raw.size

    @property
    def fresh(self) -> bool:
        """Whether nothing of an earlier run is in it."""
        return self.raw.fresh

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes. Raises MisuseError outside the area."""
        return self.raw.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes; parameters there follow at `flush`. Raises MisuseError outside the area."""
        self.raw.write(offset, data)
        self._first = min(self._first, offset)
        self._stop = max(self._stop, offset + len(data))

    def flush(self) -> None:
        """Update the parameters that were written over, make all durable. Raises StoreError."""
        first, stop = self._first, self._stop
        if first < stop:
            # Reset before callbacks run: they may write, and even flush, again.
            self._first, self._stop = self.raw.size, 0
            self._binding.update_from(self.raw, first, stop)
        self.raw.flush()


class Binding:
    """The tie between a table and the areas its parameters name.

    Loads at construction, without callbacks: what an area holds of an earlier run wins over the
    defaults, a fresh area gets the defaults. Raises SpecError if a parameter names an area that is
    not there, lies outside of it, or overlaps another one; MisuseError if two areas have one name.
    """

    def __init__(self, table: ParamTable, areas: Iterable[Area]) -> None:
        self.areas = tuple(BoundArea(self, area) for area in areas)
        self._raw = {area.name: area.raw for area in self.areas}
        if len(self._raw) != len(self.areas):
            raise MisuseError("two areas have the same name")
        self._residents: dict[str, list[tuple[int, int, Parameter]]] = {n: [] for n in self._raw}
        for parameter in table:
            self._settle(parameter)
        for name, residents in self._residents.items():
            _check_overlap(name, residents)
        self._load()
        table.on_change(self._changed)

    @property
    def kinds(self) -> dict[str, int]:
        """The kind of each area by name, for list entries."""
        return {name: area.kind for name, area in self._raw.items()}

    def area(self, name: str) -> BoundArea:
        """Return an area by name. Raises MisuseError."""
        for area in self.areas:
            if area.name == name:
                return area
        raise MisuseError(f"there is no area {name!r}")

    def flush(self) -> None:
        """Make every area durable; tries all even if one fails. Raises the first StoreError."""
        failure: StoreError | None = None
        for area in self.areas:
            try:
                area.flush()
            except StoreError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def update_from(self, raw: Area, first: int, stop: int) -> None:
        """Take over bytes first..stop-1 of an area into the parameters that live there."""
        for start, end, parameter in self._residents[raw.name]:
            if start >= stop or end <= first:
                continue
            new, old = raw.read(start, end - start), _to_bytes(parameter, 0, parameter.count)
            if new == old:
                continue
            _from_bytes(parameter, new)
            if parameter.row.is_text:
                parameter.stored()
                continue
            size = parameter.row.size
            for index in range(parameter.count):
                part = slice(index * size, (index + 1) * size)
                if new[part] != old[part]:
                    parameter.stored(index, index + 1)

    def _settle(self, parameter: Parameter) -> None:
        name, address = parameter.spec.area, parameter.spec.address
        if name is None or address is None:
            return
        raw = self._raw.get(name)
        if raw is None:
            raise SpecError(f"parameter {parameter.name} is in area {name!r}, which is not there")
        end = address + parameter.spec.size_bytes
        if end > raw.size:
            raise SpecError(f"parameter {parameter.name} ends at {end}, outside of area {name}")
        self._residents[name].append((address, end, parameter))

    def _load(self) -> None:
        for name, residents in self._residents.items():
            raw = self._raw[name]
            for start, end, parameter in residents:
                if raw.fresh:
                    raw.write(start, _to_bytes(parameter, 0, parameter.count))
                else:
                    _from_bytes(parameter, raw.read(start, end - start))

    def _changed(self, parameter: Parameter, first: int, stop: int) -> None:
        name, address = parameter.spec.area, parameter.spec.address
        if name is None or address is None:
            return
        if parameter.row.is_text:
            first, stop = 0, parameter.count
        data = _to_bytes(parameter, first, stop)
        self._raw[name].write(address + first * parameter.row.size, data)


def _check_overlap(name: str, residents: list[tuple[int, int, Parameter]]) -> None:
    end, before = 0, ""
    for start, stop, parameter in sorted(residents, key=lambda row: row[0]):
        if start < end:
            raise SpecError(f"parameters {before} and {parameter.name} overlap in area {name}")
        end, before = stop, parameter.name


def _to_bytes(parameter: Parameter, first: int, stop: int) -> bytes:
    elements = parameter.view[parameter.base + first : parameter.base + stop].tolist()
    return struct.pack(f"<{stop - first}{parameter.row.code}", *elements)


def _from_bytes(parameter: Parameter, raw: bytes) -> None:
    elements = struct.unpack(f"<{parameter.count}{parameter.row.code}", raw)
    for index, element in enumerate(elements, parameter.base):
        parameter.view[index] = element
