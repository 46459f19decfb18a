"""Copy parameters of another node into the own table once a second. Pure.

The flight board reads GNSS and the power of the A53 from its own wires; here they are nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from csp.errors import CspError
from csp.param.errors import ParamError
from csp.param.remote import RemoteTable
from csp.param.table import ParamTable
from csp.param.types import Value
from csp.sched import Scheduler, Task, Timeout, Timer

PERIOD_S = 1.0
# A lost packet or two must not look like a lost receiver.
STALE_S = 5.0


class Mirror:
    """Pull `names` from the node that `node` returns (0 = none) into parameters of those names.

    If nothing comes for `STALE_S`, the `invalid` values are stored once.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        table: ParamTable,
        remote: RemoteTable,
        *,
        node: Callable[[], int],
        names: Sequence[str],
        invalid: Mapping[str, Value],
    ) -> None:
        self.failures = 0
        self._scheduler = scheduler
        self._table = table
        self._remote = remote
        self._node = node
        self._names = tuple(names)
        self._invalid = dict(invalid)
        self._expiry: Timer | None = None
        self._task: Task[None] | None = None

    def start(self) -> None:
        """Begin to poll; the first time at once."""
        self._task = self._scheduler.spawn_background(self._run(), "mirror")

    def stop(self) -> None:
        """Stop polling. Harmless if it did not start."""
        if self._task is not None:
            self._task.cancel()
        if self._expiry is not None:
            self._expiry.cancel()

    async def _run(self) -> None:
        while True:
            began = self._scheduler.now
            if self._node():
                await self._poll(self._node())
            await self._scheduler.sleep(max(0.01, began + PERIOD_S - self._scheduler.now))

    async def _poll(self, node: int) -> None:
        try:
            if not self._remote.cached(node):
                await self._remote.download(node)
            there = {param.spec.name for param in self._remote.cached(node)}
            names = [name for name in self._names if name in there]
            values = await self._remote.get_many(node, [(name, None) for name in names])
        except (CspError, Timeout):
            self.failures += 1
            return
        if self._store(dict(zip(names, values, strict=True))):
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self._scheduler.call_later(STALE_S, self._expire)

    def _expire(self) -> None:
        self._store(self._invalid)

    def _store(self, values: Mapping[str, Value]) -> bool:
        stored = False
        for name, value in values.items():
            try:
                self._table[name].set(value)
            except ParamError:
                self.failures += 1
            else:
                stored = True
        return stored
