"""The node's diary: one JSON object per line, for people and reports. Driver.

It decides nothing and nothing depends on it: a line that cannot be written is counted and
forgotten. Two files of bounded size are kept, `log` and the one before it, `log.1`.
Source: design.md 9.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

# With about 300 bytes a line, the last seven thousand batches or more.
LIMIT_BYTES = 4_000_000


class EventLog:
    """Appends events. `now` gives monotonic seconds, `wall_unix` Unix seconds."""

    def __init__(
        self, path: Path, *, now: Callable[[], float], wall_unix: Callable[[], float]
    ) -> None:
        self.failures = 0
        self._path = path
        self._now = now
        self._wall_unix = wall_unix

    def note(self, event: str, **fields: object) -> None:
        """Write one event. Never raises."""
        times = {"t": round(self._now(), 4), "unix": round(self._wall_unix(), 3)}
        line = json.dumps({**times, "event": event, **fields}, default=str).encode() + b"\n"
        try:
            self._append(line)
        except OSError:
            self.failures += 1

    def _append(self, line: bytes) -> None:
        if self._size() + len(line) > LIMIT_BYTES:
            os.replace(self._path, self._path.with_suffix(".1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0


def read_events(path: Path) -> list[dict[str, object]]:
    """Return the events of a file; a torn last line is left out. Raises OSError."""
    events: list[dict[str, object]] = []
    for line in path.read_text("utf-8", "replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
