"""The summary of an archive as one HTML file that needs nothing else.

Theory of operation: the rows travel as data in the page and a script shows one sheet of them at a
time, so thousands stay usable. Thumbnails are bounded one by one when they are made, and together
here; so are rows, failures first, because the tables hold them all. Texts of modules and names of
files get into the page as text only. Pure but for the template, which is package data.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from dipp.archive.keys import result_place
from dipp.archive.plan import Row
from dipp.archive.records import Crash, Scalar, State
from dipp.archive.tables import items_of, printable
from dipp.errors import describe

# What a browser loads within a second or two from a disk.
THUMBNAILS_LIMIT_BYTES = 24 << 20
ROWS_LIMIT = 20_000
_ITEMS, _ITEM_CHARS, _LOG_CHARS = 40, 200, 1500
_FACETS, _FACET_VALUES = 3, 12
_SHOWN_SHA = 16
_RUNNER_FRAME = re.compile(r'^  File "[^"]*/dipp/runner/|^  File "<frozen runpy>"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What stands above the rows. `chain` is what `describe_chain` made."""

    title: str
    about: str
    chain: Mapping[str, object]


def make_page(heading: Heading, rows: Sequence[Row]) -> bytes:
    """Return the page, UTF-8."""
    causes = _Causes()
    kept = _bounded(rows)
    facets = _facets(kept)
    thumbnails = _Budget(THUMBNAILS_LIMIT_BYTES)
    shown = [_shown(row, causes, thumbnails, facets) for row in kept]
    data = {
        "about": heading.about,
        "tiles": _tiles(rows),
        "chain": list(_steps(heading.chain, rows)),
        "rows": sorted(shown, key=lambda row: str(row["n"])),
        "causes": causes.listed(),
        "facets": [[name, list(counts)] for name, counts in facets],
        "left": _left(len(rows) - len(kept), thumbnails.refused),
    }
    template = (resources.files("dipp.archive") / "page.html").read_text("utf-8")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # The title first: what comes from files may hold the name of a place.
    page = template.replace("__TITLE__", html.escape(printable(heading.title)))
    # Half a surrogate becomes the escape that JSON knows for it.
    return page.replace("__DATA__", printable(text).replace("<", "\\u003c")).encode("utf-8")


class _Budget:
    """Gives out bytes as long as there are some."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self.refused = 0

    def take(self, text: str) -> str:
        if len(text) <= self._left:
            self._left -= len(text)
            return text
        self.refused += 1
        return ""


class _Causes:
    """Failures that have code, module and kind in common."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._logs: dict[tuple[str, str, str], str] = {}

    def number(self, crash: Crash) -> int:
        """Count a crash and return which cause it is."""
        place = f"{crash.module} {crash.name}" if crash.module else "before the first module"
        cause = (f"{crash.code} {describe(crash.code)}", place, _happened(crash))
        self._counts[cause] += 1
        self._logs.setdefault(cause, _clip(crash.last_log, _ITEM_CHARS))
        return self._numbers.setdefault(cause, len(self._numbers))

    def listed(self) -> list[dict[str, object]]:
        """Return the causes by number."""
        return [
            {
                "code": cause[0],
                "module": cause[1],
                "what": cause[2],
                "log": self._logs[cause],
                "count": self._counts[cause],
            }
            for cause in self._numbers
        ]


def _happened(crash: Crash) -> str:
    """Say in words how a module ended."""
    if crash.exception:
        line = f" in line {crash.line}" if crash.line else ""
        return f"{crash.exception}{line}"
    if crash.signal:
        return f"signal {crash.signal}"
    return describe(crash.code)


def _bounded(rows: Sequence[Row]) -> list[Row]:
    if len(rows) <= ROWS_LIMIT:
        # Failures first, so that theirs are the last thumbnails to be left out.
        return sorted(rows, key=lambda row: row.state is State.DONE)
    return sorted(rows, key=lambda row: row.state is State.DONE)[:ROWS_LIMIT]


def _shown(
    row: Row,
    causes: _Causes,
    thumbnails: _Budget,
    facets: Sequence[tuple[str, Sequence[tuple[str, int]]]],
) -> dict[str, object]:
    """Return a row under the short names that the page knows."""
    record = row.record
    fields: dict[str, object] = {
        "n": row.name,
        "s": row.state.value,
        "u": row.uris,
        "w": record.wall_s if record else 0.0,
        "x": -1,
        "r": _clip(row.reason, _LOG_CHARS),
    }
    if record is None:
        return fields
    fields["k"], fields["p"] = record.key, result_place(record.key)
    fields["o"] = [each.name for each in record.outputs]
    fields["t"] = thumbnails.take(record.thumbnail)
    items = items_of(row)
    fields["i"] = {key: _plain(items[key]) for key in list(items)[:_ITEMS]}
    # The first thing by which results differ stands below the picture.
    fields["b"] = str(items.get(facets[0][0], "")) if facets else ""
    if record.crash is not None:
        fields["x"] = causes.number(record.crash)
        fields["l"] = _clip(record.crash.last_log, _LOG_CHARS)
        fields["g"] = _log(record.crash.log)
    return fields


def _log(text: str) -> str:
    """Leave out of a log where the module was called from: all of it is the runner's."""
    lines = [line for line in text.splitlines() if not _RUNNER_FRAME.search(line)]
    return "\n".join(lines)[-_LOG_CHARS:]


def _plain(value: Scalar) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _clip(value, _ITEM_CHARS) if isinstance(value, str) else value


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _facets(rows: Sequence[Row]) -> list[tuple[str, Sequence[tuple[str, int]]]]:
    """Return the items by whose few values results can be told apart, most even ones first."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for key, value in items_of(row).items():
            if not isinstance(value, float) and len(str(value)) <= 24:
                counts.setdefault(key, Counter())[str(value)] += 1
    few = {key: count for key, count in counts.items() if 2 <= len(count) <= _FACET_VALUES}
    # Words before numbers: a state says more than a count.
    best = sorted(few, key=lambda key: (_is_numeric(few[key]), -_entropy(few[key]), key))
    return [(key, few[key].most_common()) for key in best[:_FACETS]]


def _is_numeric(values: Counter[str]) -> bool:
    return all(value.lstrip("-").isdigit() for value in values)


def _entropy(values: Counter[str]) -> float:
    total = sum(values.values())
    return -sum(count / total * math.log2(count / total) for count in values.values())


def _tiles(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    states = Counter(row.state for row in rows)
    records = [row.record for row in rows if row.record is not None]
    size = sum(each.size_bytes for record in records for each in record.outputs)
    worked = sum(record.wall_s for record in records)
    tiles = [
        (f"{states[State.DONE]:,}", "done", "done"),
        (f"{states[State.FAILED]:,}", "in quarantine", "failed" if states[State.FAILED] else ""),
    ]
    if states[State.UNREADABLE]:
        tiles.append((f"{states[State.UNREADABLE]:,}", "unreadable", "unreadable"))
    tiles.append((f"{sum(len(row.uris) for row in rows):,}", "input files", ""))
    tiles.append((_size(size), "of results", ""))
    if records:
        tiles.append((_time(worked / len(records)), "per batch and runner", ""))
    return tiles


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


def _steps(chain: Mapping[str, object], rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    stages = [each for row in rows if row.record is not None for each in row.record.stages]
    steps = chain.get("steps")
    for step in steps if isinstance(steps, list) else ():
        mine = [each for each in stages if each.name == step["name"]]
        params = ", ".join(f"{key} = {value}" for key, value in step["params"].items())
        yield {
            "name": step["name"],
            "params": params,
            "time": _time(sum(each.wall_s for each in mine) / len(mine)) if mine else "",
            "memory": f"{max(each.peak_rss_kb for each in mine) / 1024:.0f} MB" if mine else "",
            "sha256": step["sha256"][:_SHOWN_SHA],
        }


def _left(rows: int, thumbnails: int) -> str:
    parts = []
    if rows:
        parts.append(f"{rows:,} more rows are in results.csv only.")
    if thumbnails:
        parts.append(f"{thumbnails:,} thumbnails were left out to keep this page loadable.")
    return " ".join(parts)
