"""EMUS files as images of a batch: what `dipp run` needs to read `.fits` files.

`group` says which files belong into one batch, `load` reads one, `report` makes pictures and tables
of what came out, `preview` one picture of one batch; they are found by name, see dipp/inputs.py.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dipp.sdk import Metadata
from modules.aurora.emus_fits import parse_name, read_swath
from modules.aurora.planes import SWATH_FORMAT, SWATH_PLANES, Array


def group(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Put the swaths of an observation together: one orbit and mode, each number once.

    A file whose name says nothing is an observation of its own.
    """
    groups: list[list[Path]] = []
    # Of every orbit and mode: which numbers each of its groups has so far.
    open_groups: dict[tuple[object, ...], list[tuple[set[int], list[Path]]]] = {}
    for path in sorted(paths, key=lambda path: path.name):
        name = parse_name(path.name)
        if name is None:
            groups.append([path])
            continue
        known = open_groups.setdefault((name.orbit, name.mode, name.swaths), [])
        for numbers, members in known:
            if name.swath not in numbers:
                numbers.add(name.swath)
                members.append(path)
                break
        else:
            groups.append([path])
            known.append(({name.swath}, groups[-1]))
    return [tuple(members) for members in groups]


def load(path: Path) -> tuple[Metadata, bytes]:
    """Read a file as a swath image. Raises FitsError, a ValueError."""
    swath = read_swath(path)
    name = swath.name
    rows, slit = swath.planes.shape[:2]
    items: dict[str, bool | int | float | str] = {
        "fmt": SWATH_FORMAT,
        "swath": name.swath if name else 1,
        "swaths": name.swaths if name else 1,
        "mode": name.mode if name else "",
        "obs": swath.start,
        "alt_km": swath.altitude_km,
        "ss_lon": swath.subsolar_longitude,
    }
    data = np.ascontiguousarray(swath.planes, "<f4").tobytes()
    metadata = Metadata(
        size=len(data),
        width=slit,
        height=rows,
        channels=SWATH_PLANES,
        bits_pixel=32,
        camera="EMUS",
        timestamp=_unix(swath.start),
        obid=name.orbit if name else 0,
        items=tuple((key, value) for key, value in items.items() if value == value),
    )
    return metadata, data


def report(out: Path, done: Sequence[tuple[tuple[Path, ...], tuple[Path, ...]]]) -> list[Path]:
    """Write pictures, tables and a page about input and written files of every observation."""
    from modules.aurora.report import write

    return write(out, done)


def preview(files: Sequence[Path], written: Sequence[Path]) -> Array:
    """Draw the disc with the outlines of what was found, RGB. Raises OSError, ValueError."""
    from modules.aurora.report import draw

    return draw(files, written)


def _unix(start: str) -> int:
    """Return ISO text as Unix seconds, 0 if there is none; the field holds 31 bits."""
    try:
        return calendar.timegm(time.strptime(start[:19], "%Y-%m-%dT%H:%M:%S")) & 0x7FFFFFFF
    except ValueError:
        return 0
