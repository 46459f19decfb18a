"""Put a node together: stack, services of ports 0 to 6, parameters, memory, links.

Everything a daemon of this project has in common on the network; what is special to it is bound to
`stack` afterwards. Composition root and driver.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from csp.connection import MAX_CONNECTIONS
from csp.interface import Interface
from csp.links.base import Link
from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.codec import LIST_PORT, PARAM_PORT
from csp.param.server import ParamServer
from csp.param.table import Parameter, ParamTable
from csp.sched import Scheduler, Timer
from csp.services import Identity, Services, WallClock
from csp.stack import Stack
from csp.vmem.area import Area, StoreError
from csp.vmem.binding import Binding
from csp.vmem.server import VmemServer
from csp.vmem.wire import VMEM_PORT

# The owner's own counters change often; storing them each time would wear out a flash disk.
_FLUSH_AFTER_S = 1.0


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


def with_build_date(identity: Identity) -> Identity:
    """Fill an empty date with that of the installed files, as C nodes show their compile date."""
    if identity.date:
        return identity
    built = time.gmtime(Path(__file__).stat().st_mtime)
    return replace(
        identity, date=time.strftime("%b %d %Y", built), time=time.strftime("%H:%M:%S", built)
    )


def _no_reboot(restart: bool) -> None:
    """Ignore a reboot request: a node that was given no hook has nothing to restart."""


class CspNode:
    """One node of the network.

    Takes an event loop, or a bare scheduler for virtual time. `table` holds the node's parameters;
    `areas` are the memory in which those that name an area live, and which vmem and CMP peek/poke
    reach. A push is made durable before it is acknowledged. `reboot` is called with True for
    reboot, False for shutdown. `seed` None means real chance. Raises SpecError if a parameter
    does not fit the areas.
    """

    def __init__(
        self,
        loop: Loop | Scheduler,
        *,
        address: int,
        identity: Identity,
        table: ParamTable,
        version: int = 2,
        areas: Sequence[Area] = (),
        reboot: Callable[[bool], None] = _no_reboot,
        wall: WallClock | None = None,
        seed: int | None = None,
    ) -> None:
        self.loop = loop
        self.scheduler = loop if isinstance(loop, Scheduler) else loop.scheduler
        self.address = address
        self.table = table
        self.wall: WallClock = wall if wall is not None else SystemWall()
        self.stack = Stack(self.scheduler, version=version, rng=random.Random(seed))
        self.binding = Binding(table, areas)
        self.services = Services(
            self.stack,
            identity=with_build_date(identity),
            wall=self.wall,
            reboot=reboot,
            areas=self.binding.areas,
            memory_free=_memory_free,
            buffers_free=lambda: MAX_CONNECTIONS - len(self.stack.connections),
        )
        self.services.bind()
        self.param_server = ParamServer(
            table,
            self.stack.addresses,
            commit=self.binding.flush,
            storage_kinds=self.binding.kinds,
        )
        self.stack.bind(PARAM_PORT, self.param_server.handle, crc_required=True)
        self.stack.listen(LIST_PORT, self.param_server.serve_list)
        self.vmem = VmemServer(self.binding.areas)
        self.vmem.late_reply = self.stack.reply
        self.stack.bind(VMEM_PORT, self.vmem.handle)
        self.stack.listen(VMEM_PORT, self.vmem.serve)
        self.params = ParamClient(self.stack)
        self.store_failures = 0
        self._links: list[Link] = []
        self._flush_timer: Timer | None = None
        if areas:
            table.on_change(self._flush_later)

    def attach(
        self, link: Link, address: int | None = None, netmask: int = 8, *, default: bool = False
    ) -> Interface:
        """Open a link as an interface of this node, by default with the node's own address."""
        own = self.address if address is None else address
        interface = self.stack.add_interface(
            link.name, own, link.send, netmask, default, guard=link.guard
        )

        def receive(frame: bytes) -> None:
            self.stack.receive(interface, frame)
            # A link may hold many frames: what each of them wakes has its turn before the next
            # one, or a checksum would be taken of memory that an earlier upload has yet to fill.
            self.scheduler.run_ready()

        link.open(self.loop, receive)
        self._links.append(link)
        return interface

    def _flush_later(self, parameter: Parameter, first: int, stop: int) -> None:
        """Have a change by the owner stored soon; those by clients are stored at once."""
        if self._flush_timer is None and parameter.spec.area is not None:
            self._flush_timer = self.scheduler.call_later(_FLUSH_AFTER_S, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        try:
            self.binding.flush()
        except StoreError:
            # A full disk must not stop the node; the next change tries again.
            self.store_failures += 1

    def close(self) -> None:
        """Store what is not stored, close all links. Harmless if done twice."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush()
        while self._links:
            link = self._links.pop()
            link.close()
            if link.guard is not None:
                link.guard.close()


def _memory_free() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
