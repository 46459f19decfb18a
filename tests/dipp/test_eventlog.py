"""The diary: bounded, readable after a kill, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipp import eventlog
from dipp.eventlog import EventLog, read_events


def log_at(path: Path) -> EventLog:
    return EventLog(path, now=lambda: 1.5, wall_unix=lambda: 1000.25)


def test_events_come_back_in_order_with_both_clocks(tmp_path: Path) -> None:
    log = log_at(tmp_path / "log")
    log.note("start", batch=1)
    log.note("fate", batch=1, fate="delivered", path=tmp_path)
    first, second = read_events(tmp_path / "log")
    assert first == {"t": 1.5, "unix": 1000.25, "event": "start", "batch": 1}
    assert second["path"] == str(tmp_path)


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log_at(path).note("start", batch=1)
    with path.open("ab") as file:
        file.write(b'{"t": 2, "eve')
    assert [event["batch"] for event in read_events(path)] == [1]


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "LIMIT_BYTES", 1000)
    log = log_at(tmp_path / "log")
    for number in range(200):
        log.note("start", batch=number)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"log", "log.1"}
    assert max(sizes.values()) <= 1000
    last = read_events(tmp_path / "log")
    assert not last or last[-1]["batch"] == 199


def test_a_full_or_missing_disk_is_counted_only(tmp_path: Path) -> None:
    log = log_at(tmp_path / "nowhere" / "log")
    log.note("start", batch=1)
    assert log.failures == 1
