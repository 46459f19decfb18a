"""What is known of a destination, what is left to do, and what became of every file.

Theory of operation: results are found by their keys, files by their addresses; the index joins the
two, so that a second run need not read what it read before. It is only a shortcut: without it files
are hashed again and their results found. Records are the truth. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from dipp.archive.keys import (
    RECORD_NAME,
    Input,
    Unit,
    key_of_place,
    result_key,
    result_place,
)
from dipp.archive.records import Hashed, Record, Report, State, decode_inputs
from dipp.errors import ContentError

INDEX_NAME = "index.json"
_INDEX_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A unit as it was last seen. `key` is empty and `reason` says why if it was unreadable."""

    inputs: tuple[Hashed, ...]
    key: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of a unit; `record` is there unless it was unreadable."""

    uris: tuple[str, ...]
    state: State
    record: Record | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Return the base name of the first file."""
        return self.uris[0].rpartition("/")[2]


def whole_results(sizes: Mapping[str, int]) -> list[str]:
    """Return the names of all records among the files of a store."""
    return [name for name in sizes if name.endswith(f"/{RECORD_NAME}") and key_of_place(name)]


def accept_record(data: bytes | None, chain: str, sizes: Mapping[str, int]) -> Record | None:
    """Return a record if it is of this chain and all its files are there in full length.

    What a power cut left is not, and is done again.
    """
    if data is None:
        return None
    try:
        record = Record.decode(data)
    except ContentError:
        return None
    place = result_place(record.key)
    whole = all(sizes.get(f"{place}/{each.name}") == each.size_bytes for each in record.outputs)
    return record if whole and record.chain == chain else None


class Ledger:
    """The units of a chain that have ever been seen in a destination."""

    def __init__(self, chain: str, shape: str, records: Iterable[Record], index: bytes | None):
        """`index` is what `encode` made, None or damaged if there is none."""
        self._chain, self._shape = chain, shape
        # Of several contents that a file has had, the last one counts.
        ordered = sorted(records, key=lambda record: record.finished_unix)
        self.records = {record.key: record for record in ordered}
        self._entries: dict[tuple[str, ...], Entry] = {}
        self._by_uri: dict[str, tuple[str, ...]] = {}
        for record in self.records.values():
            self._put(Entry(inputs=record.inputs, key=record.key))
        for entry in _decode_index(index):
            if not entry.key or entry.key in self.records:
                self._put(entry)

    def _put(self, entry: Entry) -> None:
        """Note a unit; others that one of its files was in are no more."""
        uris = tuple(each.uri for each in entry.inputs)
        for uri in uris:
            other = self._by_uri.get(uri)
            if other is not None and other != uris:
                self._entries.pop(other, None)
            self._by_uri[uri] = uris
        self._entries[uris] = entry

    def left(self, units: Sequence[Unit], *, redo_failed: bool = False) -> list[Unit]:
        """Return the units without a result, as far as that is known without reading them."""
        return [unit for unit in units if self._is_left(unit, redo_failed)]

    def _is_left(self, unit: Unit, redo_failed: bool) -> bool:
        record = self._record_of(unit)
        return record is None or (redo_failed and record.state is State.FAILED)

    def _record_of(self, unit: Unit) -> Record | None:
        entry = self._entries.get(unit.uris)
        if entry is None or tuple(each.listed for each in entry.inputs) != unit.inputs:
            return None
        names = [(each.listed.name, each.sha256) for each in entry.inputs]
        return self.records.get(result_key(self._chain, self._shape, names))

    def note(self, unit: Unit, report: Report) -> None:
        """Take what became of a unit."""
        record = report.record
        if record is None:
            inputs = tuple(_unhashed(each) for each in unit.inputs)
            self._put(Entry(inputs=inputs, reason=report.reason))
            return
        self.records[record.key] = record
        # The record may be that of another file of the same name and content.
        hashes = [each.sha256 for each in record.inputs]
        inputs = tuple(
            Hashed(uri=each.uri, size_bytes=each.size_bytes, stamp=each.stamp, sha256=sha256)
            for each, sha256 in zip(unit.inputs, hashes, strict=True)
        )
        self._put(Entry(inputs=inputs, key=record.key))

    def rows(self) -> list[Row]:
        """Return what became of every unit, by address."""
        return [self._row(uris, self._entries[uris]) for uris in sorted(self._entries)]

    def _row(self, uris: tuple[str, ...], entry: Entry) -> Row:
        record = self.records.get(entry.key)
        if record is None:
            return Row(uris=uris, state=State.UNREADABLE, reason=entry.reason)
        return Row(uris=uris, state=record.state, record=record)

    def encode(self) -> bytes:
        """Return the index."""
        units = [asdict(entry) for _, entry in sorted(self._entries.items())]
        text = json.dumps({"version": _INDEX_VERSION, "units": units}, separators=(",", ":"))
        return text.encode("ascii") + b"\n"


def _unhashed(entry: Input) -> Hashed:
    return Hashed(uri=entry.uri, size_bytes=entry.size_bytes, stamp=entry.stamp, sha256="")


def _decode_index(data: bytes | None) -> list[Entry]:
    """Return the entries of an index; none of one that cannot be read."""
    try:
        parsed = json.loads(data or b"{}")
        if parsed.get("version") != _INDEX_VERSION:
            return []
        return [
            Entry(
                inputs=decode_inputs(row["inputs"]), key=str(row["key"]), reason=str(row["reason"])
            )
            for row in parsed["units"]
        ]
    except (ContentError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
