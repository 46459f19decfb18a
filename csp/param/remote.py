"""Access other nodes' parameters by name, with their lists kept for a while.

The flown software downloads the complete list of the peer for every operand. Here a list is
downloaded once and thrown away if it seems outdated: the name is not in it, the node does not give
the value, the value has another type, or the list is too old. Source: dish.md 7.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from csp.errors import DecodeError, Refused
from csp.param.client import ParamClient, PullItem, PushItem, RemoteParam
from csp.param.errors import ReadOnlyParam, UnknownParam
from csp.param.types import Mask, Value
from csp.sched import Task

# Ids and types are stable while a node runs (csp.md 14); after a reboot of the peer into another
# version the old list is wrong for at most this long, unless a type error shows it earlier.
LIST_TTL_S = 600.0


@dataclass(frozen=True, slots=True)
class _CachedList:
    by_name: dict[str, RemoteParam]
    params: list[RemoteParam]
    expires: float


class RemoteTable:
    """Parameters of other nodes by name. All methods are for tasks of the client's scheduler."""

    def __init__(self, client: ParamClient, ttl_s: float = LIST_TTL_S) -> None:
        self.client = client
        self._ttl_s = ttl_s
        self._lists: dict[int, _CachedList] = {}
        self._downloads: dict[int, Task[list[RemoteParam]]] = {}

    @property
    def pulls(self) -> int:
        """Pulls asked of the client, by anybody."""
        return self.client.counters.pulls

    @property
    def pushes(self) -> int:
        """Pushes asked of the client, by anybody."""
        return self.client.counters.pushes

    @property
    def list_downloads(self) -> int:
        """Lists asked of the client, by anybody."""
        return self.client.counters.list_downloads

    def cached(self, node: int) -> list[RemoteParam]:
        """Return the list of a node as far as it is here, in table order, possibly empty."""
        entry = self._lists.get(node)
        return entry.params if entry is not None else []

    def add(self, param: RemoteParam) -> None:
        """Know a parameter without asking its node, until the list is downloaded."""
        others = [other for other in self.cached(param.node) if other.spec.name != param.spec.name]
        self._keep(param.node, [*others, param], math.inf)

    def invalidate(self, node: int | None = None) -> None:
        """Forget the list of a node, or all lists."""
        if node is None:
            self._lists.clear()
        else:
            self._lists.pop(node, None)

    async def download(self, node: int) -> list[RemoteParam]:
        """Download a list now; several tasks that want the same one share the download."""
        task = self._downloads.get(node)
        if task is None:
            scheduler = self.client.stack.scheduler
            task = scheduler.spawn(self.client.download_list(node), f"list of node {node}")
            self._downloads[node] = task
            task.on_done(lambda: self._finished(node))
        return await task

    def _finished(self, node: int) -> None:
        task = self._downloads.pop(node)
        if task.error is not None:
            return
        self._keep(node, task.result(), self.client.stack.scheduler.now + self._ttl_s)

    def _keep(self, node: int, params: list[RemoteParam], expires: float) -> None:
        # The first of a name wins, as a search in table order would.
        by_name = {param.spec.name: param for param in reversed(params)}
        self._lists[node] = _CachedList(by_name, params, expires)

    async def find(self, node: int, name: str) -> RemoteParam:
        """Return a parameter by exact name. Raises UnknownParam, or NoResponse and Refused."""
        entry = self._lists.get(node)
        if entry is not None and entry.expires > self.client.stack.scheduler.now:
            param = entry.by_name.get(name)
            if param is not None:
                return param
        for param in await self.download(node):
            if param.spec.name == name:
                return param
        raise UnknownParam(f"node {node} has no parameter {name!r}")

    async def get(self, node: int, name: str, index: int | None = None) -> Value:
        """Pull one value by name: an element, or all of them."""
        return (await self.get_many(node, [(name, index)]))[0]

    async def get_many(self, node: int, names: Sequence[tuple[str, int | None]]) -> list[Value]:
        """Pull several (name, index) of one node in one request.

        Raises UnknownParam, NoResponse, Refused, DecodeError; the last two after one attempt with
        a fresh list.
        """
        try:
            return await self._pull(node, names)
        except (Refused, DecodeError):
            self.invalidate(node)
        return await self._pull(node, names)

    async def _pull(self, node: int, names: Sequence[tuple[str, int | None]]) -> list[Value]:
        items = [PullItem(param=await self.find(node, name), index=index) for name, index in names]
        return await self.client.pull(node, items)

    async def set(self, node: int, name: str, value: Value, index: int | None = None) -> Value:
        """Push one value by name and return what the node has stored.

        Raises ReadOnlyParam and the value errors without asking the node, UnknownParam,
        NoResponse, which may also mean that the node refused the value.
        """
        param = await self.find(node, name)
        if param.spec.mask & Mask.READONLY:
            raise ReadOnlyParam(f"{name} of node {node} is read-only")
        item = PushItem(param=param, value=value, index=index)
        try:
            stored = await self.client.push(node, [item])
        except DecodeError:
            self.invalidate(node)
            raise
        return stored[0] if stored is not None else value
