"""Keep what modules have failed over a restart of the node: in a small file, replaced whole.

Theory of operation: a row per module that has failed lately or is quarantined. Times are not kept,
because the clock they count on may begin anew; failures of before the restart count as if they had
just happened, since a node that dies with its modules shall not forgive them for it. A record that
is damaged or cannot be written costs the memory, nothing else. `csp.files.disk` does the work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from csp.files.disk import StoreOps, SystemStoreOps, sync_folder, write_file
from dipp.config.definition import Fallback
from dipp.errors import ContentError
from dipp.params import Telemetry
from dipp.supervisor.policy import ModuleKey

# A row is some 80 bytes, and the book has at most 720.
_RECORD_LIMIT_BYTES = 1 << 20
_FAILURES_LIMIT = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingRow:
    """How a module stands. `fallback` is what is used instead if that of its pipeline is out."""

    key: ModuleKey
    failures: int
    is_out: bool
    fallback: Fallback | None = None


def encode_standings(rows: list[StandingRow]) -> bytes:
    """Return the record."""
    listed = [
        [
            row.key.pipeline, row.key.name, row.key.version, min(row.failures, _FAILURES_LIMIT),
            row.is_out, None if row.fallback is None else row.fallback.name,
        ]
        for row in rows
    ]  # fmt: skip
    return json.dumps({"standings": listed}).encode()


def decode_standings(data: bytes) -> list[StandingRow]:
    """Parse a record. Raises ContentError."""
    rows: list[StandingRow] = []
    try:
        for pipeline, name, version, failures, is_out, fallback in json.loads(data)["standings"]:
            if not (isinstance(name, str) and isinstance(version, str)):
                raise ContentError(f"standings: {name!r} of {version!r} is no version")
            rows.append(
                StandingRow(
                    key=ModuleKey(pipeline=int(pipeline), name=name, version=version),
                    failures=max(0, min(int(failures), _FAILURES_LIMIT)),
                    is_out=bool(is_out),
                    fallback=None if fallback is None else Fallback[fallback],
                )
            )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ContentError(f"standings: {error}") from error
    return rows


class StandingsFile:
    """The file of one node."""

    def __init__(self, path: Path, telemetry: Telemetry, ops: StoreOps | None = None) -> None:
        self._path = str(path)
        self._folder = str(path.parent)
        self._telemetry = telemetry
        self._ops: StoreOps = ops if ops is not None else SystemStoreOps()
        self._stored = encode_standings([])

    def load(self) -> list[StandingRow]:
        """Return what was saved last; nothing if there is no intact file. Never raises."""
        try:
            if self._ops.state(self._path) is None:
                return []
            data = self._ops.read(self._path, _RECORD_LIMIT_BYTES)
            rows = decode_standings(data)
        except (OSError, ContentError):
            self._telemetry.count("storage_errors")
            return []
        self._stored = data
        return rows

    def save(self, rows: list[StandingRow]) -> None:
        """Make these durable, if they are not those of last time. Never raises."""
        data = encode_standings(rows)
        if data == self._stored:
            return
        new = f"{self._path}.new"
        try:
            write_file(self._ops, new, data)
            self._ops.rename(new, self._path)
            sync_folder(self._ops, self._folder)
        except OSError:
            # Forgotten at the next start only; the next change tries again.
            self._telemetry.count("storage_errors")
            return
        self._stored = data
