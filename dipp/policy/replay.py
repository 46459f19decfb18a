"""Run quarantined batches again, or delete them, by order of the operator.

Theory of operation: an order makes the batch a new one of a new number by one journal record, and
its file is renamed to that number. From then on it is a batch like any other, which the journal
brings to exactly one fate through every kill; its bytes stay on disk until then. Deleting is the
same with the fate *dropped* decided beforehand. Orders are carried out one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from csp.param.table import Parameter, ParamTable
from csp.sched import Scheduler, Task
from dipp.errors import Code, ContentError, status_word
from dipp.journal import Journal
from dipp.params import LOG_STATUS, Telemetry
from dipp.policy.settings import (
    BATCHES,
    DISCARD,
    PAGE,
    PAGE_ENTRIES,
    REPLAY,
    SIZES,
    STATUSES,
    TIMES,
)
from dipp.quarantine import PIECE_BYTES, Quarantine, QuarantineEntry
from dipp.records import Kind, Record
from dipp.segment import MemorySegment, OpenSegment

# More orders than the quarantine usually has batches; what comes beyond is refused.
_ORDERS_LIMIT = 256
# A landed queue message has the next number until it is journaled; that takes one try of the disk.
_WAIT_S = 0.1
_WAIT_LIMIT = 300


async def load_entry(entry: QuarantineEntry, scheduler: Scheduler) -> OpenSegment:
    """Copy the bytes of a quarantined batch into memory for modules. Raises OSError."""
    segment = MemorySegment(entry.path.name)
    try:
        with entry.path.open("rb") as file:
            file.seek(entry.payload_offset)
            left = entry.payload_bytes
            while left > 0 and (piece := file.read(min(left, PIECE_BYTES))):
                segment.append(piece)
                left -= len(piece)
                await scheduler.sleep(0)
        segment.seal()
    except BaseException:  # boundary: also a task that is cancelled must not leak memory
        segment.close()
        raise
    return segment


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    batch: int
    is_discard: bool


class Replays:
    """The orders about the quarantine, and what it shows of itself."""

    def __init__(
        self,
        scheduler: Scheduler,
        table: ParamTable,
        *,
        journal: Journal,
        quarantine: Quarantine,
        process: Callable[[int], Coroutine[Any, Any, None]],
        holds_message: Callable[[], bool],
    ) -> None:
        """`process` brings an open batch to its fate; `holds_message` says that the next number
        is taken by a queue message that is not in the journal yet."""
        self._scheduler = scheduler
        self._table = table
        self._telemetry = Telemetry(table)
        self._journal = journal
        self._quarantine = quarantine
        self._process = process
        self._holds_message = holds_message
        self._orders: deque[_Order] = deque()
        self._task: Task[None] | None = None
        self._shown: tuple[int, list[int]] = (-1, [])
        table.on_write(REPLAY, lambda order, _: self._on_order(order, is_discard=False))
        table.on_write(DISCARD, lambda order, _: self._on_order(order, is_discard=True))
        table.on_write(PAGE, lambda order, _: self.publish())

    @property
    def is_busy(self) -> bool:
        """Say whether orders are being carried out."""
        return self._task is not None

    def abandon(self) -> None:
        """Stop now; the journal knows where."""
        self._orders.clear()
        if self._task is not None:
            self._task.cancel()

    def publish(self) -> None:
        """Show the page of the quarantine that is asked for, if it has changed."""
        page, numbers = self._telemetry.get(PAGE), self._quarantine.numbers
        if (page, numbers) == self._shown:
            return
        self._shown = page, numbers
        chosen = numbers[page * PAGE_ENTRIES : (page + 1) * PAGE_ENTRIES]
        found = {entry.verdict.batch: entry for entry in self._quarantine.entries(chosen)}
        rows = [found.get(number) for number in chosen]
        self._telemetry.put_list(BATCHES, chosen)
        self._telemetry.put_list(STATUSES, [row.verdict.status if row else 0 for row in rows])
        self._telemetry.put_list(SIZES, [row.payload_bytes if row else 0 for row in rows])
        times = [int(row.verdict.time_unix) if row else 0 for row in rows]
        self._telemetry.put_list(TIMES, times)

    # -- orders

    def _on_order(self, parameter: Parameter, *, is_discard: bool) -> None:
        batch = int(parameter.get())
        parameter.set(0)
        if batch == 0:
            return
        if not self._quarantine.holds(batch) or len(self._orders) >= _ORDERS_LIMIT:
            self._refuse()
            return
        self._orders.append(_Order(batch=batch, is_discard=is_discard))
        if self._task is None:
            self._task = self._scheduler.spawn_background(self._work(), "replay")
            self._task.on_done(self._on_end)

    def _on_end(self) -> None:
        self._task = None

    def _refuse(self) -> None:
        self._table[LOG_STATUS].set(status_word(Code.BATCH_NOT_KEPT))

    async def _work(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            number = await self._begin(order)
            if number is not None:
                await self._process(number)
            self.publish()

    async def _begin(self, order: _Order) -> int | None:
        """Make a quarantined batch a new one and return its number; None if that cannot be."""
        for _ in range(_WAIT_LIMIT):
            if not self._holds_message():
                break
            await self._scheduler.sleep(_WAIT_S)
        else:
            self._table[LOG_STATUS].set(status_word(Code.STORE_FAILED))
            return None
        # From here to the end without a pause: nobody else may take the number.
        if not self._quarantine.holds(order.batch):
            self._refuse()
            return None
        number = self._journal.state.last_batch + 1
        try:
            message = self._quarantine.entry(order.batch).verdict.message
            self._journal.append(
                Record(
                    kind=Kind.REPLAY,
                    batch=number,
                    message=message,
                    source=order.batch,
                    is_discard=order.is_discard,
                )
            )
        except (OSError, ContentError):
            self._telemetry.count("storage_errors")
            self._table[LOG_STATUS].set(status_word(Code.STORE_FAILED))
            return None
        try:
            self._quarantine.begin_replay(order.batch, number)
        except OSError:
            # `open_replay` tries again.
            self._telemetry.count("storage_errors")
        if not order.is_discard:
            self._telemetry.count("replays")
        return number
