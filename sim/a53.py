"""The A53 node: suspend and wake the box that DIPP and the camera run on.

The node itself stands for the power management around the processor and always answers. With a
`Box` it also stops the processes of the box for as long as the A53 is not running; without one it
only models. Source: dish.md 12 (`suspend_a53` on node $A53, `wake_a53`, `a53_status`).
"""

from __future__ import annotations

from typing import Protocol

from csp.ftp import FTP_PORT, FtpFiles, FtpServer
from csp.loop import Loop
from csp.param.spec import ParamSpec
from csp.param.table import Parameter, ParamTable
from csp.param.types import Mask, ParamType
from csp.sched import Scheduler, Timer
from sim.clock import MissionClock
from sim.figures import PayloadConfig
from sim.simnode import SimNode, scheduler_of
from sim.sleep import A53Machine, A53State, Request

_R, _C = Mask.READONLY, Mask.CONF
_U8, _U32, _FLOAT = ParamType.U8, ParamType.U32, ParamType.FLOAT

SPECS = (
    ParamSpec(
        id=1, name="suspend_a53", type=_U8, mask=_C,
        help="Write 1: suspend the A53. Reads 0 afterwards",
    ),
    ParamSpec(
        id=2, name="wake_a53", type=_U8, mask=_C,
        help="Any write wakes the A53, as on the M7. Reads 0 afterwards",
    ),
    ParamSpec(id=3, name="a53_status", type=_U8, mask=_R, help="1 = running, 0 = anything else"),
    ParamSpec(
        id=4, name="a53_state", type=_U8, mask=_R,
        help="0 suspended, 1 running, 2 suspending, 3 waking",
    ),
    ParamSpec(id=5, name="a53_temp", type=_FLOAT, mask=_R, unit="C", help="Die temperature"),
    ParamSpec(
        id=6, name="boot_count", type=_U32, mask=_R, help="Cold starts of the A53 since launch",
    ),
    ParamSpec(id=7, name="wake_count", type=_U32, mask=_R, help="Completed wake-ups"),
    ParamSpec(id=8, name="suspend_count", type=_U32, mask=_R, help="Completed suspends"),
    ParamSpec(id=9, name="a53_since", type=_U32, mask=_R, unit="s", help="Seconds in this state"),
    ParamSpec(
        id=10, name="box_frozen", type=_U32, mask=_R,
        help="Processes of the box that are stopped now; 0 if this node only models",
    ),
    ParamSpec(
        id=11, name="box_faults", type=_U32, mask=_R,
        help="How often the processes of the box could not be found or stopped",
    ),
)  # fmt: skip


class Box(Protocol):
    """The processes that live on the A53."""

    @property
    def frozen(self) -> int:
        """How many processes are stopped."""

    @property
    def faults(self) -> int:
        """How often something went wrong."""

    def freeze(self) -> None:
        """Stop all of them, also those that came since the last call. Never raises."""

    def thaw(self) -> None:
        """Let all of them go on. Never raises; harmless if nothing is stopped."""


class NoBox:
    """A box without processes: the node only models."""

    frozen = 0
    faults = 0

    def freeze(self) -> None:
        """Do nothing."""

    def thaw(self) -> None:
        """Do nothing."""


class A53:
    """The machine and the box behind the parameter table."""

    def __init__(self, config: PayloadConfig, scheduler: Scheduler, box: Box | None = None) -> None:
        self._scheduler = scheduler
        self._box: Box = box if box is not None else NoBox()
        self._timer: Timer | None = None
        self.machine = A53Machine(config.a53, scheduler.now)
        self.table = ParamTable(SPECS)
        self.table["boot_count"].set(1)
        self.table.on_write("suspend_a53", self._suspend)
        self.table.on_write("wake_a53", self._wake)

    def update(self, now: float) -> None:
        """Complete transitions, stop or continue the box, publish."""
        machine, table, box = self.machine, self.table, self._box
        machine.advance(now)
        if machine.state is A53State.SUSPENDED or machine.state is A53State.WAKING:
            # On every beat: a process that was started meanwhile has to sleep as well.
            box.freeze()
        elif box.frozen:
            box.thaw()
        self._arm()
        table["a53_status"].set(int(machine.is_running))
        table["a53_state"].set(int(machine.state))
        table["a53_temp"].set(machine.temperature_c(now))
        table["wake_count"].set(machine.wakes)
        table["suspend_count"].set(machine.suspends)
        table["a53_since"].set(int(now - machine.since))
        table["box_frozen"].set(box.frozen)
        table["box_faults"].set(box.faults)

    def close(self) -> None:
        """Leave no process of the box stopped."""
        if self._timer is not None:
            self._timer.cancel()
        self._box.thaw()

    def _arm(self) -> None:
        """Be there when the transition ends, between two beats."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.machine.deadline
        if deadline is not None:
            self._timer = self._scheduler.call_at(
                deadline, lambda: self.update(self._scheduler.now)
            )

    def _suspend(self, parameter: Parameter, _: int) -> None:
        if parameter.get():
            self._request(Request.SUSPEND)
        parameter.set(0)

    def _wake(self, parameter: Parameter, _: int) -> None:
        self._request(Request.WAKE)
        parameter.set(0)

    def _request(self, request: Request) -> None:
        self.machine.request(request, self._scheduler.now)
        self.update(self._scheduler.now)


class A53Node(SimNode):
    """The A53's power management as a node of the network; and its disk, for csh's `ftp`."""

    def __init__(
        self,
        loop: Loop | Scheduler,
        config: PayloadConfig,
        clock: MissionClock,
        *,
        box: Box | None = None,
        files: FtpFiles | None = None,
        seed: int | None = None,
        version: int = 2,
    ) -> None:
        self.model = A53(config, scheduler_of(loop), box)
        super().__init__(
            loop,
            clock,
            name="A53",
            address=config.nodes.a53,
            table=self.model.table,
            period_s=config.period_s,
            update=self.model.update,
            seed=seed,
            version=version,
        )
        if files is not None:
            # The server runs on the A53: nobody answers while it sleeps.
            server = FtpServer(files, lambda: self.model.machine.is_running)
            self.node.stack.listen(FTP_PORT, server.serve)

    def close(self) -> None:
        """Stop, and leave no process of the box stopped."""
        super().close()
        self.model.close()
