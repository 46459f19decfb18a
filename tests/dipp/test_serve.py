"""`dipp serve` as a process: kills, drains, refusals. Real forks, real signals, a real hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dipp.cli import main
from dipp.faults.daemon import Daemon, descendants, is_alive
from dipp.records import Totals

SLOW = "import time\ndef run(batch, params):\n    time.sleep(0.5)\n"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    (daemon.modules / "slow.py").write_text(SLOW)
    yield daemon
    daemon.close()


def test_a_kill_in_the_middle_of_a_module_is_replayed_once_and_then_quarantined(
    daemon: Daemon,
) -> None:
    daemon.start()
    daemon.configure("slow")
    first = daemon.camera.shoot(b"first")
    daemon.set("pipeline_run", 1)
    daemon.until_module_runs()
    daemon.kill()
    assert daemon.camera.exists(first)
    daemon.start()
    daemon.until_idle()
    assert daemon.get("batches_delivered") == 1
    assert daemon.get("batch_replays") == 1
    assert not daemon.camera.exists(first)

    second = daemon.camera.shoot(b"second")
    daemon.set("pipeline_run", 1)
    for _ in range(2):
        daemon.until_module_runs()
        daemon.kill()
        daemon.start()
    daemon.until_idle()
    assert daemon.get("log_status") == 607100
    assert not daemon.camera.exists(second)
    assert daemon.terminate() == 0
    assert daemon.totals() == Totals(taken=2, delivered=1, quarantined=1, images=1)
    assert daemon.stored() == 2, "the first image, and the thumbnail of the second"
    assert daemon.quarantined() == 1


def test_sigterm_lets_the_current_batch_end_and_leaves_the_rest_queued(daemon: Daemon) -> None:
    daemon.start()
    daemon.configure("slow")
    daemon.camera.shoot(b"first")
    daemon.camera.shoot(b"second")
    daemon.set("pipeline_run", 4)
    daemon.until_module_runs()
    below = descendants(daemon.pid)
    assert daemon.terminate() == 0
    assert not any(map(is_alive, below))
    assert daemon.totals() == Totals(taken=1, delivered=1, images=1)
    daemon.start()
    daemon.set("pipeline_run", 2)
    daemon.until_idle()
    assert daemon.get("batches_delivered") == 2


@pytest.mark.parametrize(("state", "reason"), [("state", "in use by another node"),
                                               ("other", "is read by another node")])  # fmt: skip
def test_a_second_daemon_refuses_and_the_first_goes_on(
    daemon: Daemon, tmp_path: Path, state: str, reason: str
) -> None:
    daemon.start()
    second = daemon.run_second(tmp_path / state)
    assert second.returncode == 1
    assert reason in second.stderr
    assert f"process {daemon.pid}" in second.stderr
    assert daemon.ping(1.0)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], 2),
        (["--help"], 0),
        (["serve", "--no-such-flag"], 2),
        (["nonsense"], 2),
        (["serve", "-i", "can"], 2),
        (["serve", "-i", "CAN"], 1),
        (["serve", "-i", "KISS", "-p", "/no/such/device"], 1),
        (["serve", "--ring-entries", "1"], 1),
    ],
)
def test_exit_status(words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = main(words)
    except SystemExit as exit_:
        found = int(exit_.code or 0)
    assert found == status
    captured = capsys.readouterr()
    assert captured.err or captured.out
