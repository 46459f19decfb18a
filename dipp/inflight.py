"""Batches under way at the same time: how many, and how much memory they may hold. Pure.

Theory of operation: a batch is started and ends by itself. There is room for another one while
fewer than the limit are under way and what they are expected to hold is below the budget. A single
batch always has room, however large it is: it could never run otherwise.
Source: design.md 3, issue 7 (a budget that back-pressures the queue).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from csp.sched import Promise, Scheduler, Task

# The batch as it came, what a module writes, and what the one before has written.
MEMORY_PER_BYTE = 3


class InFlight:
    """Runs `process(number)` for batches, so many at a time as `limit()` allows just now."""

    def __init__(
        self,
        scheduler: Scheduler,
        process: Callable[[int], Coroutine[Any, Any, None]],
        *,
        limit: Callable[[], int],
        budget_bytes: Callable[[], int],
    ) -> None:
        self._scheduler = scheduler
        self._process = process
        self._limit = limit
        self._budget_bytes = budget_bytes
        self._tasks: dict[int, tuple[Task[None], int]] = {}
        self._change: Promise[None] = Promise()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def memory_bytes(self) -> int:
        """What the batches under way are expected to hold."""
        return sum(size for _, size in self._tasks.values())

    @property
    def has_room(self) -> bool:
        """Say whether another batch may be started."""
        if not self._tasks:
            return True
        return len(self._tasks) < self._limit() and self.memory_bytes < self._budget_bytes()

    def start(self, number: int, size_bytes: int) -> None:
        """Begin with a batch of so many bytes."""
        task = self._scheduler.spawn_background(self._process(number), f"batch {number}")
        self._tasks[number] = task, MEMORY_PER_BYTE * max(size_bytes, 0)
        task.on_done(lambda: self._ended(number))

    async def room(self) -> None:
        """Wait until there is room."""
        while not self.has_room:
            await self._next_change()

    async def drained(self) -> None:
        """Wait until none is under way."""
        while self._tasks:
            await self._next_change()

    def cancel(self) -> None:
        """Stop all, in the middle if need be."""
        for task, _ in list(self._tasks.values()):
            task.cancel()

    def wake(self) -> None:
        """Look again: limit or budget may have changed."""
        change, self._change = self._change, Promise()
        change.resolve(None)

    async def _next_change(self) -> None:
        await self._change

    def _ended(self, number: int) -> None:
        self._tasks.pop(number, None)
        self.wake()
