"""Suspend and wake: every state with every request, and the order of requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import ConfigError
from sim.sleep import A53Figures, A53Machine, A53State, Request

_FIGURES = A53Figures(wake_s=2.0, suspend_s=1.0, warm_up_s=10.0)


def _machine(state: A53State) -> A53Machine:
    """A machine that is in a state at 10 s and, if in transition, leaves it a second or two on."""
    from_running = state in (A53State.RUNNING, A53State.SUSPENDING)
    machine = A53Machine(
        A53Figures(wake_s=2.0, suspend_s=1.0, warm_up_s=10.0, starts_running=from_running), 0.0
    )
    if state is A53State.SUSPENDING:
        machine.request(Request.SUSPEND, 10.0)
    if state is A53State.WAKING:
        machine.request(Request.WAKE, 10.0)
    assert machine.state is state
    return machine


@pytest.mark.parametrize(
    ("state", "request_", "at_once", "finally_", "after_s"),
    [
        (A53State.RUNNING, Request.WAKE, A53State.RUNNING, A53State.RUNNING, 0.0),
        (A53State.RUNNING, Request.SUSPEND, A53State.SUSPENDING, A53State.SUSPENDED, 1.0),
        (A53State.SUSPENDED, Request.WAKE, A53State.WAKING, A53State.RUNNING, 2.0),
        (A53State.SUSPENDED, Request.SUSPEND, A53State.SUSPENDED, A53State.SUSPENDED, 0.0),
        (A53State.SUSPENDING, Request.SUSPEND, A53State.SUSPENDING, A53State.SUSPENDED, 1.0),
        (A53State.SUSPENDING, Request.WAKE, A53State.SUSPENDING, A53State.RUNNING, 3.0),
        (A53State.WAKING, Request.WAKE, A53State.WAKING, A53State.RUNNING, 2.0),
        (A53State.WAKING, Request.SUSPEND, A53State.WAKING, A53State.SUSPENDED, 3.0),
    ],
)
def test_every_state_with_every_request(
    state: A53State, request_: Request, at_once: A53State, finally_: A53State, after_s: float
) -> None:
    machine = _machine(state)
    machine.request(request_, 10.0)
    assert machine.state is at_once
    if after_s:
        machine.advance(10.0 + after_s - 0.001)
        assert machine.state is not finally_
    machine.advance(10.0 + after_s)
    assert machine.state is finally_
    assert machine.deadline is None


@given(st.lists(st.tuples(st.sampled_from(Request), st.floats(0, 3)), min_size=1, max_size=30))
def test_the_last_request_wins(history: list[tuple[Request, float]]) -> None:
    machine, now = A53Machine(_FIGURES, 0.0), 0.0
    for request, wait in history:
        now += wait
        machine.request(request, now)
    machine.advance(now + 10.0)
    assert machine.is_running == (history[-1][0] is Request.WAKE)
    assert abs(machine.suspends - machine.wakes) <= 1


def test_status_is_running_only_when_software_runs() -> None:
    assert [_machine(state).is_running for state in A53State] == [False, True, False, False]


def test_one_late_advance_completes_everything_that_was_due() -> None:
    machine = _machine(A53State.SUSPENDING)
    machine.request(Request.WAKE, 10.5)
    machine.advance(100.0)
    assert machine.state is A53State.RUNNING
    assert machine.since == 13.0
    assert (machine.suspends, machine.wakes) == (1, 1)


def test_temperature_follows_the_state_without_jumps() -> None:
    machine = A53Machine(_FIGURES, 0.0)
    assert machine.temperature_c(0.0) == 12.0
    assert machine.temperature_c(10.0) == pytest.approx(46 - 34 * 0.36788, abs=1e-3)
    hot = machine.temperature_c(100.0)
    machine.request(Request.SUSPEND, 100.0)
    assert machine.temperature_c(100.0) == pytest.approx(hot)
    assert machine.temperature_c(200.0) == pytest.approx(12.0, abs=0.01)


def test_impossible_figures_are_refused() -> None:
    with pytest.raises(ConfigError):
        A53Figures(wake_s=-1.0)
    with pytest.raises(ConfigError):
        A53Figures(warm_up_s=0.0)
