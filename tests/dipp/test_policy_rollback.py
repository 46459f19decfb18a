"""Trials on disk: a rollback is finished after any kill, and no disk error stops it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from csp.files.disk import StoreOps, SystemStoreOps
from csp.files.store import FileStore
from csp.files.testing import FailingStoreOps, KillingStoreOps
from dipp.params import Telemetry, make_table
from dipp.policy.rollback import Trialist
from dipp.policy.settings import Settings
from dipp.runner.executor import Chain, ModuleStep

NAME = "a.py"
GOOD, BAD = b"good", b"bad"


class Bench:
    """A store with its trials in a folder, as a node has them."""

    def __init__(self, folder: Path, ops: StoreOps | None = None) -> None:
        self.folder = folder
        self.table = make_table()
        self.telemetry = Telemetry(self.table)
        self.notes: list[str] = []
        self.installed: list[str] = []
        ops = ops or SystemStoreOps()
        self.trials = Trialist(
            folder / "trials", folder / "modules" / "active", Settings(self.table),
            telemetry=self.telemetry, note=lambda event, **fields: self.notes.append(event),
            ops=ops,
        )  # fmt: skip
        self.store = FileStore(folder / "modules", self.on_files, ops=ops)
        self.trials.attach(self.store)

    def on_files(self, name: str) -> None:
        self.installed.append(name)
        self.trials.changed(name)

    def batch(self, *, fails: bool) -> None:
        """Let a batch that uses the file succeed or fail."""
        path = self.folder / "modules" / "active" / NAME
        step = ModuleStep(index=1, name="a", path=str(path))
        tickets = self.trials.tickets(Chain(pipeline_id=1, generation=1, steps=(step,)))
        if fails:
            self.trials.failed(tickets.get(1, ()), 600)
        else:
            self.trials.succeeded(tickets.get(1, ()))

    @property
    def active(self) -> bytes:
        return (self.folder / "modules" / "active" / NAME).read_bytes()


def mission(bench: Bench) -> None:
    """A good version proves itself, a bad one replaces it and fails its first two batches."""
    bench.store.install(NAME, GOOD)
    bench.batch(fails=False)
    bench.store.install(NAME, BAD)
    bench.batch(fails=True)
    bench.batch(fails=True)


def in_child(act: Callable[[], object]) -> bool:
    """Run in a child; say whether it survived."""
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


def test_the_mission_rolls_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    mission(bench)
    assert bench.active == GOOD
    assert bench.notes == ["trial", "trial_passed", "trial", "rollback"]
    assert bench.installed == [NAME] * 3, "the cache hears of the rollback like of any change"


def test_whenever_the_node_is_killed_a_bad_version_goes_after_two_failures(
    tmp_path: Path,
) -> None:
    kill_at, finished = 0, False
    while not finished:
        kill_at += 1
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        finished = in_child(lambda: mission(Bench(folder, KillingStoreOps(kill_at))))  # noqa: B023
        bench = Bench(folder)
        when = f"killed at call {kill_at}"
        if not (folder / "modules" / "active" / NAME).exists() or bench.active == GOOD:
            # Before the bad one came, or after it went: a good one must stay whatever fails later.
            bench.store.install(NAME, GOOD)
            bench.batch(fails=False)
            bench.batch(fails=True)
            bench.batch(fails=True)
        else:
            bench.batch(fails=True)
            bench.batch(fails=True)
        assert bench.active == GOOD, when
        assert Bench(folder).active == GOOD, when
    assert kill_at > 60


@pytest.mark.parametrize("forever", [False, True])
def test_a_disk_that_fails_at_any_call_raises_nothing_and_later_the_bad_one_goes(
    tmp_path: Path, forever: bool
) -> None:
    fail_at, reached = 0, True
    while reached:
        fail_at += 1
        folder = tmp_path / str(fail_at)
        folder.mkdir()
        bench = Bench(folder)
        bench.store.install(NAME, GOOD)
        bench.batch(fails=False)
        bench.store.install(NAME, BAD)
        ops = FailingStoreOps(fail_at, errno.EIO, forever=forever)
        bench.trials._ops = ops
        bench.store._versions._ops = ops
        bench.batch(fails=True)
        bench.batch(fails=True)
        reached = ops.calls >= fail_at
        again = Bench(folder)
        again.batch(fails=True)
        again.batch(fails=True)
        assert again.active == GOOD, f"call {fail_at}"
    assert fail_at > 10


def test_a_damaged_record_forgets_the_trials_and_is_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.store.install(NAME, GOOD)
    (tmp_path / "trials").write_bytes(b"\xff{")
    again = Bench(tmp_path)
    assert again.telemetry.get("storage_errors") == 1
    assert list(again.trials.tickets(Chain(pipeline_id=1, generation=1, steps=()))) == []
    again.batch(fails=True)
    again.batch(fails=True)
    assert again.active == GOOD


def test_a_batch_that_began_before_the_upload_says_nothing_about_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    step = ModuleStep(index=1, name="a", path=str(tmp_path / "modules" / "active" / NAME))
    chain = Chain(pipeline_id=1, generation=1, steps=(step,))
    bench.store.install(NAME, GOOD)
    early = bench.trials.tickets(chain)
    bench.store.install(NAME, BAD)
    bench.trials.succeeded(early.get(1, ()))
    late = bench.trials.tickets(chain)
    assert [len(tickets.get(1, ())) for tickets in (early, late)] == [1, 1]
    bench.batch(fails=True)
    bench.batch(fails=True)
    assert bench.active == GOOD
