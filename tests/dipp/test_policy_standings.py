"""What modules have failed, over a restart and a kill of the node."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from csp.files.disk import SystemStoreOps
from dipp.config.definition import Fallback
from dipp.errors import Code, ContentError
from dipp.faults.daemon import Daemon
from dipp.params import Telemetry, make_table
from dipp.policy.standings import (
    StandingRow,
    StandingsFile,
    decode_standings,
    encode_standings,
)
from dipp.supervisor.policy import ModuleBook, ModuleKey, Tolerance

KEY = ModuleKey(pipeline=1, name="broken", version="0123456789abcdef")
OTHER = ModuleKey(pipeline=6, name="a" * 32, version="fedcba9876543210")
ROWS = [
    StandingRow(key=KEY, failures=3, is_out=True, fallback=Fallback.IDENTITY),
    StandingRow(key=OTHER, failures=1, is_out=False),
]


def test_a_record_survives_and_every_cut_is_noticed() -> None:
    data = encode_standings(ROWS)
    assert decode_standings(data) == ROWS
    for length in range(len(data)):
        with pytest.raises(ContentError):
            decode_standings(data[:length])


def test_every_flipped_bit_gives_rows_or_a_named_error() -> None:
    data = encode_standings(ROWS)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            rows = decode_standings(bytes(flipped))
        except ContentError:
            continue
        assert all(0 <= row.failures <= 255 for row in rows)


@pytest.mark.parametrize(
    "row", [[1], [1, 2, "v", 0, True, None], [1, "n", "v", 1e400, True, None], "abcdef",
            [1, "n", "v", 0, True, "NEVER"]],
)  # fmt: skip
def test_what_is_no_row_is_refused(row: object) -> None:
    with pytest.raises(ContentError):
        decode_standings(json.dumps({"standings": [row]}).encode())


def test_failures_of_before_the_restart_count_as_new_and_grow_old() -> None:
    tolerance = Tolerance(failures=3, period_s=60)
    book = ModuleBook()
    book.recall(KEY, 2, 1000.0, is_out=False)
    assert dict(book.failures()) == {KEY: 2}
    assert book.wait_s(KEY, 1000.0) == 0
    assert book.failed(KEY, 1059.0, tolerance)
    assert not book.is_usable(KEY)
    old = ModuleBook()
    old.recall(KEY, 2, 1000.0, is_out=False)
    assert not old.failed(KEY, 1061.0, tolerance)
    out = ModuleBook()
    out.recall(KEY, 3, 0.0, is_out=True)
    assert not out.is_usable(KEY)
    assert out.rearm() == 1
    assert dict(out.failures()) == {}


class _Full(SystemStoreOps):
    """A disk that is full while `is_full`."""

    is_full = True

    def write(self, fd: int, data: bytes) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "full")
        return super().write(fd, data)


def test_a_record_that_cannot_be_written_or_read_costs_the_memory_only(tmp_path: Path) -> None:
    telemetry = Telemetry(table := make_table())
    ops = _Full()
    file = StandingsFile(tmp_path / "standings", telemetry, ops)
    assert file.load() == []
    file.save(ROWS)
    assert table["storage_errors"].get() == 1
    assert file.load() == []
    ops.is_full = False
    file.save(ROWS)
    assert StandingsFile(tmp_path / "standings", telemetry).load() == ROWS
    (tmp_path / "standings").write_bytes(b"{")
    assert StandingsFile(tmp_path / "standings", telemetry).load() == []
    assert table["storage_errors"].get() == 2


BROKEN = "def run(batch, params):\n    raise ValueError('it is broken')\n"


def shoot(daemon: Daemon, count: int) -> None:
    for _ in range(count):
        daemon.camera.shoot(b"x")
    daemon.set("pipeline_run", 2)
    daemon.until_idle()


def restart(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()


def test_a_killed_node_remembers_what_failed_until_it_is_rearmed(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        (daemon.modules / "broken.py").write_text(BROKEN)
        daemon.start()
        daemon.configure("broken")
        shoot(daemon, 2)
        # Counters: two failures before the kill, the third after it.
        restart(daemon)
        assert daemon.get("modules_quarantined") == 0
        shoot(daemon, 1)
        assert daemon.get("modules_quarantined") == 1
        restart(daemon)
        assert (daemon.get("modules_quarantined"), daemon.get("pipelines_degraded")) == (1, 1)
        shoot(daemon, 1)
        assert daemon.get("log_status") // 1000 == Code.MODULE_QUARANTINED
        daemon.set("module_rearm", 255)
        daemon.until(lambda: not daemon.get("modules_quarantined"), "it is re-armed")
        restart(daemon)
        assert (daemon.get("modules_quarantined"), daemon.get("pipelines_degraded")) == (0, 0)
        shoot(daemon, 1)
        assert daemon.get("log_status") // 1000 != Code.MODULE_QUARANTINED
        # Another version is not what failed, also if it came while nothing ran.
        shoot(daemon, 2)
        assert daemon.get("modules_quarantined") == 1
        daemon.kill()
        (daemon.modules / "broken.py").write_text("def run(batch, params):\n    pass\n")
        daemon.start()
        assert daemon.get("modules_quarantined") == 0
        delivered = daemon.get("batches_delivered")
        shoot(daemon, 1)
        assert daemon.get("batches_delivered") == delivered + 1
