"""The A53 between running and suspended: states, transitions, temperature. Pure.

Theory of operation: one table, states x events. A request that arrives during a transition is
remembered and served when the transition ends; the last request wins, so `suspend` then `wake`
always ends running. Time is an argument; `deadline` says when `advance` has something to do.
Durations are in the seconds of the clock that the caller uses (nodes use real seconds: the
processes that are frozen live in real time).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, IntEnum

from sim.errors import ConfigError


class A53State(IntEnum):
    """The number is parameter `a53_state`; RUNNING is the only one with `a53_status` 1."""

    SUSPENDED = 0
    RUNNING = 1
    SUSPENDING = 2
    WAKING = 3


class Request(Enum):
    """What the operator, a plan or the M7 asks for."""

    WAKE = "wake"
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True, kw_only=True)
class A53Figures:
    """Durations in seconds, temperatures in Celsius. `starts_running` is the state at power-up."""

    wake_s: float = 0.8
    suspend_s: float = 0.4
    starts_running: bool = True
    cold_c: float = 12.0
    hot_c: float = 46.0
    warm_up_s: float = 90.0

    def __post_init__(self) -> None:
        if self.wake_s < 0 or self.suspend_s < 0:
            raise ConfigError("a53: wake and suspend times must not be negative")
        if self.warm_up_s <= 0:
            raise ConfigError("a53: warm_up_s must be above 0")


# (state, request) -> state entered now; None: note the request and decide when the state ends.
_ON_REQUEST: dict[tuple[A53State, Request], A53State | None] = {
    (A53State.RUNNING, Request.WAKE): A53State.RUNNING,
    (A53State.RUNNING, Request.SUSPEND): A53State.SUSPENDING,
    (A53State.SUSPENDED, Request.WAKE): A53State.WAKING,
    (A53State.SUSPENDED, Request.SUSPEND): A53State.SUSPENDED,
    (A53State.SUSPENDING, Request.WAKE): None,
    (A53State.SUSPENDING, Request.SUSPEND): None,
    (A53State.WAKING, Request.WAKE): None,
    (A53State.WAKING, Request.SUSPEND): None,
}
_WHEN_DUE = {A53State.SUSPENDING: A53State.SUSPENDED, A53State.WAKING: A53State.RUNNING}


class A53Machine:
    """The state of one processor. `wakes` and `suspends` count completed transitions."""

    def __init__(self, figures: A53Figures, now: float) -> None:
        self._figures = figures
        self.state = A53State.RUNNING if figures.starts_running else A53State.SUSPENDED
        self.since = now
        self.deadline: float | None = None
        self.wakes = 0
        self.suspends = 0
        self._pending: Request | None = None
        self._temperature_c = figures.cold_c
        self._temperature_at = now

    @property
    def is_running(self) -> bool:
        """Whether software on it runs: the meaning of `a53_status`."""
        return self.state is A53State.RUNNING

    def request(self, request: Request, now: float) -> None:
        """Ask for a state. Never refused; see the table."""
        self.advance(now)
        target = _ON_REQUEST[self.state, request]
        if target is None:
            self._pending = request
        elif target is not self.state:
            self._enter(target, now)

    def advance(self, now: float) -> None:
        """Complete what is due by now."""
        while self.deadline is not None and now >= self.deadline:
            due = self.deadline
            state = _WHEN_DUE[self.state]
            self.wakes += state is A53State.RUNNING
            self.suspends += state is A53State.SUSPENDED
            self._enter(state, due)
            pending, self._pending = self._pending, None
            if pending is not None:
                self.request(pending, due)

    def temperature_c(self, now: float) -> float:
        """Return the die temperature: it approaches that of its state exponentially."""
        warm = self.state in (A53State.RUNNING, A53State.WAKING)
        goal = self._figures.hot_c if warm else self._figures.cold_c
        elapsed = max(0.0, now - self._temperature_at)
        away = (self._temperature_c - goal) * math.exp(-elapsed / self._figures.warm_up_s)
        return goal + away

    def _enter(self, state: A53State, now: float) -> None:
        self._temperature_c, self._temperature_at = self.temperature_c(now), now
        self.state, self.since = state, now
        durations = {
            A53State.SUSPENDING: self._figures.suspend_s,
            A53State.WAKING: self._figures.wake_s,
        }
        self.deadline = now + durations[state] if state in durations else None
