"""The scheduler: order, virtual time, waiting, cancelling, bounded mailboxes."""

from __future__ import annotations

import pytest

from csp.sched import Cancelled, Mailbox, Promise, Scheduler, Timeout


def test_timers_run_in_order_of_deadline_then_creation() -> None:
    scheduler, seen = Scheduler(), []
    scheduler.call_at(2.0, lambda: seen.append("late"))
    scheduler.call_at(1.0, lambda: seen.append("a"))
    scheduler.call_at(1.0, lambda: seen.append("b"))
    scheduler.advance(0.999)
    assert seen == []
    scheduler.advance(5.0)
    assert seen == ["a", "b", "late"]


def test_cancelled_timer_never_runs_and_does_not_wake_the_driver() -> None:
    scheduler = Scheduler()
    timer = scheduler.call_later(1.0, lambda: pytest.fail("ran"))
    timer.cancel()
    assert scheduler.next_deadline() is None
    scheduler.advance(2.0)


def test_a_timer_that_rearms_itself_for_now_does_not_starve_the_driver() -> None:
    scheduler, runs = Scheduler(), []

    def again() -> None:
        runs.append(1)
        scheduler.call_at(scheduler.now, again)

    again()
    scheduler.advance(1.0)
    assert len(runs) == 2
    assert scheduler.next_deadline() <= scheduler.now


def test_time_never_goes_backwards() -> None:
    scheduler = Scheduler(now=10.0)
    scheduler.advance(3.0)
    assert scheduler.now == 10.0


def test_wait_for_gives_the_value_before_the_deadline_and_timeout_after() -> None:
    scheduler = Scheduler()
    promise: Promise[int] = Promise()
    scheduler.call_later(1.0, lambda: promise.resolve(7))
    assert scheduler.run_virtual(scheduler.spawn(scheduler.wait_for(promise, 1.5))) == 7
    never: Promise[int] = Promise()
    with pytest.raises(Timeout, match=r"2\.5 s"):
        scheduler.run_virtual(scheduler.spawn(scheduler.wait_for(never, 2.5)))
    assert scheduler.now == pytest.approx(3.5)


def test_first_outcome_wins() -> None:
    promise: Promise[int] = Promise()
    promise.resolve(1)
    promise.fail(ValueError("late"))
    promise.resolve(2)
    assert promise.result() == 1


def test_result_before_outcome_is_misuse() -> None:
    with pytest.raises(RuntimeError):
        Promise().result()


def test_cancel_runs_finally_blocks_and_fails_the_task() -> None:
    scheduler, seen = Scheduler(), []

    async def work() -> None:
        try:
            await scheduler.sleep(10.0)
        finally:
            seen.append("cleaned")

    task = scheduler.spawn(work())
    scheduler.advance(0.0)
    task.cancel()
    assert seen == ["cleaned"]
    with pytest.raises(Cancelled):
        task.result()
    scheduler.advance(20.0)


def test_background_failure_is_recorded_not_raised() -> None:
    scheduler = Scheduler()

    async def broken() -> None:
        raise ValueError("boom")

    for _ in range(40):
        scheduler.spawn_background(broken(), "broken")
    scheduler.advance(0.0)
    assert scheduler.orphan_error_count == 40
    assert len(scheduler.orphan_errors) == 16
    assert scheduler.orphan_errors[-1][0] == "broken"


def test_run_virtual_reports_a_deadlock_and_a_limit() -> None:
    scheduler = Scheduler()
    with pytest.raises(Timeout):
        scheduler.run_virtual(Promise())
    with pytest.raises(Timeout):
        scheduler.run_virtual(scheduler.sleep(100.0), limit_s=10.0)


def test_mailbox_is_bounded_ordered_and_times_out() -> None:
    scheduler = Scheduler()
    box: Mailbox[int] = Mailbox(scheduler, capacity=2)
    assert box.put(1)
    assert box.put(2)
    assert not box.put(3)
    assert scheduler.run_virtual(scheduler.spawn(box.get())) == 1
    assert scheduler.run_virtual(scheduler.spawn(box.get(1.0))) == 2
    with pytest.raises(Timeout):
        scheduler.run_virtual(scheduler.spawn(box.get(1.0)))
    waiting = scheduler.spawn(box.get(5.0))
    scheduler.advance(scheduler.now)
    box.put(9)
    assert scheduler.run_virtual(waiting) == 9


def test_cancelled_timers_do_not_pile_up_and_live_ones_survive() -> None:
    scheduler = Scheduler()
    ran: list[int] = []
    for number in range(20_000):
        timer = scheduler.call_later(30.0, lambda number=number: ran.append(number))
        if number % 5000:
            timer.cancel()
    assert len(scheduler._heap) < 2000
    scheduler.advance(30.0)
    assert ran == [0, 5000, 10_000, 15_000]
