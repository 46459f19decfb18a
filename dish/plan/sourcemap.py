"""Say which place of a plan an instruction came from, so that a failure can be explained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dish.errors import ContentError
from dish.plan.problems import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The source of one instruction; `note` says what it means if it fails."""

    place: Place
    note: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.note}" if self.note else str(self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMap:
    """The origins of all instructions, by slot and index."""

    origins: Mapping[int, tuple[Origin, ...]]

    def find(self, slot: int, index: int) -> Origin | None:
        """Return where an instruction (`proc_last_at`, `proc_last_index`) came from."""
        rows = self.origins.get(slot, ())
        return rows[index] if 0 <= index < len(rows) else None


def explain(source: SourceMap, text: str, slot: int, index: int) -> str:
    """Return a failure's place in words, with the line of the source if there is one."""
    origin = source.find(slot, index)
    if origin is None:
        return f"slot {slot} instruction {index} is not of this plan"
    lines = text.splitlines()
    line = origin.place.line
    shown = f"\n    {lines[line - 1].strip()}" if 0 < line <= len(lines) else ""
    return f"slot {slot} instruction {index}: {origin}{shown}"


def encode(source: SourceMap) -> str:
    """Return the map as JSON: slot to rows of line, column and note."""
    rows = {
        str(slot): [[each.place.line, each.place.column, each.note] for each in origins]
        for slot, origins in source.origins.items()
    }
    return json.dumps({"version": 1, "slots": rows}, indent=1) + "\n"


def decode(text: str) -> SourceMap:
    """Read what `encode` wrote. Raises ContentError."""
    try:
        slots = json.loads(text)["slots"]
        return SourceMap(
            origins={
                int(slot): tuple(
                    Origin(place=Place(int(line), int(column)), note=str(note))
                    for line, column, note in rows
                )
                for slot, rows in slots.items()
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ContentError("this is no source map of `dish compile`") from None
