"""Learn a number from another node: pull one of its parameters again and again. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from csp.errors import CspError
from csp.param.errors import UnknownParam
from csp.param.remote import RemoteTable
from csp.sched import Scheduler, Task

_BACK_OFF_S = 3.0
# A node that does not have the parameter will not get it soon; each try downloads its list.
_UNKNOWN_BACK_OFF_S = 30.0
# More than this at once is not a count but a counter that was reset to garbage.
_MAX_COUNT_STEP = 100_000.0


class Probe:
    """Pull `node`'s `parameter` every `period_s` and hand each value to `on_value`.

    A node that is silent or has no such parameter is asked less often and counted in `faults`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        remote: RemoteTable,
        node: int,
        parameter: str,
        period_s: float,
        on_value: Callable[[float], None],
    ) -> None:
        self._scheduler = scheduler
        self._remote = remote
        self._node = node
        self._parameter = parameter
        self._period_s = period_s
        self._on_value = on_value
        self.faults = 0
        self._task: Task[None] = scheduler.spawn_background(
            self._run(), f"probe {parameter} of node {node}"
        )

    def stop(self) -> None:
        """Ask no more. Harmless if done twice."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await self._scheduler.sleep(await self._once())

    async def _once(self) -> float:
        """Ask once; return how long to wait before the next time."""
        try:
            value = await self._remote.get(self._node, self._parameter)
        except UnknownParam:
            self.faults += 1
            return max(_UNKNOWN_BACK_OFF_S, self._period_s)
        except CspError:
            self.faults += 1
            return max(_BACK_OFF_S, self._period_s)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            self.faults += 1
            return max(_UNKNOWN_BACK_OFF_S, self._period_s)
        self._on_value(float(value))
        return self._period_s


class CountSteps:
    """Turn the readings of a counter into how much it went up; a reset counts from zero again."""

    def __init__(self, on_step: Callable[[float], None]) -> None:
        self._on_step = on_step
        self._last: float | None = None

    def reading(self, value: float) -> None:
        """Take a reading. The first one only sets the mark."""
        last, self._last = self._last, value
        if last is None:
            return
        step = value - last if value >= last else value
        if 0 < step <= _MAX_COUNT_STEP:
            self._on_step(step)
