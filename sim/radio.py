"""The radio node: keeps observations for downlink, so that they can be had while the A53 sleeps.

It mirrors the image ring of DIPP over the bus into a ring of its own (`sim.mirror`, `sim.store`)
and serves that to the ground exactly as DIPP serves its own: index on port 13, ring download and
the raw file on port 14. Source: dipp.md 14.
"""

from __future__ import annotations

from pathlib import Path

from csp.errors import DecodeError
from csp.loop import Loop
from csp.param.spec import ParamSpec
from csp.param.table import Parameter, ParamTable
from csp.param.types import Mask, ParamType
from csp.sched import Scheduler
from csp.vmem.wire import RequestKind
from dipp.batch import split_blocks
from dipp.errors import DippError
from dipp.index import INDEX_PORT, IndexService
from dipp.ringarea import RingArea, RingService
from sim.clock import MissionClock
from sim.figures import PayloadConfig
from sim.mirror import Mirror
from sim.ringsource import BusRing
from sim.simnode import SimNode
from sim.store import ObservationStore

_R, _C, _T = Mask.READONLY, Mask.CONF, Mask.READONLY | Mask.TELEM
_ERRORS = _T | Mask.ERRCNT
_U8, _U32, _U64 = ParamType.U8, ParamType.U32, ParamType.U64

SPECS = (
    ParamSpec(id=1, name="obs_count", type=_U32, mask=_T, help="Observations in the store"),
    ParamSpec(id=2, name="obs_stored_bytes", type=_U64, mask=_T, unit="B", help="Their size"),
    ParamSpec(
        id=3, name="obs_newest", type=ParamType.I32, mask=_T,
        help="Observation id of the newest one. -1 = none",
        default=-1,
    ),
    ParamSpec(id=4, name="obs_newest_time", type=_U32, mask=_T, unit="s", help="Its time stamp"),
    ParamSpec(id=5, name="obs_free_bytes", type=_U64, mask=_T, unit="B", help="Room left"),
    ParamSpec(
        id=6, name="obs_evicted", type=_U32, mask=_T, help="Oldest ones dropped to make room",
    ),
    ParamSpec(
        id=7, name="drop_policy", type=_U8, mask=_C,
        help="When full: 0 = the oldest go, 1 = nothing new is taken",
    ),
    ParamSpec(id=10, name="mirror_enabled", type=_U8, mask=_C, default=1, help="0 = do not copy"),
    ParamSpec(
        id=11, name="mirror_state", type=_U8, mask=_T,
        help="0 DIPP is away, 1 up to date, 2 copying, 3 store full, 4 switched off, 5 disk fault",
    ),
    ParamSpec(id=12, name="mirror_waiting", type=_U32, mask=_T, help="Still to be copied"),
    ParamSpec(id=13, name="mirror_copied", type=_U32, mask=_T, help="Copied since start"),
    ParamSpec(id=14, name="mirror_bytes", type=_U64, mask=_T, unit="B", help="Copied since start"),
    ParamSpec(
        id=15, name="mirror_missed", type=_U32, mask=_ERRORS,
        help="Went from the DIPP ring before they could be copied",
    ),
    ParamSpec(
        id=16, name="mirror_duplicates", type=_U32, mask=_T,
        help="Left out because the store had them, after DIPP came back with another ring",
    ),
    ParamSpec(id=17, name="mirror_broken", type=_U32, mask=_ERRORS, help="Left out: not images"),
    ParamSpec(id=18, name="mirror_faults", type=_U32, mask=_ERRORS, help="DIPP did not answer"),
    ParamSpec(id=19, name="mirror_resyncs", type=_U32, mask=_ERRORS, help="DIPP had another ring"),
    ParamSpec(
        id=20, name="store_resets", type=_U8, mask=_ERRORS,
        help="1 if a damaged store was put aside at boot",
    ),
    ParamSpec(id=21, name="store_faults", type=_U32, mask=_ERRORS, help="Failed writes to disk"),
)  # fmt: skip


class RadioNode(SimNode):
    """The observation store as a node of the network; its files are in `directory`.

    `durable` False leaves out the syncs, for tests and rehearsals. Raises OSError, or DippError if
    the store there has another size.
    """

    def __init__(
        self,
        loop: Loop | Scheduler,
        config: PayloadConfig,
        clock: MissionClock,
        *,
        directory: Path,
        seed: int | None = None,
        version: int = 2,
        durable: bool = True,
    ) -> None:
        figures = config.radio
        self.store = ObservationStore(directory, figures.capacity_bytes, durable=durable)
        area = RingArea(self.store.ring)
        super().__init__(
            loop,
            clock,
            name="RADIO",
            address=config.nodes.radio,
            table=ParamTable(SPECS),
            period_s=config.period_s,
            update=self._update,
            areas=[area],
            seed=seed,
            version=version,
        )
        stack = self.node.stack
        # Download only: what is stored here comes from DIPP.
        ring = RingService(self.store.ring, self.scheduler, lambda error: None)
        self.node.vmem.register(RequestKind.RING_DOWNLOAD, ring.download)
        stack.listen(INDEX_PORT, IndexService(self.store.ring).serve)
        self.mirror = Mirror(
            self.scheduler,
            BusRing(stack, config.nodes.dipp, figures.timeout_s, figures.dipp_ring_entries),
            self.store,
            figures.poll_s,
            self._check,
        )
        self.table["store_resets"].set(int(self.store.was_damaged))
        self.table.on_write("mirror_enabled", self._enable)
        self.table.on_write("drop_policy", self._choose_policy)

    def close(self) -> None:
        """Stop copying, leave the network, close the store. Harmless if done twice."""
        self.mirror.stop()
        super().close()
        self.store.close()

    def _check(self, element: bytes) -> None:
        """Raise DecodeError unless the bytes are one image that the store can hold."""
        if len(element) >= self.store.ring.geometry.data_bytes:
            raise DecodeError("observation bigger than the store", actual=len(element))
        try:
            split_blocks(element, 1, len(element))
        except DippError as error:
            raise DecodeError(f"not an image: {error}") from None

    def _update(self, now: float) -> None:
        store, counters = self.store, self.mirror.counters
        newest = store.newest()
        values = {
            "obs_count": store.ring.count,
            "obs_stored_bytes": store.ring.used_bytes,
            "obs_newest": -1 if newest is None else newest.obid,
            "obs_newest_time": 0 if newest is None else newest.timestamp & 0xFFFFFFFF,
            "obs_free_bytes": store.free_bytes,
            "obs_evicted": store.evicted,
            "mirror_state": int(self.mirror.state),
            "mirror_waiting": counters.waiting,
            "mirror_copied": counters.copied,
            "mirror_bytes": counters.copied_bytes,
            "mirror_missed": counters.missed,
            "mirror_duplicates": counters.duplicates,
            "mirror_broken": counters.broken,
            "mirror_faults": counters.faults,
            "mirror_resyncs": counters.resyncs,
            "store_faults": counters.store_faults,
        }
        for name, value in values.items():
            self.table[name].set(value)

    def _enable(self, parameter: Parameter, _: int) -> None:
        self.mirror.enabled = bool(parameter.get())

    def _choose_policy(self, parameter: Parameter, _: int) -> None:
        self.store.keep_oldest = bool(parameter.get())
