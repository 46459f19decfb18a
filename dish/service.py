"""Run procedures out of the store and answer operators: what the node does besides its parts.

Theory of operation: RUN links the call graph from the store's present contents, so later changes
of the store do not matter to the run, and hands it to the supervisor. Every end of a run becomes an
`Outcome` and from there the `proc_*` parameters. The service owns no socket, file or process.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

from csp.param.table import Parameter, ParamTable
from csp.param.types import Value
from dish.board import RunState
from dish.effects import Settings
from dish.errors import DishError, LinkError, Ret, StoreError
from dish.frames import Command
from dish.heap import Heap
from dish.link import CallGraph, link
from dish.outcome import Outcome
from dish.params import EVERY_RUN, NO_SLOT, RUN_ROWS, clip
from dish.power.admission import Admission, Policy, PowerShort
from dish.power.deferred import Deferred, Queue
from dish.power.forecast import LoadProfile
from dish.profile import Profile
from dish.records import RunCounters, RunView
from dish.request import ENGINES, RunRequest
from dish.server import ProcedureServer
from dish.status import RunLine, Status, Verb, encode_status
from dish.store import Store
from dish.values import Mode

MODES = (Mode.STRICT, Mode.FLIGHT)
# Enough for an operator who looks once per pass.
OUTCOMES_KEPT = 32

_COMMANDS: dict[Verb, Command] = {
    Verb.STOP: Command.STOP,
    Verb.PAUSE: Command.PAUSE,
    Verb.RESUME: Command.RESUME,
    Verb.STEP: Command.STEP,
}
_COMMAND_PARAMS: dict[str, Command] = {
    "proc_stop": Command.STOP,
    "proc_pause": Command.PAUSE,
    "proc_resume": Command.RESUME,
    "proc_step": Command.STEP,
}


class Supervisor(Protocol):
    """What the service needs of `runs.Runs`."""

    counters: RunCounters

    def __len__(self) -> int:
        """How many procedures are running."""

    def views(self) -> list[RunView]:
        """The running procedures, oldest first."""

    def start(self, request: RunRequest) -> int:
        """Start a run; raises DishError if there is no room."""

    def command(self, command: Command, root: int | None = None) -> int:
        """Tell runs what to do; return how many there are."""


class ProcedureService:
    """The procedure side of a node. `runs` is set before the first request arrives."""

    runs: Supervisor

    def __init__(
        self,
        table: ParamTable,
        store: Store,
        heap: Heap,
        *,
        own_nodes: Callable[[], frozenset[int]],
        power: Admission,
        clock: Callable[[], float],
    ) -> None:
        self.table = table
        self.store = store
        self.heap = heap
        self.server = ProcedureServer(store, self.run, self.control)
        self.power = power
        self.deferred = Queue(clock)
        self.outcomes: deque[Outcome] = deque(maxlen=OUTCOMES_KEPT)
        self._own_nodes = own_nodes
        for name in _COMMAND_PARAMS:
            table.on_write(name, self._on_command)

    @property
    def profile(self) -> Profile:
        """The limits of this node."""
        return self.store.profile

    # -- requests

    def answer(self, data: bytes, *, has_crc: bool) -> list[bytes]:
        """Answer a packet of port 14 that is for procedures."""
        errors = self.server.counters.errors
        replies = self.server.answer(data, has_crc=has_crc)
        if self.server.counters.errors != errors:
            self._set("proc_refused", self.server.counters.errors)
            self._set("proc_refusal", clip(self.server.last_error))
        self._set("proc_stored", len(self.store.occupied()))
        self.refresh()
        return replies

    def run(self, slot: int) -> None:
        """Start the procedure of a slot, or let it wait for the battery.

        Raises DishError if neither can be. A hole in the call graph is not a refusal but a run that
        failed at once (dish.md 4).
        """
        natives = self.store.natives
        if slot not in natives and self.store.fetch(slot) is None:
            raise StoreError(f"slot {slot} is empty")
        try:
            graph = link(slot, self.store.fetch, natives)
        except LinkError as error:
            self.runs.counters.started += 1
            self.runs.counters.failed += 1
            self.ended(
                Outcome(
                    run_id=0, root=slot, ret=Ret.ERROR, slot=error.slot, index=error.index,
                    executed=0, reason=str(error),
                )
            )  # fmt: skip
            return
        verdict = self.power.judge(graph)
        if verdict.is_admitted:
            self._start(graph, verdict.profile)
        elif self.power.policy is Policy.DEFER:
            self._defer(graph)
        else:
            refused = self.table["power_refused"].get()
            self._set("power_refused", (refused if isinstance(refused, int) else 0) + 1)
            raise PowerShort(verdict.reason)

    def _start(self, graph: CallGraph, profile: LoadProfile) -> None:
        needed = self.heap.admit_run(graph)
        run_id = self.runs.start(RunRequest(
            graph=graph, settings=self._settings(), row=0, engine=self._engine(),
            observed=frozenset(param.id for param in self.table if param.needs_owner),
        ))  # fmt: skip
        self.heap.begin_run(run_id, needed)
        self.power.begin(run_id, profile)
        self.refresh()

    def _defer(self, graph: CallGraph) -> None:
        if len(self.runs) + len(self.deferred) >= self.profile.max_runs:
            raise PowerShort(f"{self.profile.max_runs} are running or deferred")
        self.deferred.add(graph)
        self.refresh()

    def retry_deferred(self) -> None:
        """Start the next deferred plan if the battery can carry it by now.

        One plan per call: a forecast takes some milliseconds, and requests are waiting.
        """
        plan = self.deferred.next()
        verdict = self.power.judge(plan.graph) if plan is not None else None
        if plan is not None and verdict is not None and verdict.is_admitted:
            # No room for a run now is one more reason to wait.
            with contextlib.suppress(DishError):
                self._start(plan.graph, verdict.profile)
                self.deferred.remove(plan)
                self.refresh()

    def _cancel(self, plans: list[Deferred]) -> None:
        for plan in plans:
            self.ended(
                Outcome(
                    run_id=0, root=plan.root, ret=Ret.STOPPED, slot=plan.root, index=0,
                    executed=0, reason="while it was deferred",
                )
            )  # fmt: skip

    def command(self, command: Command, root: int | None) -> int:
        """Tell runs what to do; return how many there are. STOP ends deferred plans as well."""
        waiting = self.deferred.cancel(root) if command is Command.STOP else []
        self._cancel(waiting)
        return self.runs.command(command, root) + len(waiting)

    def control(self, verb: Verb, slot: int | None) -> bytes:
        """Carry out a CONTROL request and return the body of its answer."""
        if verb is Verb.STATUS:
            return encode_status(self.status())
        return bytes((self.command(_COMMANDS[verb], slot),))

    def status(self) -> Status:
        """Return the last outcome and what is running."""
        last = self.outcomes[-1] if self.outcomes else None
        return Status(
            last_root=last.root if last else 255,
            last_ret=last.ret if last else 0,
            last_slot=last.slot if last else 0,
            last_index=last.index if last else 0,
            runs=(*self._running_lines(), *self._deferred_lines())[: self.profile.max_runs],
        )

    def _running_lines(self) -> list[RunLine]:
        return [
            RunLine(
                root=view.root, state=view.line.state, slot=view.line.position.slot,
                index=view.line.position.index, depth=view.line.position.depth,
                executed=view.line.executed, age_s=int(view.age_s),
            )
            for view in self.runs.views()
        ]  # fmt: skip

    def _deferred_lines(self) -> list[RunLine]:
        return [
            RunLine(
                root=plan.root, state=RunState.DEFERRED, slot=plan.root, index=0, depth=0,
                executed=0, age_s=int(self.deferred.age_s(plan)),
            )
            for plan in self.deferred.plans()
        ]  # fmt: skip

    def _settings(self) -> Settings:
        profile = self.profile
        mode = self.table["proc_mode"].get()
        budget = self.table["proc_budget"].get()
        return Settings(
            mode=MODES[1 if mode == 1 else 0],
            own_nodes=self._own_nodes(),
            poll_s=profile.poll_s,
            block_timeout_s=profile.block_timeout_s,
            max_depth=profile.max_depth,
            budget=budget if isinstance(budget, int) else 0,
        )

    def _engine(self) -> str:
        return ENGINES[1 if self.table["proc_engine"].get() == 1 else 0]

    def _on_command(self, parameter: Parameter, _index: int) -> None:
        value = parameter.get()
        root = None if value == EVERY_RUN else value
        if root is None or isinstance(root, int):
            self.command(_COMMAND_PARAMS[parameter.name], root)

    # -- telemetry

    def ended(self, outcome: Outcome) -> None:
        """Publish the end of a run."""
        self.heap.end_run(outcome.run_id)
        self.power.end(outcome.run_id)
        self.outcomes.append(outcome)
        self._set("proc_last_slot", outcome.root)
        self._set("proc_last_ret", int(outcome.ret))
        self._set("proc_last_index", outcome.index)
        self._set("proc_last_at", outcome.slot)
        self._set("proc_last_error", clip(str(outcome)))
        self._set("proc_last_count", outcome.executed)
        self.refresh()

    def refresh(self) -> None:
        """Bring the parameters about running procedures up to date."""
        counters = self.runs.counters
        self._set("proc_running", len(self.runs))
        self.heap.set_stored(self.store.procedures())
        self._set("proc_heap_free", self.heap.free)
        self._set("proc_started", counters.started & 0xFFFF_FFFF)
        self._set("proc_completed", counters.completed & 0xFFFF_FFFF)
        self._set("proc_failed", counters.failed & 0xFFFF_FFFF)
        waiting = [plan.root for plan in self.deferred.plans()]
        self._set("power_deferred", len(waiting))
        for row in range(RUN_ROWS):
            self._set("power_deferred_slot", waiting[row] if row < len(waiting) else NO_SLOT, row)
        rows = {view.row: view for view in self.runs.views()}
        for row in range(RUN_ROWS):
            view = rows.get(row)
            line = view.line if view is not None else None
            self._set("proc_run_slot", view.root if view is not None else NO_SLOT, row)
            self._set("proc_run_state", int(line.state if line else RunState.FREE), row)
            self._set("proc_run_at", line.position.slot if line else 0, row)
            self._set("proc_run_index", line.position.index if line else 0, row)
            self._set("proc_run_count", line.executed & 0xFFFF_FFFF if line else 0, row)

    def _set(self, name: str, value: Value, index: int | None = None) -> None:
        self.table[name].set(value, index)


__all__ = ["MODES", "DishError", "ProcedureService", "Supervisor"]
