"""The table of a host's life: total, and sound on every path."""

from __future__ import annotations

import itertools

import pytest

from dipp.errors import Code
from dipp.supervisor.policy import RestartIntensity
from dipp.supervisor.table import TABLE, Action, Event, State

# Reading the answer in these states would lose a batch.
ALIVE = (State.SPAWNING, State.LOADING, State.READY, State.RUNNING, State.QUITTING, State.KILLING)


def test_every_pair_has_a_row_and_idle_rows_say_why():
    assert set(TABLE) == set(itertools.product(State, Event))
    for (state, _), row in TABLE.items():
        assert row.actions or row.state is not state or row.why


def test_the_end_is_final_and_nothing_happens_there():
    for event in Event:
        assert TABLE[State.GONE, event].state is State.GONE
        assert not TABLE[State.GONE, event].actions


def test_whoever_is_gone_was_buried():
    for (state, _), row in TABLE.items():
        if row.state is State.GONE and state is not State.GONE:
            assert row.actions[-1] is Action.BURY


@pytest.mark.parametrize("state", ALIVE)
def test_every_living_state_ends_when_the_process_or_the_forge_does(state):
    for event in (Event.EXITED, Event.FORGE_LOST):
        assert TABLE[state, event].state is State.GONE


@pytest.mark.parametrize(
    "state", [State.SPAWNING, State.LOADING, State.RUNNING, State.QUITTING, State.KILLING]
)
def test_every_state_that_waits_has_a_deadline_that_leads_on(state):
    row = TABLE[state, Event.DEADLINE]
    assert row.state is not state
    assert row.actions


@pytest.mark.parametrize("state", [State.SPAWNING, State.LOADING, State.RUNNING, State.KILLING])
def test_no_batch_is_forgotten(state):
    """On every way from a state that may hold a batch, the batch is failed before the burial."""
    for event in Event:
        row = TABLE[state, event]
        if row.state is State.GONE:
            assert row.actions.index(Action.FAIL) < row.actions.index(Action.BURY)


def test_deadlines_alone_bring_every_host_to_its_end():
    for start in ALIVE:
        state, steps = start, 0
        while state is not State.GONE and state is not State.READY:
            state = TABLE[state, Event.DEADLINE].state
            steps += 1
            assert steps < 4


@pytest.mark.parametrize(
    ("state", "event", "code"),
    [
        (State.LOADING, Event.DEADLINE, Code.LOAD_CRASHED),
        (State.LOADING, Event.EXITED, Code.LOAD_CRASHED),
        (State.LOADING, Event.HUNG_UP, Code.OK),
        (State.RUNNING, Event.HUNG_UP, Code.HOST_DIED),
        (State.RUNNING, Event.EXITED, Code.HOST_DIED),
        (State.RUNNING, Event.DEADLINE, Code.HOST_DIED),
        (State.RUNNING, Event.STOP, Code.OPERATOR_STOP),
        (State.SPAWNING, Event.REFUSED, Code.PIPE_CREATE),
    ],
)
def test_codes(state, event, code):
    assert TABLE[state, event].code == code


def test_intensity_gives_up_and_is_rearmed():
    intensity = RestartIntensity(limit=2, period_s=10)
    # The third comes after the first two have left the period, the fifth is one too many.
    assert [intensity.allow(now) for now in (0, 1, 11.5, 12, 13)] == [True] * 4 + [False]
    assert not intensity.allow(1000)
    intensity.rearm()
    assert intensity.allow(1001)
