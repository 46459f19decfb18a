"""Which unit is given to a runner next, and what a death means.

Theory of operation: only the death of a host or runner is a reason to try again, up to three times
in all; whatever a module does is a result. A unit that outlives all its runners is given out once
more to be buried: its input is only hashed and the failure recorded, so the next run leaves it
alone. What concerns the chain or the store is nobody's result and stops everything. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dipp.archive.keys import Unit
from dipp.archive.records import Crash, Order, Report, State
from dipp.errors import Code

# Three deaths in a row are no accident of the machine. Dask allows a task as many by default.
MAX_ATTEMPTS = 3
# With these it is the chain and not the unit: it would be the same for every one.
DOES_NOT_LOAD = frozenset({Code.LOAD_CRASHED, Code.LOAD_KILLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A unit and what became of it."""

    unit: Unit
    report: Report


class Dispatcher:
    """Hands out units in order. Feed it with reports and deaths; it never raises on them."""

    def __init__(self, units: Iterable[Unit], redo: Collection[tuple[str, ...]] = ()) -> None:
        """`redo` holds the addresses of units whose failure shall not count."""
        self._waiting = deque(Order(unit=unit, redo=unit.uris in redo) for unit in units)
        self._deaths: dict[tuple[str, ...], int] = {}
        self._under_way = 0
        self.problem = ""

    @property
    def is_done(self) -> bool:
        """True if nothing waits and nothing is under way, or nothing can go on."""
        return bool(self.problem) or (not self._waiting and not self._under_way)

    @property
    def waiting(self) -> int:
        """How many orders wait."""
        return len(self._waiting)

    def next(self) -> Order | None:
        """Return what to do next; the caller owes a report or a death for it."""
        if self.problem or not self._waiting:
            return None
        self._under_way += 1
        return self._waiting.popleft()

    def answered(self, order: Order, report: Report) -> Finished | None:
        """Take a runner's report; return the unit if it is finished."""
        self._under_way -= 1
        if report.state in (State.CHAIN, State.STORE):
            self.stop(report.reason)
            return None
        if report.state is State.DIED:
            return self._try_again(order, report.code, report.reason)
        return Finished(unit=order.unit, report=report)

    def died(self, order: Order, reason: str) -> Finished | None:
        """Take the news that a runner died or was killed at an order."""
        self._under_way -= 1
        return self._try_again(order, Code.NODE_DIED, reason)

    def stop(self, problem: str) -> None:
        """Give out nothing any more."""
        self.problem = self.problem or problem

    def _try_again(self, order: Order, code: int, reason: str) -> Finished | None:
        deaths = self._deaths.get(order.unit.uris, 0) + 1
        self._deaths[order.unit.uris] = deaths
        if deaths < MAX_ATTEMPTS or (order.bury and deaths < 2 * MAX_ATTEMPTS):
            # Last, so that the others do not wait for it.
            self._waiting.append(order)
            return None
        if code in DOES_NOT_LOAD:
            self.stop(f"the chain does not load, {deaths} attempts: {reason}")
            return None
        if order.bury is None:
            self._waiting.append(bury(order, code, deaths, reason))
            return None
        report = Report(state=State.UNREADABLE, reason=f"{deaths} attempts: {reason}", code=code)
        return Finished(unit=order.unit, report=report)


def bury(order: Order, code: int, attempts: int, reason: str) -> Order:
    """Return the order to record that a unit has killed whoever worked on it."""
    crash = Crash(code=code, last_log=f"{attempts} attempts, each ended so: {reason}")
    return Order(unit=order.unit, redo=order.redo, bury=crash)
