"""Do something again and again on a scheduler, in real or virtual time. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from csp.sched import Scheduler, Timer
from sim.errors import SimError


class Ticker:
    """Call `work(now)` every `period_s`, the first time in the current round.

    The beat does not drift; beats missed while the process was stopped are skipped, not made up
    for. A `SimError` of the work is kept in `error` and counted: a model that left its range of
    validity must not end a node that still answers. `on_error` hears of the first one in a row.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        period_s: float,
        work: Callable[[float], None],
        on_error: Callable[[SimError], None] = lambda error: None,
    ) -> None:
        self._scheduler = scheduler
        self._period_s = period_s
        self._work = work
        self._on_error = on_error
        self._failing = False
        self._next = scheduler.now
        self._timer: Timer | None = scheduler.call_at(scheduler.now, self._beat)
        self.error: SimError | None = None
        self.error_count = 0

    def stop(self) -> None:
        """Beat no more. Harmless if done twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        now = self._scheduler.now
        missed = math.floor((now - self._next) / self._period_s)
        self._next += (max(0, missed) + 1) * self._period_s
        # Armed before the work, so that the work may stop the ticker.
        self._timer = self._scheduler.call_at(self._next, self._beat)
        try:
            self._work(now)
        except SimError as error:
            self.error = error
            self.error_count += 1
            if not self._failing:
                self._failing = True
                self._on_error(error)
        else:
            self._failing = False
