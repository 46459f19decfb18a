"""Keep the plans that wait until the battery can carry them. Pure.

A plan waits with its call graph as it was when it was asked for, in the order of asking. It takes
one of the places for runs, so that a list of runs never gets longer than the node can show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dish.link import CallGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """A plan that waits, since when on the node's clock."""

    graph: CallGraph
    since_s: float

    @property
    def root(self) -> int:
        """The slot that was asked for."""
        return self.graph.root


class Queue:
    """The waiting plans of one node. `clock` is the node's monotonic time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._plans: list[Deferred] = []
        self._turn = 0

    def __len__(self) -> int:
        return len(self._plans)

    def plans(self) -> list[Deferred]:
        """Return them, the one that has waited longest first."""
        return list(self._plans)

    def age_s(self, plan: Deferred) -> float:
        """Return how long a plan has been waiting, in seconds of the node's clock."""
        return self._clock() - plan.since_s

    def next(self) -> Deferred | None:
        """Return the plan whose turn it is to be looked at: in a circle, from the oldest on."""
        if not self._plans:
            return None
        self._turn %= len(self._plans)
        self._turn += 1
        return self._plans[self._turn - 1]

    def add(self, graph: CallGraph) -> None:
        """Let a plan wait."""
        self._plans.append(Deferred(graph=graph, since_s=self._clock()))

    def remove(self, plan: Deferred) -> None:
        """Take a plan out."""
        self._plans = [each for each in self._plans if each is not plan]
        self._turn = max(0, self._turn - 1)

    def cancel(self, root: int | None = None) -> list[Deferred]:
        """Take out the plans of a slot, or all, and return them."""
        gone = [plan for plan in self._plans if root is None or plan.root == root]
        self._plans = [plan for plan in self._plans if plan not in gone]
        return gone
