"""What the simulated nodes have in common: identity, mission time as wall time, a steady beat."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from csp.links.base import Link
from csp.loop import Loop
from csp.node import CspNode
from csp.param.table import ParamTable
from csp.sched import Scheduler
from csp.services import Identity
from csp.vmem.area import Area
from sim.clock import MissionClock
from sim.errors import SimError
from sim.ticker import Ticker

_LOG = logging.getLogger(__name__)
MODEL = "payload-emulator"
REVISION = "1"


def scheduler_of(loop: Loop | Scheduler) -> Scheduler:
    """Return the scheduler behind a loop, or the scheduler itself."""
    return loop if isinstance(loop, Scheduler) else loop.scheduler


class MissionWall:
    """The wall clock of a simulated node: mission time. Setting it does nothing."""

    def __init__(self, clock: MissionClock, scheduler: Scheduler) -> None:
        self._clock = clock
        self._scheduler = scheduler

    def now(self) -> float:
        """Return mission time in Unix seconds."""
        return self._clock.unix(self._scheduler.now)

    def set(self, unix_s: float) -> None:
        """Leave the clock alone: all nodes share one mission time."""


def reboot_of(loop: Loop | Scheduler) -> Callable[[bool], None]:
    """Return what a reboot request does: end the process. In virtual time there is none."""
    return loop.reboot if isinstance(loop, Loop) else lambda restart: None


class SimNode:
    """A `CspNode` with mission time, whose `update(now)` runs every `period_s` real seconds.

    Subclasses bind their own services to `node.stack`. `seed` None means real chance.
    """

    def __init__(
        self,
        loop: Loop | Scheduler,
        clock: MissionClock,
        *,
        name: str,
        address: int,
        table: ParamTable,
        period_s: float,
        update: Callable[[float], None],
        areas: Sequence[Area] = (),
        seed: int | None = None,
        version: int = 2,
    ) -> None:
        self.name = name
        self.clock = clock
        self.scheduler = scheduler_of(loop)
        self.node = CspNode(
            loop,
            address=address,
            identity=Identity(hostname=name, model=MODEL, revision=REVISION, date="", time=""),
            table=table,
            wall=MissionWall(clock, self.scheduler),
            areas=areas,
            reboot=reboot_of(loop),
            seed=seed,
            version=version,
        )
        self.ticker = Ticker(self.scheduler, period_s, update, self._complain)

    @property
    def table(self) -> ParamTable:
        """The node's parameters."""
        return self.node.table

    def attach(self, link: Link) -> None:
        """Connect the node to a network."""
        self.node.attach(link, default=True)

    def close(self) -> None:
        """Stop the beat and leave the network. Harmless if done twice."""
        self.ticker.stop()
        self.node.close()

    def _complain(self, error: SimError) -> None:
        _LOG.warning("%s: values no longer change: %s", self.name, error)
