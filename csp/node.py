"""Put a node together: stack, services of ports 0 to 6, parameters, links. Composition root.

Everything a daemon of this project has in common on the network; what is special to it is bound to
`stack` afterwards. Driver.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence

from csp.connection import MAX_CONNECTIONS
from csp.interface import Interface
from csp.links.base import Link
from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.codec import LIST_PORT, PARAM_PORT
from csp.param.server import ParamServer
from csp.param.table import ParamTable
from csp.sched import Scheduler
from csp.services import Identity, MemoryArea, Services, WallClock
from csp.stack import Stack


class SystemWall:
    """The system's wall clock; setting it moves an offset, never the system's clock."""

    def __init__(self) -> None:
        self._offset_s = 0.0

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time() + self._offset_s

    def set(self, unix_s: float) -> None:
        """Make `now` return this time from now on."""
        self._offset_s = unix_s - time.time()


def _no_reboot(restart: bool) -> None:
    """Ignore a reboot request: a node that was given no hook has nothing to restart."""


class CspNode:
    """One node of the network.

    Takes an event loop, or a bare scheduler for virtual time. `table` holds the node's parameters;
    `areas` are the memory that vmem and CMP peek/poke reach. `reboot` is called with True for
    reboot, False for shutdown. `seed` None means real chance.
    """

    def __init__(
        self,
        loop: Loop | Scheduler,
        *,
        address: int,
        identity: Identity,
        table: ParamTable,
        version: int = 2,
        areas: Sequence[MemoryArea] = (),
        reboot: Callable[[bool], None] = _no_reboot,
        wall: WallClock | None = None,
        seed: int | None = None,
        hmac_key: bytes | None = None,
        commit: Callable[[], None] | None = None,
    ) -> None:
        self.loop = loop
        self.scheduler = loop if isinstance(loop, Scheduler) else loop.scheduler
        self.address = address
        self.table = table
        self.wall: WallClock = wall if wall is not None else SystemWall()
        self.stack = Stack(
            self.scheduler, version=version, rng=random.Random(seed), hmac_key=hmac_key
        )
        self.services = Services(
            self.stack,
            identity=identity,
            wall=self.wall,
            reboot=reboot,
            areas=areas,
            memory_free=_memory_free,
            buffers_free=lambda: MAX_CONNECTIONS - len(self.stack.connections),
        )
        self.services.bind()
        self.param_server = ParamServer(table, self.stack.addresses, commit=commit)
        self.stack.bind(PARAM_PORT, self.param_server.handle, crc_required=True)
        self.stack.listen(LIST_PORT, self.param_server.serve_list)
        self.params = ParamClient(self.stack)
        self._links: list[Link] = []

    def attach(
        self, link: Link, address: int | None = None, netmask: int = 8, *, default: bool = False
    ) -> Interface:
        """Open a link as an interface of this node, by default with the node's own address."""
        own = self.address if address is None else address
        interface = self.stack.add_interface(link.name, own, link.send, netmask, default)
        link.open(self.loop, lambda frame: self.stack.receive(interface, frame))
        self._links.append(link)
        return interface

    def close(self) -> None:
        """Close all links. Harmless if done twice."""
        while self._links:
            self._links.pop().close()


def _memory_free() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
