"""Run units in runner processes of this machine. Driver.

One thread, one poll over all runners. A runner that dies is replaced; a runner that does not answer
is killed first. What follows from either is decided in `dispatch`.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterator

from dipp.archive.chains import Context
from dipp.archive.dispatch import Dispatcher, Finished
from dipp.archive.handle import Runner, RunnerDied
from dipp.archive.records import State
from dipp.errors import ContentError

# Runners that end before they are ready, in a row: the machine cannot run them.
_FAILED_STARTS = 3
_POLL_S = 1.0


class LocalEngine:
    """A context manager around the runners; `run` may be left at any time."""

    def __init__(self, context: Context, workers: int) -> None:
        self._context = context
        self._workers = workers
        self._runners: list[Runner] = []
        self._failed_starts = 0

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        # All at once, then wait for each.
        for runner in self._runners:
            runner.hang_up()
        for runner in self._runners:
            runner.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process numbers of the runners."""
        return tuple(runner.pid for runner in self._runners)

    def run(self, dispatcher: Dispatcher) -> Iterator[Finished]:
        """Work until the dispatcher is done; give what is finished. Raises OSError."""
        while not dispatcher.is_done:
            self._fill(dispatcher)
            for runner in self._wait():
                finished = self._hear(runner, dispatcher)
                if finished is not None:
                    yield finished

    def _fill(self, dispatcher: Dispatcher) -> None:
        """Start what is missing and give orders to whoever is idle."""
        busy = sum(runner.order is not None for runner in self._runners)
        wanted = min(self._workers, busy + dispatcher.waiting)
        while len(self._runners) < wanted:
            self._runners.append(Runner(self._context))
        for runner in [each for each in self._runners if each.is_ready and each.order is None]:
            order = dispatcher.next()
            if order is None:
                return
            try:
                runner.give(order)
            except RunnerDied as error:
                self._bury(runner, dispatcher, str(error))
            except ContentError as error:
                dispatcher.stop(f"{order.unit.name}: {error}")

    def _wait(self) -> list[Runner]:
        """Return the runners with news or without an answer in time."""
        poller = select.poll()
        for runner in self._runners:
            poller.register(runner.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poller.poll(_POLL_S * 1000)}
        now = time.monotonic()
        return [each for each in self._runners if each.fileno() in ready or now > each.deadline]

    def _hear(self, runner: Runner, dispatcher: Dispatcher) -> Finished | None:
        if time.monotonic() > runner.deadline:
            runner.kill()
            return self._bury(runner, dispatcher, "the runner did not answer in time")
        order = runner.order
        try:
            report = runner.take()
        except RunnerDied as error:
            return self._bury(runner, dispatcher, str(error))
        except ContentError as error:
            dispatcher.stop(str(error))
            return None
        self._failed_starts = 0
        if report is None or order is None:
            return None
        if report.state is State.DIED:
            # It ends now; a unit given to it would be counted as one more death.
            self._runners.remove(runner)
            runner.close()
        return dispatcher.answered(order, report)

    def _bury(self, runner: Runner, dispatcher: Dispatcher, reason: str) -> Finished | None:
        self._runners.remove(runner)
        with contextlib.closing(runner):
            if runner.order is not None:
                return dispatcher.died(runner.order, reason)
        if not runner.is_ready:
            self._failed_starts += 1
        if self._failed_starts >= _FAILED_STARTS:
            dispatcher.stop(f"no runner can be started: {reason}")
        return None
