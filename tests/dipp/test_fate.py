"""The fate rule: the node is killed at every single call that changes something on disk.

A child process runs the node's parts and dies at its N-th call, for all N until it survives. Then
a new process starts on the same state. Whatever N was: the batch ends exactly once, its images are
in the ring exactly once or its bytes in the quarantine, and no segment is left.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import posix_ipc
import pytest

from dipp.intake import Intake
from dipp.rig import Camera, FakeRunner, Rig, unique
from dipp.runner.executor import Completed, Job
from tests.dipp.guillotine import run_and_die


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera(unique())
    yield camera
    camera.clean()


def delivering(rig: Rig) -> None:
    """Two images in, three out, one of them split over the end of the ring."""

    def behave(job: Job) -> Completed:
        outcome = FakeRunner.identity(job)
        assert isinstance(outcome, Completed)
        outcome.images = (*outcome.images, outcome.images[0])
        return outcome

    rig.runner.behaviour = behave


def failing(rig: Rig) -> None:
    rig.runner.behaviour = FakeRunner.failing()


def dropping(rig: Rig) -> None:
    rig.runner.behaviour = lambda job: Completed(images=())


# What the runner does, which fate follows (1 delivered, 2 quarantined, 3 dropped), images stored.
Scenario = tuple[Callable[[Rig], None], int, int]
SCENARIOS: dict[str, Scenario] = {
    "delivered": (delivering, 1, 3),
    "quarantined": (failing, 2, 0),
    "dropped": (dropping, 3, 0),
}


def assert_one_fate(
    state: Path, camera: Camera, segment: str, scenario: Scenario, when: str
) -> None:
    """Start on what is left, finish, and look at everything."""
    behave, fate, images = scenario
    rig = Rig(state, camera.queue)
    behave(rig)
    rig.boot()
    rig.run(2)
    taken, *fates = rig.fates
    assert (taken, sum(fates)) == (1, 1), when
    assert fates[fate - 1] == 1, f"{when}: {fates}"
    assert len(rig.images) == images, when
    assert rig.quarantine.count == fates[1], when
    assert not camera.exists(segment), when
    assert rig.journal.state.open == {}
    rig.close()


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_batch_has_exactly_one_fate_whenever_the_node_is_killed(
    scenario: Scenario, camera: Camera, tmp_path: Path
) -> None:
    for number in itertools.count(1):
        state = tmp_path / str(number)
        Intake(camera.queue, tmp_path / "unused").ensure()
        segment = camera.shoot(b"first", b"second")
        survived = run_and_die(state, camera, number, scenario[0])
        assert_one_fate(state, camera, segment, scenario, f"killed at call {number}")
        if survived:
            break
    assert number > 30


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_second_kill_during_the_recovery_changes_nothing(
    scenario: Scenario, camera: Camera, tmp_path: Path
) -> None:
    """Seeded pairs of kills. The second attempt is the last one: two deaths inside the chain
    quarantine the batch, so those pairs only have to agree with themselves."""
    random = Random(20)
    for _ in range(12):
        pair = random.randrange(14, 45), random.randrange(6, 45)
        state = tmp_path / f"{pair[0]}-{pair[1]}"
        Intake(camera.queue, tmp_path / "unused").ensure()
        segment = camera.shoot(b"first", b"second")
        for number in pair:
            run_and_die(state, camera, number, scenario[0])
        rig = Rig(state, camera.queue)
        scenario[0](rig)
        rig.boot()
        rig.run(2)
        taken, delivered, quarantined, dropped = rig.fates
        assert (taken, delivered + quarantined + dropped) == (1, 1), pair
        assert len(rig.images) == 3 * delivered, pair
        assert rig.quarantine.count == quarantined, pair
        assert not camera.exists(segment), pair
        rig.close()


def test_a_batch_that_kills_the_node_every_time_is_quarantined(
    camera: Camera, tmp_path: Path
) -> None:
    Intake(camera.queue, tmp_path / "unused").ensure()
    segment = camera.shoot(b"poison")

    def poison(rig: Rig) -> None:
        def die(job: Job) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        rig.runner.behaviour = die

    state = tmp_path / "state"
    assert not run_and_die(state, camera, 10_000, poison)
    assert not run_and_die(state, camera, 10_000, poison)
    assert run_and_die(state, camera, 10_000, poison)
    rig = Rig(state, camera.queue)
    assert rig.fates == (1, 0, 1, 0)
    (entry,) = rig.quarantine.entries()
    assert entry.verdict.status == 607100
    assert not camera.exists(segment)
    rig.close()


def test_a_segment_that_vanished_during_the_kill_leaves_its_message(
    camera: Camera, tmp_path: Path
) -> None:
    Intake(camera.queue, tmp_path / "unused").ensure()
    segment = camera.shoot(b"gone")

    def die(rig: Rig) -> None:
        rig.runner.behaviour = lambda job: os.kill(os.getpid(), signal.SIGKILL)

    assert not run_and_die(tmp_path / "state", camera, 10_000, die)
    posix_ipc.unlink_shared_memory(segment)
    rig = Rig(tmp_path / "state", camera.queue)
    rig.boot()
    assert rig.fates == (1, 0, 1, 0)
    assert rig.log_status == 303000
    rig.close()


def test_recovery_shows_as_busy_and_a_run_asked_for_meanwhile_follows(
    camera: Camera, tmp_path: Path
) -> None:
    Intake(camera.queue, tmp_path / "unused").ensure()
    camera.shoot(b"first")

    def die(rig: Rig) -> None:
        rig.runner.behaviour = lambda job: os.kill(os.getpid(), signal.SIGKILL)

    assert not run_and_die(tmp_path / "state", camera, 10_000, die)
    camera.shoot(b"second")
    rig = Rig(tmp_path / "state", camera.queue)
    rig.processor.settle_deliveries()
    rig.worker.recover()
    assert rig.mode == 1
    rig.write_mode(2)
    rig.until_idle()
    assert rig.images == [b"first", b"second"]
    assert rig.telemetry.get("batch_replays") == 1
    rig.close()
