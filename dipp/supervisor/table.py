"""The life of one pipeline host: states times events, total.

Theory of operation: every source of news (frames from forge and host, deadlines, the operator)
only translates into an event. A row gives the next state, the actions in order, and the code that
a waiting batch would fail with; of several codes on the way down the first one counts. A pair that
means nothing has a row without actions and says why. Pure. Source: style-anchors.md 2.3, dipp.md
10 and 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from dipp.errors import Code


class State(Enum):
    """Where a host is in its life."""

    NEW = auto()
    SPAWNING = auto()
    LOADING = auto()
    READY = auto()
    RUNNING = auto()
    QUITTING = auto()
    KILLING = auto()
    GONE = auto()


class Event(Enum):
    """What can happen to a host."""

    START = auto()
    SPAWNED = auto()
    REFUSED = auto()
    LOADED = auto()
    LOAD_FAILED = auto()
    BATCH = auto()
    DONE = auto()
    MODULE_FAILED = auto()
    BROKEN = auto()
    HUNG_UP = auto()
    RETIRE = auto()
    STOP = auto()
    DEADLINE = auto()
    EXITED = auto()
    FORGE_LOST = auto()


class Action(Enum):
    """What the driver does."""

    ASK_FORGE = auto()
    SEND_CHAIN = auto()
    SEND_BATCH = auto()
    FAIL = auto()
    QUIT = auto()
    KILL = auto()
    BLAME_FORGE = auto()
    BURY = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The answer to an event. `code` is remembered for the batch unless one is already."""

    state: State
    actions: tuple[Action, ...] = ()
    code: Code = Code.OK
    why: str = ""


def _row(state: State, *actions: Action, code: Code = Code.OK, why: str = "") -> Row:
    return Row(state=state, actions=actions, code=code, why=why)


_S, _E, _A = State, Event, Action

# Events a state has no row for below: nothing to do, for the reason given.
_IGNORED: Mapping[Event, str] = {
    Event.START: "it was started already",
    Event.SPAWNED: "the report is late or repeated",
    Event.REFUSED: "the report is late or repeated",
    Event.LOADED: "a host says so once, later words have no effect",
    Event.LOAD_FAILED: "a host says so once, later words have no effect",
    Event.BATCH: "the executor gives batches to ready hosts only",
    Event.DONE: "no batch is running here",
    Event.MODULE_FAILED: "no batch is running here",
    Event.BROKEN: "it is on its way down",
    Event.HUNG_UP: "it is on its way down",
    Event.RETIRE: "it is on its way down",
    Event.STOP: "no batch is running here",
    Event.DEADLINE: "no deadline is armed in this state",
    Event.EXITED: "there is no process",
    Event.FORGE_LOST: "there is no process",
}

_ROWS: Mapping[State, Mapping[Event, Row]] = {
    _S.NEW: {
        _E.START: _row(_S.SPAWNING, _A.ASK_FORGE),
        _E.RETIRE: _row(_S.GONE, _A.BURY, code=Code.OPERATOR_STOP),
    },
    _S.SPAWNING: {
        _E.SPAWNED: _row(_S.LOADING, _A.SEND_CHAIN),
        _E.REFUSED: _row(_S.GONE, _A.FAIL, _A.BURY, code=Code.PIPE_CREATE),
        _E.STOP: _row(_S.SPAWNING, _A.FAIL, code=Code.OPERATOR_STOP, why="the host may go on"),
        # The forge answers within milliseconds or not at all.
        _E.DEADLINE: _row(_S.GONE, _A.BLAME_FORGE, _A.FAIL, _A.BURY, code=Code.HOST_DIED),
        _E.EXITED: _row(_S.GONE, _A.FAIL, _A.BURY, code=Code.HOST_DIED),
        _E.FORGE_LOST: _row(_S.GONE, _A.FAIL, _A.BURY, code=Code.HOST_DIED),
    },
    _S.LOADING: {
        _E.LOADED: _row(_S.READY),
        _E.LOAD_FAILED: _row(_S.QUITTING, _A.FAIL, _A.QUIT),
        _E.BROKEN: _row(_S.KILLING, _A.KILL, code=Code.LOAD_CRASHED),
        _E.HUNG_UP: _row(_S.LOADING, why="dead, or killed at the deadline; the forge tells how"),
        _E.STOP: _row(_S.KILLING, _A.KILL, code=Code.OPERATOR_STOP),
        _E.DEADLINE: _row(_S.KILLING, _A.KILL, code=Code.LOAD_CRASHED),
        # More exact if it was killed: a module that crashes while it is loaded does not do that.
        _E.EXITED: _row(_S.GONE, _A.FAIL, _A.BURY, code=Code.LOAD_CRASHED),
        _E.FORGE_LOST: _row(_S.GONE, _A.FAIL, _A.BURY, code=Code.HOST_DIED),
        _E.RETIRE: _row(_S.LOADING, why="retired as soon as it is loaded and idle"),
    },
    _S.READY: {
        _E.BATCH: _row(_S.RUNNING, _A.SEND_BATCH),
        _E.RETIRE: _row(_S.QUITTING, _A.QUIT),
        _E.BROKEN: _row(_S.KILLING, _A.KILL, code=Code.HOST_DIED),
        _E.HUNG_UP: _row(_S.KILLING, _A.KILL, code=Code.HOST_DIED),
        _E.EXITED: _row(_S.GONE, _A.BURY, code=Code.HOST_DIED),
        _E.FORGE_LOST: _row(_S.GONE, _A.BURY, code=Code.HOST_DIED),
    },
    _S.RUNNING: {
        _E.DONE: _row(_S.READY),
        # A failure invalidates what is loaded. Source: dipp.md 12.
        _E.MODULE_FAILED: _row(_S.QUITTING, _A.FAIL, _A.QUIT),
        _E.BROKEN: _row(_S.KILLING, _A.KILL, code=Code.HOST_DIED),
        _E.HUNG_UP: _row(_S.KILLING, _A.KILL, code=Code.HOST_DIED),
        _E.RETIRE: _row(_S.RUNNING, why="the running batch ends on the old version"),
        _E.STOP: _row(_S.KILLING, _A.KILL, code=Code.OPERATOR_STOP),
        _E.DEADLINE: _row(_S.KILLING, _A.KILL, code=Code.HOST_DIED),
        _E.EXITED: _row(_S.GONE, _A.FAIL, _A.BURY, code=Code.HOST_DIED),
        _E.FORGE_LOST: _row(_S.GONE, _A.FAIL, _A.BURY, code=Code.HOST_DIED),
    },
    _S.QUITTING: {
        _E.DEADLINE: _row(_S.KILLING, _A.KILL, why="it was asked and did not go"),
        _E.EXITED: _row(_S.GONE, _A.BURY),
        _E.FORGE_LOST: _row(_S.GONE, _A.BURY),
    },
    _S.KILLING: {
        # Killed, and the forge still has not reported it: the forge is at fault.
        _E.DEADLINE: _row(_S.GONE, _A.BLAME_FORGE, _A.FAIL, _A.BURY, code=Code.HOST_DIED),
        _E.EXITED: _row(_S.GONE, _A.FAIL, _A.BURY),
        _E.FORGE_LOST: _row(_S.GONE, _A.FAIL, _A.BURY),
    },
    _S.GONE: {},
}

TABLE: Mapping[tuple[State, Event], Row] = {
    (state, event): _ROWS[state].get(event, Row(state=state, why=_IGNORED[event]))
    for state in State
    for event in Event
}
