"""The results as a table: one row a unit, metadata items as columns; CSV and Parquet. Pure."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dipp.archive.keys import result_place
from dipp.archive.plan import Row
from dipp.archive.records import Scalar, State
from dipp.errors import Code, ContentError, describe

Value = Scalar | None
ITEM_PREFIX = "item_"
# A module that makes up a name per picture must not make a table nobody can open.
_ITEM_COLUMNS = 256
COLUMNS = (
    "file", "state", "code", "meaning", "module", "module_name", "signal", "exit_status",
    "exception", "line", "log", "images", "width", "height", "channels", "bytes_out", "wall_s",
    "cpu_s", "peak_rss_kb", "attempts", "worker", "finished_unix", "key", "result", "outputs",
    "sha256", "uris",
)  # fmt: skip
_QUARANTINE = (
    "file", "state", "code", "meaning", "module", "module_name", "signal", "exit_status",
    "exception", "line", "log", "key", "uris",
)  # fmt: skip


def flat_row(row: Row) -> dict[str, Value]:
    """Return a row with a value for every column and every metadata item."""
    return {
        printable(key): printable(value) if isinstance(value, str) else value
        for key, value in _fields(row).items()
    }


def _fields(row: Row) -> dict[str, Value]:
    fields: dict[str, Value] = dict.fromkeys(COLUMNS)
    fields["file"] = row.name
    fields["state"] = row.state.value
    fields["uris"] = json.dumps(row.uris, ensure_ascii=False)
    record = row.record
    if record is None:
        fields["log"] = row.reason
        return fields
    crash = record.crash
    if crash is not None:
        fields["code"], fields["meaning"] = crash.code, describe(crash.code)
        fields["module"], fields["module_name"] = crash.module, crash.name
        fields["signal"], fields["exit_status"] = crash.signal, crash.exit_status
        fields["exception"], fields["line"] = crash.exception, crash.line
        fields["log"] = crash.last_log
    fields["images"] = len(record.outputs)
    if record.outputs:
        first = record.outputs[0]
        fields["width"], fields["height"] = first.width, first.height
        fields["channels"] = first.channels
    fields["bytes_out"] = sum(each.size_bytes for each in record.outputs)
    fields["wall_s"] = record.wall_s
    fields["cpu_s"] = round(sum(each.cpu_s for each in record.stages), 6)
    fields["peak_rss_kb"] = max((each.peak_rss_kb for each in record.stages), default=0)
    fields["attempts"], fields["worker"] = record.attempts, record.worker
    fields["finished_unix"] = record.finished_unix
    fields["key"], fields["result"] = record.key, result_place(record.key)
    fields["outputs"] = json.dumps([each.name for each in record.outputs], ensure_ascii=False)
    fields["sha256"] = json.dumps([each.sha256 for each in record.inputs])
    fields.update({f"{ITEM_PREFIX}{key}": value for key, value in items_of(row).items()})
    return fields


def items_of(row: Row) -> dict[str, Scalar]:
    """Return the metadata items of all images of a result; of one key the first counts."""
    found: dict[str, Scalar] = {}
    for output in row.record.outputs if row.record else ():
        for key, value in output.items.items():
            found.setdefault(key, value)
    return found


def printable(text: str) -> str:
    """Return a text that every encoder takes: bytes of a name that are no UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def table_columns(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    """Return the columns of a table, items last in the order of their names."""
    items = {key for row in rows for key in row if key.startswith(ITEM_PREFIX)}
    return [*COLUMNS, *sorted(items)[:_ITEM_COLUMNS]]


def to_csv(rows: Sequence[Mapping[str, Value]], columns: Sequence[str] | None = None) -> bytes:
    """Return rows as CSV, UTF-8, a header first; absent values are empty."""
    text = io.StringIO()
    names = columns or table_columns(rows)
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def quarantine_csv(rows: Sequence[Mapping[str, Value]]) -> bytes:
    """Return what has no result, and why."""
    failed = [row for row in rows if row["state"] != State.DONE.value]
    return to_csv(failed, _QUARANTINE)


def to_parquet(rows: Sequence[Mapping[str, Value]]) -> bytes | None:
    """Return the same table as Parquet, None if pyarrow is not installed.

    A column whose values are of several kinds becomes text. Raises ContentError if pyarrow is
    there but cannot be used, for example with this numpy.
    """
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        return None
    except ImportError as error:
        raise ContentError(f"no Parquet: {error}", Code.CONFIG_INVALID) from error
    columns = {name: _column([row.get(name) for row in rows]) for name in table_columns(rows)}
    out = io.BytesIO()
    parquet.write_table(arrow.table(columns), out)
    return out.getvalue()


def _column(values: Sequence[Value]) -> list[Value]:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    if len(kinds) > 1:
        return [None if value is None else str(value) for value in values]
    return list(values)
