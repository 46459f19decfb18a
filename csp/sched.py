"""Run timers, callbacks and coroutines against a clock that the caller owns.

Theory of operation: a `Scheduler` holds no clock. A driver (the event loop of a daemon, or the
virtual-time loop of a test or rehearsal) tells it the time with `advance`; everything due by then
runs in order of deadline, ties in order of creation. Protocol code is written as ordinary
`async def` functions whose only awaitables are the ones of this module, so the same code runs in a
daemon, in a shell and, thousands of times faster, in virtual time. Source: style-anchors.md 1
(ideas 1 and 4).
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Below this many timers the cancelled ones are left to run out.
_MIN_SWEEP = 1024


class Timeout(Exception):
    """A deadline passed before what was waited for happened."""


class Cancelled(Exception):
    """A task was cancelled by its owner."""


class Timer:
    """A callback at one instant; `cancel` makes it never run."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback. Harmless after it ran."""
        self.callback = None


class Promise(Generic[T]):
    """A value that arrives later; awaitable from a `Task`."""

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []

    def resolve(self, value: T) -> None:
        """Deliver the value. The first outcome wins; later ones are ignored."""
        self._finish(value, None)

    def fail(self, error: BaseException) -> None:
        """Deliver an exception instead of a value."""
        self._finish(None, error)

    def _finish(self, value: T | None, error: BaseException | None) -> None:
        if self.done:
            return
        self.done, self._value, self._error = True, value, error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_done(self, callback: Callable[[], None]) -> None:
        """Call back when the outcome is there; at once if it already is."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def result(self) -> T:
        """Return the value or raise the error. Raises RuntimeError while there is neither."""
        if not self.done:
            raise RuntimeError("promise has no outcome yet")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    @property
    def error(self) -> BaseException | None:
        """The exception it failed with, or None."""
        return self._error

    def __await__(self) -> Generator[Promise[Any], None, T]:
        if not self.done:
            yield self
        return self.result()


class Task(Promise[T]):
    """A coroutine being driven by a scheduler; the promise of its return value."""

    __slots__ = ("_coro", "_scheduler", "name")

    def __init__(self, scheduler: Scheduler, coro: Coroutine[Any, Any, T], name: str) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._coro = coro
        self.name = name

    def step(self) -> None:
        """Run the coroutine to its next wait. Called by the scheduler only."""
        if self.done:
            return
        try:
            waited: Promise[Any] = self._coro.send(None)
        except StopIteration as stop:
            self.resolve(stop.value)
        except Exception as error:  # boundary: a task's failure is its outcome
            self.fail(error)
        else:
            waited.on_done(lambda: self._scheduler.call_soon(self.step))

    def cancel(self) -> None:
        """Stop the coroutine; its `finally` blocks run now. The task fails with `Cancelled`."""
        if not self.done:
            self._coro.close()
            self.fail(Cancelled(f"task {self.name} was cancelled"))


class Scheduler:
    """Timers, ready callbacks and tasks, driven by `advance`.

    `now` is monotonic seconds as last told. `on_orphan_error` receives the error of a task that
    nobody waits for; the default keeps the last ones in `orphan_errors` (capped).
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._ready: deque[Callable[[], None]] = deque()
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._sweep_above = _MIN_SWEEP
        # Sixteen is enough to diagnose a burst and cannot grow in a daemon that runs for months.
        self.orphan_errors: deque[tuple[str, BaseException]] = deque(maxlen=16)
        self.orphan_error_count = 0

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run the callback in the current or next `advance`, after what is already ready."""
        self._ready.append(callback)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run the callback once `now` reaches `when` (monotonic seconds)."""
        timer = Timer(when, callback)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        if len(self._heap) > self._sweep_above:
            self._sweep()
        return timer

    def _sweep(self) -> None:
        """Drop cancelled timers: a busy link cancels thousands long before they are due."""
        self._heap = [entry for entry in self._heap if entry[2].callback is not None]
        heapq.heapify(self._heap)
        self._sweep_above = max(_MIN_SWEEP, 2 * len(self._heap))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Run the callback `delay_s` seconds after `now`."""
        return self.call_at(self.now + delay_s, callback)

    def spawn(self, coro: Coroutine[Any, Any, T], name: str = "task") -> Task[T]:
        """Start a coroutine as a task whose result the caller will use."""
        task = Task(self, coro, name)
        self.call_soon(task.step)
        return task

    def spawn_background(self, coro: Coroutine[Any, Any, Any], name: str) -> Task[Any]:
        """Start a task nobody waits for; its failure is recorded in `orphan_errors`."""
        task = self.spawn(coro, name)

        def record() -> None:
            if task.error is not None and not isinstance(task.error, Cancelled):
                self.orphan_errors.append((name, task.error))
                self.orphan_error_count += 1

        task.on_done(record)
        return task

    def advance(self, now: float) -> None:
        """Set the time and run all that is due. Time never goes backwards.

        Callbacks that become ready meanwhile run in the same call, except that one call runs each
        timer at most once, so a timer that re-arms itself for `now` cannot starve the driver.
        """
        self.now = max(self.now, now)
        due: list[Timer] = []
        while self._heap and self._heap[0][0] <= self.now:
            due.append(heapq.heappop(self._heap)[2])
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
                self.run_ready()
        self.run_ready()

    def run_ready(self) -> None:
        """Run what is ready, without letting time pass; for drivers between two inputs."""
        while self._ready:
            self._ready.popleft()()

    def next_deadline(self) -> float | None:
        """When `advance` is next needed: `now` if something is ready, None if nothing is armed."""
        if self._ready:
            return self.now
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def sleep(self, delay_s: float) -> Promise[None]:
        """Return a promise that resolves after `delay_s` seconds."""
        promise: Promise[None] = Promise()
        self.call_later(delay_s, lambda: promise.resolve(None))
        return promise

    async def wait_for(self, promise: Promise[T], timeout_s: float) -> T:
        """Wait for a promise at most `timeout_s`; raise `Timeout` after that.

        The promise itself is left running: cancel it if it is a task that should end.
        """
        gate: Promise[None] = Promise()
        timer = self.call_later(timeout_s, lambda: gate.resolve(None))
        promise.on_done(lambda: gate.resolve(None))
        try:
            await gate
        finally:
            timer.cancel()
        if not promise.done:
            raise Timeout(f"nothing within {timeout_s:g} s")
        return promise.result()

    def run_virtual(self, task: Promise[T], limit_s: float = 3600.0) -> T:
        """Run in virtual time until the promise is done. Raises Timeout after `limit_s` of it."""
        end = self.now + limit_s
        while not task.done:
            deadline = self.next_deadline()
            if deadline is None or deadline > end:
                raise Timeout(f"not done after {limit_s:g} virtual seconds")
            self.advance(deadline)
        return task.result()


class Mailbox(Generic[T]):
    """A bounded first-in first-out queue between callbacks and one waiting task.

    A put to a full mailbox drops the item and returns False: a slow reader must not make a daemon
    grow.
    """

    def __init__(self, scheduler: Scheduler, capacity: int = 1024) -> None:
        self._scheduler = scheduler
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._waiter: Promise[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Append an item and wake the reader. Returns False if it was dropped."""
        if len(self._items) >= self._capacity:
            return False
        self._items.append(item)
        if self._waiter is not None:
            self._waiter.resolve(None)
            self._waiter = None
        return True

    async def get(self, timeout_s: float | None = None) -> T:
        """Take the oldest item, waiting for it. Raises Timeout after `timeout_s`."""
        while not self._items:
            self._waiter = Promise()
            if timeout_s is None:
                await self._waiter
            else:
                deadline = self._scheduler.now + timeout_s
                await self._scheduler.wait_for(self._waiter, timeout_s)
                timeout_s = deadline - self._scheduler.now
        return self._items.popleft()
