"""Gather the rows of the campaign, of this package and of others. Driver.

Other packages name theirs under the entry point group `dipp.faults`, because nothing here may
import them: `dish` has the flight plans.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from csp.faultrow import FaultRow
from dipp.faults import (
    rows_bits,
    rows_config,
    rows_link,
    rows_module,
    rows_node,
    rows_storage,
    rows_upload,
)

GROUP = "dipp.faults"
_OWN = (rows_module, rows_config, rows_storage, rows_node, rows_link, rows_upload, rows_bits)


def all_rows() -> tuple[FaultRow, ...]:
    """Return every row, by id. Raises ValueError if two have one name."""
    rows = sorted((*_own(), *_others()), key=lambda row: row.id)
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"rows with one name: {sorted(n for n in names if names.count(n) > 1)}")
    return tuple(rows)


def _own() -> Iterator[FaultRow]:
    for module in _OWN:
        yield from module.ROWS


def _others() -> Iterator[FaultRow]:
    for entry in metadata.entry_points(group=GROUP):
        yield from entry.load()
