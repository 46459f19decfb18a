from __future__ import annotations

import pytest

from csp.errors import MisuseError
from csp.links.memory import pair
from csp.links.shaper import ShapedLink
from csp.sched import Scheduler
from csp.shaper import Shaper, Window

FRAME = bytes(range(125))


def times(shaper, count, now=0.0):
    return [delivery.at_s for _ in range(count) for delivery in shaper.submit(FRAME, now)]


def test_rate_serialises_frames_and_delay_comes_on_top():
    shaper = Shaper(rate_bps=1000, delay_s=0.25)
    assert times(shaper, 3) == pytest.approx([1.25, 2.25, 3.25])
    assert shaper.backlog_s(0.5) == pytest.approx(2.5)
    assert times(shaper, 1, now=10.0) == pytest.approx([11.25])
    assert shaper.backlog_s(20.0) == 0


def test_without_rate_frames_take_the_delay_only():
    assert times(Shaper(delay_s=0.5), 2, now=1.0) == [1.5, 1.5]


def test_queue_is_bounded():
    shaper = Shaper(rate_bps=1000, queue_bytes=500)
    assert len(times(shaper, 100)) == 4
    assert shaper.counters.queue_full == 96


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_loss_corruption_and_duplication_have_their_probability(probability):
    lossy = Shaper(loss=probability, seed=3)
    assert len(times(lossy, 2000)) == pytest.approx(2000 * (1 - probability), abs=100)
    assert lossy.counters.lost == 2000 - lossy.counters.carried
    doubling = Shaper(duplication=probability, seed=3)
    assert len(times(doubling, 2000)) == pytest.approx(2000 * (1 + probability), abs=100)
    corrupting = Shaper(corruption=probability, seed=3)
    out = [corrupting.submit(FRAME, 0.0)[0].frame for _ in range(2000)]
    changed = [frame for frame in out if frame != FRAME]
    assert len(changed) == pytest.approx(2000 * probability, abs=100)
    assert len(changed) == corrupting.counters.corrupted
    for frame in changed:
        assert sum(a != b for a, b in zip(frame, FRAME, strict=True)) == 1


def test_same_seed_same_fate():
    runs = [
        [Shaper(loss=0.3, jitter_s=0.1, corruption=0.3, seed=9).submit(FRAME, 0.0) for _ in "ab"]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_only_frames_inside_a_window_pass():
    shaper = Shaper(
        rate_bps=1000, windows=[Window(start_s=10, end_s=12), Window(start_s=20, end_s=30)]
    )
    assert [len(times(shaper, 1, now)) for now in (9.9, 10.0, 11.5, 12.0, 20.0, 30.0)] == [
        0, 1, 0, 0, 1, 0,
    ]  # fmt: skip
    assert shaper.counters.no_window == 4
    assert [shaper.is_open(now) for now in (5, 10, 12, 25)] == [False, True, False, True]


def test_empty_frames_survive_corruption():
    assert Shaper(corruption=1.0).submit(b"", 0.0)[0].frame == b""


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.1}, {"loss": -0.1}, {"corruption": 2}, {"rate_bps": 0}, {"duplication": 9}]
)
def test_impossible_settings_are_misuse(wrong):
    with pytest.raises(MisuseError):
        Shaper(**wrong)


def test_a_window_cannot_end_before_it_starts():
    with pytest.raises(MisuseError):
        Window(start_s=2, end_s=1)


def test_shaped_link_delays_both_directions_and_stops_when_closed():
    scheduler = Scheduler()
    near, far = pair(scheduler)
    shaped = ShapedLink(near, outgoing=Shaper(delay_s=1.0), incoming=Shaper(delay_s=2.0))
    heard = []
    shaped.send(b"before opening")
    shaped.open(scheduler, lambda frame: heard.append(("near", frame, scheduler.now)))
    far.open(scheduler, lambda frame: heard.append(("far", frame, scheduler.now)))
    assert shaped.name == near.name
    shaped.send(b"there")
    far.send(b"back")
    for now in (0.0, 1.0, 2.0):
        scheduler.advance(now)
    assert heard == [("far", b"there", 1.0), ("near", b"back", 2.0)]
    shaped.send(b"late")
    shaped.close()
    scheduler.advance(10.0)
    assert len(heard) == 2


def test_an_unshaped_direction_is_immediate():
    scheduler = Scheduler()
    near, far = pair(scheduler)
    shaped, heard = ShapedLink(near), []
    shaped.open(scheduler, heard.append)
    far.open(scheduler, heard.append)
    shaped.send(b"1")
    far.send(b"2")
    scheduler.advance(0.0)
    assert heard == [b"1", b"2"]
