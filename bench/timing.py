"""Measure contestants against each other: alternating, best and median, and one of them twice.

Theory of operation: in every round each contestant runs once, and each round begins with the next
one, so that whatever else the machine does meets all of them. The control is a contestant that is
another's twin: how far two of the same are apart is what a difference must exceed to mean anything.
Source: performance.md 7, method.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A contestant prepares, runs once, and returns how many seconds of that are to be compared.
Contestant = Callable[[], float]
# So many budgets the least number of rounds may take.
_PATIENCE = 4


@dataclass(frozen=True, slots=True)
class Times:
    """What one contestant took in each round, in seconds."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        """The shortest."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def scaled(self, factor: float) -> Times:
        """Return the same per part of the work."""
        return Times(tuple(each * factor for each in self.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How much longer one contestant takes than another: of the best, and of the medians."""

    best: float
    median: float

    @classmethod
    def of(cls, one: Times, other: Times) -> Ratio:
        """Compare."""
        return cls(best=one.best / other.best, median=one.median / other.median)

    @property
    def spread(self) -> float:
        """How far from 1 it is, at worst; of a control, what a difference must exceed."""
        return max(abs(self.best - 1), abs(self.median - 1))

    def differs(self, control: Ratio) -> bool:
        """Say whether it is further from 1 than a control, in both figures."""
        return min(abs(self.best - 1), abs(self.median - 1)) > control.spread

    def __str__(self) -> str:
        return f"{self.best:.3f} best, {self.median:.3f} median"


def contest(
    contestants: Mapping[str, Contestant],
    *,
    budget_s: float,
    least: int = 3,
    most: int = 400,
    warm_up: int = 1,
) -> dict[str, Times]:
    """Alternate until the budget is spent, but at least `least` and at most `most` rounds.

    The rounds of `warm_up` are run and forgotten. On a machine so slow that the least would take
    several budgets, one round must do.
    """
    names = list(contestants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for name in names * warm_up:
        contestants[name]()
    began = time.monotonic()
    for number in range(most):
        spent_s = time.monotonic() - began
        if spent_s >= (budget_s if number >= least else _PATIENCE * budget_s) and number:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(contestants[name]())
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


def clocked(work: Callable[[], object]) -> Contestant:
    """Return a contestant that is timed from outside."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run
