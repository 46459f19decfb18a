"""Replay, deletion and thumbnails under kills: nothing lost, nothing twice.

As in test_fate.py, a child process dies at its N-th call that changes something, for all N, and a
new one starts on what is left.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dipp.batch import encode_batch
from dipp.errors import Code
from dipp.intake import Intake
from dipp.journal import Journal
from dipp.metadata import Metadata
from dipp.policy.raw import BATCH_ITEM, RAW_PIPELINE, STATUS_ITEM
from dipp.policy.settings import DISCARD, REPLAY
from dipp.quarantine import Quarantine
from dipp.records import Kind, Record
from dipp.rig import Camera, FakeRunner, Rig, unique
from dipp.runner.executor import Completed, Job, Outcome
from tests.dipp.guillotine import die_in, run_and_die

PIXELS = (b"first", b"second")


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera(unique())
    yield camera
    camera.clean()


def working(rig: Rig) -> None:
    rig.runner.behaviour = FakeRunner.identity


def failing(rig: Rig) -> None:
    """Chains fail, thumbnails succeed: of each image the first byte."""
    broken = FakeRunner.failing()

    def behave(job: Job) -> Outcome:
        if job.chain.pipeline_id != RAW_PIPELINE:
            return broken(job)
        outcome = FakeRunner.identity(job)
        assert isinstance(outcome, Completed)
        outcome.images = tuple((meta, view[:1]) for meta, view in outcome.images)
        return outcome

    rig.runner.behaviour = behave


def killing(rig: Rig) -> None:
    """Thumbnails kill the node."""
    broken = FakeRunner.failing()

    def behave(job: Job) -> Outcome:
        if job.chain.pipeline_id == RAW_PIPELINE:
            os.kill(os.getpid(), 9)
        return broken(job)

    rig.runner.behaviour = behave


def quarantined(tmp_path: Path, camera: Camera) -> Path:
    """Return a state in which batch 1 is quarantined."""
    state = tmp_path / "before"
    Intake(camera.queue, tmp_path / "unused").ensure()
    camera.shoot(*PIXELS)
    rig = Rig(state, camera.queue)
    failing(rig)
    rig.run(2)
    assert rig.fates == (1, 0, 1, 0)
    rig.close()
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """An order, how chains behave, and the fate and images that must come of it."""

    order: str
    behave: Callable[[Rig], None]
    fates: tuple[int, int, int, int]
    images: tuple[bytes, ...]


SCENARIOS = {
    "replay-delivered": Scenario(order=REPLAY, behave=working, fates=(1, 1, 0, 0), images=PIXELS),
    "replay-fails-again": Scenario(order=REPLAY, behave=failing, fates=(1, 0, 1, 0), images=()),
    "discard": Scenario(order=DISCARD, behave=working, fates=(1, 0, 0, 1), images=()),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_an_order_is_carried_out_once_or_not_at_all_whenever_the_node_is_killed(
    scenario: Scenario, camera: Camera, tmp_path: Path
) -> None:
    before = quarantined(tmp_path, camera)
    done = 0
    for number in itertools.count(1):
        state = tmp_path / str(number)
        shutil.copytree(before, state)
        survived = die_in(
            state, camera, number, scenario.behave, lambda rig: rig.order(scenario.order, 1)
        )
        when = f"killed at call {number}"
        rig = Rig(state, camera.queue)
        scenario.behave(rig)
        rig.boot()
        if rig.fates == (1, 0, 1, 0) and rig.quarantine.numbers == [1]:
            # Killed before the order was in the journal: as if it had never come.
            assert rig.images == [], when
            assert not survived, when
            rig.order(scenario.order, 1)
        else:
            done += 1
        assert rig.fates == scenario.fates, when
        assert rig.images == list(scenario.images), when
        assert rig.quarantine.numbers == ([2] if scenario.fates[2] else []), when
        assert rig.journal.state.open == {}, when
        kept = sorted(path.suffix for path in (state / "quarantine").iterdir())
        assert kept == [".batch"] * scenario.fates[2], when
        rig.close()
        if survived:
            break
    assert number > 15
    assert done > 5


def test_what_failed_again_has_its_new_verdict_and_can_be_replayed_again(
    camera: Camera, tmp_path: Path
) -> None:
    rig = Rig(quarantined(tmp_path, camera), camera.queue)
    (first,) = rig.quarantine.entries()
    rig.runner.behaviour = FakeRunner.failing(Code.RESULT_INVALID)
    for number in (2, 3, 4):
        rig.order(REPLAY, number - 1)
        (entry,) = rig.quarantine.entries()
        assert (entry.verdict.batch, entry.verdict.status) == (number, 603101)
        assert (entry.payload_bytes, entry.verdict.message) == (
            first.payload_bytes,
            first.verdict.message,
        )
    assert rig.quarantine.bytes_used == entry.path.stat().st_size
    working(rig)
    rig.order(REPLAY, 4)
    assert rig.images == list(PIXELS)
    assert rig.fates == (1, 1, 0, 0)
    rig.close()


def test_replay_follows_the_present_configuration(camera: Camera, tmp_path: Path) -> None:
    rig = Rig(quarantined(tmp_path, camera), camera.queue)
    rig.configure(1)
    rig.order(REPLAY, 1)
    assert rig.images == list(PIXELS)
    assert rig.runner.jobs == [], "the pipeline is empty now: nothing was run"
    rig.close()


def test_unknown_batches_are_refused_with_a_code(camera: Camera, tmp_path: Path) -> None:
    rig = Rig(quarantined(tmp_path, camera), camera.queue)
    for order in (REPLAY, DISCARD):
        rig.table["log_status"].set(0)
        rig.order(order, 77)
        assert rig.log_status == 309000
    assert rig.fates == (1, 0, 1, 0)
    rig.close()


def test_a_batch_under_replay_is_not_evicted_and_does_not_count(
    camera: Camera, tmp_path: Path
) -> None:
    """A second failure fills the quarantine while the first is run again."""
    size = (quarantined(tmp_path, camera) / "quarantine" / "000000000001.batch").stat().st_size
    rig = Rig(tmp_path / "before", camera.queue, quarantine_bytes=size + 8)
    rig.runner.behaviour = lambda job: None
    rig.table[REPLAY].write(1)
    rig.until(lambda: bool(rig.runner.pending))
    (replayed,) = rig.runner.pending
    failing(rig)
    camera.shoot(*PIXELS)
    rig.write_mode(1)
    rig.until(lambda: rig.mode == 0)
    assert rig.quarantine.numbers == [3]
    replayed.resolve(FakeRunner.identity(rig.runner.jobs[0]))
    rig.until_idle()
    assert rig.images == list(PIXELS)
    assert rig.fates == (2, 1, 1, 0)
    rig.close()


def test_a_full_disk_does_not_lose_what_fails_again(camera: Camera, tmp_path: Path) -> None:
    """Putting back needs no room: only the new verdict is missing."""
    rig = Rig(quarantined(tmp_path, camera), camera.queue)
    rig.runner.behaviour = FakeRunner.failing(Code.RESULT_INVALID)
    patch = pytest.MonkeyPatch()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(Quarantine, "_append_verdict", full)
    rig.order(REPLAY, 1)
    patch.undo()
    (entry,) = rig.quarantine.entries()
    assert (entry.verdict.batch, entry.verdict.status) == (2, 600101)
    assert rig.fates == (1, 0, 1, 0)
    rig.close()


def test_no_other_append_comes_between_a_delivery_and_its_fate(
    camera: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the heads in the journal would not tell, after a kill, whether it was delivered."""
    rig = Rig(quarantined(tmp_path, camera), camera.queue)
    working(rig)
    append, refusals, heads = Journal.append, [3], {}

    def failing_once(journal: Journal, record: Record) -> None:
        if record.kind is Kind.FATE:
            if refusals[0]:
                refusals[0] -= 1
                raise OSError(5, "Input/output error")
            plan = journal.state.open[record.batch].delivering
            assert plan is not None
            heads[record.batch] = (plan[1], rig.ring.head)
        append(journal, record)

    monkeypatch.setattr(Journal, "append", failing_once)
    monkeypatch.setattr("dipp.processing._RETRY_S", 0.01)
    camera.shoot(b"third")
    rig.write_mode(2)
    rig.order(REPLAY, 1)
    assert sorted(heads) == [2, 3]
    assert all(planned == head for planned, head in heads.values())
    assert rig.fates == (2, 2, 0, 0)
    assert len(rig.images) == 3
    rig.close()


def test_a_plan_that_was_not_committed_cannot_come_true_by_another_append(
    camera: Camera, tmp_path: Path
) -> None:
    """Killed before its commit, then killed again after somebody else moved the head there."""
    Intake(camera.queue, tmp_path / "unused").ensure()
    camera.shoot(b"first")
    state = tmp_path / "state"

    def before_commit(rig: Rig) -> None:
        rig.ring.commit = lambda plan: os.kill(os.getpid(), 9)  # type: ignore[method-assign]

    assert not run_and_die(state, camera, 10_000, before_commit)
    rig = Rig(state, camera.queue)
    assert rig.journal.state.open[1].delivering is not None
    rig.processor.settle_deliveries()
    rig.ring.append([encode_batch([(Metadata(size=1), b"x")])])
    rig.close()
    again = Rig(state, camera.queue)
    again.boot()
    assert again.images == [b"x", b"first"]
    assert again.fates == (1, 1, 0, 0)
    again.close()


# -- thumbnails


def thumbnails(rig: Rig) -> list[tuple[object, object]]:
    """Return batch and status of every image in the ring."""
    found = []
    for position in range(rig.ring.count):
        element = rig.ring.element(position)
        assert element is not None
        metadata = rig.ring.describe(element).metadata
        found.append((metadata.item(BATCH_ITEM), metadata.item(STATUS_ITEM)))
    return found


def test_thumbnails_are_in_the_ring_exactly_once_whenever_the_node_is_killed(
    camera: Camera, tmp_path: Path
) -> None:
    for number in itertools.count(1):
        state = tmp_path / str(number)
        Intake(camera.queue, tmp_path / "unused").ensure()
        segment = camera.shoot(*PIXELS)
        survived = run_and_die(state, camera, number, failing, thumbnails=1)
        rig = Rig(state, camera.queue, thumbnails=1)
        failing(rig)
        rig.boot()
        rig.run(2)
        when = f"killed at call {number}"
        assert rig.fates == (1, 0, 1, 0), when
        assert rig.images == [b"f", b"s"], when
        assert thumbnails(rig) == [(1, 600101)] * 2, when
        assert not camera.exists(segment), when
        assert rig.journal.state.open == {}, when
        rig.close()
        if survived:
            break
    assert number > 40


def test_thumbnails_of_a_failed_replay_come_once_for_each_failure(
    camera: Camera, tmp_path: Path
) -> None:
    before = quarantined(tmp_path, camera)
    for number in itertools.count(1):
        state = tmp_path / str(number)
        shutil.copytree(before, state)
        survived = die_in(
            state, camera, number, failing, lambda rig: rig.order(REPLAY, 1), thumbnails=1
        )
        rig = Rig(state, camera.queue, thumbnails=1)
        failing(rig)
        rig.boot()
        if rig.quarantine.numbers == [1]:
            rig.order(REPLAY, 1)
        assert thumbnails(rig) == [(2, 600101)] * 2, f"killed at call {number}"
        assert rig.fates == (1, 0, 1, 0)
        rig.close()
        if survived:
            break
    assert number > 40


def test_thumbnails_that_kill_the_node_are_given_up(camera: Camera, tmp_path: Path) -> None:
    Intake(camera.queue, tmp_path / "unused").ensure()
    state = tmp_path / "state"
    camera.shoot(*PIXELS)
    assert not run_and_die(state, camera, 10_000, killing, thumbnails=1)
    assert not run_and_die(state, camera, 10_000, killing, thumbnails=1)
    assert run_and_die(state, camera, 10_000, killing, thumbnails=1)
    rig = Rig(state, camera.queue, thumbnails=1)
    assert rig.fates == (1, 0, 1, 0)
    assert rig.images == []
    assert rig.journal.state.open == {}
    rig.close()


def test_a_failure_of_the_thumbnails_is_counted_and_ends_them(
    camera: Camera, tmp_path: Path
) -> None:
    Intake(camera.queue, tmp_path / "unused").ensure()
    camera.shoot(*PIXELS)
    rig = Rig(tmp_path / "state", camera.queue, thumbnails=1)
    rig.runner.behaviour = FakeRunner.failing()
    rig.run(2)
    assert rig.fates == (1, 0, 1, 0)
    assert (rig.telemetry.get("raw_failures"), rig.telemetry.get("raw_images")) == (1, 0)
    assert len(rig.runner.jobs) == 2
    rig.close()


def test_thumbnails_can_be_switched_off(camera: Camera, tmp_path: Path) -> None:
    Intake(camera.queue, tmp_path / "unused").ensure()
    camera.shoot(*PIXELS)
    rig = Rig(tmp_path / "state", camera.queue, thumbnails=0)
    failing(rig)
    rig.run(2)
    assert (rig.images, rig.telemetry.get("raw_failures")) == ([], 0)
    rig.close()


def test_what_is_too_large_for_the_quarantine_still_leaves_thumbnails(
    camera: Camera, tmp_path: Path
) -> None:
    Intake(camera.queue, tmp_path / "unused").ensure()
    segment = camera.shoot(*PIXELS)
    rig = Rig(tmp_path / "state", camera.queue, thumbnails=1, quarantine_bytes=64)
    failing(rig)
    rig.run(2)
    assert rig.fates == (1, 0, 0, 1)
    assert thumbnails(rig) == [(1, 600101)] * 2
    assert not camera.exists(segment)
    rig.close()
