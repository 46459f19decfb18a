"""A steady beat in virtual time."""

from __future__ import annotations

from csp.sched import Scheduler
from sim.errors import ContentError
from sim.ticker import Ticker


def test_beats_at_once_and_then_without_drift() -> None:
    scheduler, beats = Scheduler(5.0), []
    Ticker(scheduler, 0.1, beats.append)
    scheduler.run_virtual(scheduler.spawn(_nap(scheduler, 10.05)))
    assert len(beats) == 101
    assert beats[0] == 5.0
    assert abs(beats[-1] - 15.0) < 1e-9


def test_missed_beats_are_skipped() -> None:
    scheduler, beats = Scheduler(), []
    Ticker(scheduler, 1.0, beats.append)
    for now in (0.0, 10.5, 10.9, 11.0):
        scheduler.advance(now)
    assert beats == [0.0, 10.5, 11.0]


def test_work_may_stop_its_ticker() -> None:
    scheduler, beats = Scheduler(), []

    def work(now: float) -> None:
        beats.append(now)
        ticker.stop()

    ticker = Ticker(scheduler, 1.0, work)
    scheduler.advance(5.0)
    assert beats == [5.0]
    assert scheduler.next_deadline() is None
    ticker.stop()


def test_a_model_out_of_its_range_is_recorded_and_the_beat_goes_on() -> None:
    scheduler, heard = Scheduler(), []

    def work(now: float) -> None:
        if now != 2.0:
            raise ContentError(f"decayed at {now:g}")

    ticker = Ticker(scheduler, 1.0, work, lambda error: heard.append(str(error)))
    for now in (0.0, 1.0, 2.0, 3.0):
        scheduler.advance(now)
    assert ticker.error_count == 3
    assert str(ticker.error) == "decayed at 3"
    assert heard == ["decayed at 0", "decayed at 3"]


async def _nap(scheduler: Scheduler, duration_s: float) -> None:
    await scheduler.sleep(duration_s)
