"""Run units as tasks of a Dask cluster. Driver; needs the extra `dask`.

Theory of operation: a task never forks in a thread of the engine: it talks to a runner process, the
same as on one machine, which it shares with the other tasks of its worker one after the other.
Whatever a module does is the task's value; only the death of a host, a runner or a whole worker is
an exception, and those Dask tries again. What outlives that is buried by one more task.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import threading
from collections.abc import Iterator
from typing import Any

from dipp.archive.chains import Context
from dipp.archive.dispatch import DOES_NOT_LOAD, MAX_ATTEMPTS, Dispatcher, Finished, bury
from dipp.archive.handle import Runner, RunnerDied
from dipp.archive.keys import digest_of
from dipp.archive.records import Order, Report, State
from dipp.errors import Code, ContentError, DippError

# Tasks under way per thread of the cluster: enough to keep it fed, few enough to stop soon.
_AHEAD = 4
_CONNECT_TIMEOUT_S = 30
# An error of a worker crosses the engine as text only.
_PREFIXES = tuple(str(int(code)) for code in DOES_NOT_LOAD)


class HostDied(Exception):
    """A host or runner died at a unit; the engine may try again. Travels between machines."""


class _Runners:
    """The runners of this worker process: as many as its threads have needed at once."""

    def __init__(self) -> None:
        # The threads of a Dask worker share them; nothing slow happens under the lock.
        self._lock = threading.Lock()
        self._idle: list[tuple[bytes, Runner]] = []

    def take(self, encoded: bytes) -> Runner:
        """Return an idle runner for a context or start one. Raises OSError, ContentError."""
        with self._lock:
            others = [runner for known, runner in self._idle if known != encoded]
            mine = [runner for known, runner in self._idle if known == encoded]
            self._idle = [(encoded, runner) for runner in mine[1:]]
        for runner in others:
            runner.close()
        return mine[0] if mine else Runner(Context.decode(encoded))

    def give_back(self, encoded: bytes, runner: Runner) -> None:
        """Keep a runner for the next task."""
        with self._lock:
            self._idle.append((encoded, runner))

    def close(self) -> None:
        """End all idle runners."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, runner in idle:
            runner.hang_up()
        for _, runner in idle:
            runner.close()


_RUNNERS = _Runners()
atexit.register(_RUNNERS.close)


def run_task(context: bytes, order: bytes) -> bytes:
    """Work on one unit; runs in a worker. Raises HostDied, and nothing else on content."""
    try:
        runner = _RUNNERS.take(context)
    except OSError as error:
        raise HostDied(f"no runner: {error}") from error
    try:
        report = runner.ask(Order.decode(order))
    except RunnerDied as error:
        runner.kill()
        raise HostDied(str(error)) from None
    except ContentError as error:
        runner.close()
        return Report(state=State.CHAIN, reason=str(error)).encode()
    if report.state is State.DIED:
        runner.close()
        if report.code in DOES_NOT_LOAD:
            raise HostDied(f"{report.code}: {report.reason}")
        raise HostDied(report.reason)
    _RUNNERS.give_back(context, runner)
    return report.encode()


def close_runners() -> None:
    """End the runners of this worker."""
    _RUNNERS.close()


class ClusterEngine:
    """A client of a scheduler, or of a cluster of its own on this machine. A context manager."""

    def __init__(self, context: Context, workers: int, scheduler: str = "") -> None:
        """Connect. Raises DippError."""
        self._context = context.encode()
        self._stack = contextlib.ExitStack()
        self._dask = _import("distributed")
        self._client = self._connect(workers, scheduler)

    def _connect(self, workers: int, scheduler: str) -> Any:
        try:
            if scheduler:
                client = self._dask.Client(scheduler, timeout=_CONNECT_TIMEOUT_S)
            else:
                cluster = self._dask.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                )
                self._stack.enter_context(cluster)
                client = self._dask.Client(cluster)
        except (OSError, ValueError, RuntimeError) as error:
            self._stack.close()
            raise DippError(f"dask: {scheduler or 'local cluster'}: {error}") from error
        self._stack.enter_context(client)
        return client

    def __enter__(self) -> ClusterEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._stack, contextlib.suppress(OSError, RuntimeError):
            self._client.run(close_runners)

    @property
    def client(self) -> Any:
        """The Dask client, for whoever wants to look at its cluster."""
        return self._client

    def run(self, dispatcher: Dispatcher) -> Iterator[Finished]:
        """Work until the dispatcher is done; give what is finished. Raises DippError."""
        under_way = self._dask.as_completed()
        orders: dict[str, Order] = {}
        try:
            while not dispatcher.is_done:
                self._submit(dispatcher, under_way, orders)
                if not orders:
                    continue
                future = next(under_way)
                order = orders.pop(future.key)
                finished = self._hear(future, order, dispatcher, under_way, orders)
                if finished is not None:
                    yield finished
        finally:
            self._client.cancel(list(under_way.futures), force=True)

    def _submit(self, dispatcher: Dispatcher, under_way: Any, orders: dict[str, Order]) -> None:
        threads = sum(self._client.nthreads().values())
        while len(orders) < max(1, threads) * _AHEAD:
            order = dispatcher.next()
            if order is None:
                return
            self._send(order, under_way, orders)

    def _send(self, order: Order, under_way: Any, orders: dict[str, Order]) -> None:
        encoded = order.encode()
        future = self._client.submit(
            run_task,
            self._context,
            encoded,
            key=f"dipp-{digest_of([self._context.decode(), encoded.decode()])}",
            retries=MAX_ATTEMPTS - 1,
            pure=False,
        )
        orders[future.key] = order
        under_way.add(future)

    def _hear(
        self,
        future: Any,
        order: Order,
        dispatcher: Dispatcher,
        under_way: Any,
        orders: dict[str, Order],
    ) -> Finished | None:
        if future.status == "finished":
            return dispatcher.answered(order, Report.decode(future.result()))
        if future.status == "cancelled":
            dispatcher.stop("dask: the scheduler is gone or has dropped the tasks; run again")
            return None
        if future.status != "error":
            # The worker died with the report: the task runs again and finds the result.
            orders[future.key] = order
            under_way.add(future)
            return None
        error = future.exception()
        reason = str(error) or type(error).__name__
        if isinstance(error, HostDied) and reason.startswith(_PREFIXES):
            dispatcher.answered(order, Report(state=State.CHAIN, reason=reason))
            return None
        if order.bury is None:
            again = bury(order, Code.NODE_DIED, MAX_ATTEMPTS, reason)
            self._send(again, under_way, orders)
            return None
        report = Report(state=State.UNREADABLE, reason=reason, code=Code.NODE_DIED)
        return dispatcher.answered(order, report)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        text = f"--engine dask needs distributed: pip install 'cubesat-payload[dask]' ({error})"
        raise DippError(text) from error
