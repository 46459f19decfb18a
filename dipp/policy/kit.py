"""Everything of this package that a node has, put together. Composition, called by the node."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from csp.files.store import FileStore
from csp.param.table import Parameter, ParamTable
from csp.sched import Scheduler
from dipp.errors import ContentError
from dipp.journal import Journal
from dipp.modulefiles import ModuleFile, ModuleLibrary, Uplinked
from dipp.params import Telemetry
from dipp.policy.guard import Guard
from dipp.policy.raw import RawFallback, thumbnail_chain
from dipp.policy.replay import Replays
from dipp.policy.rollback import Trialist
from dipp.policy.settings import MODULE_REARM, REARM_ALL, Settings
from dipp.policy.standings import StandingsFile
from dipp.quarantine import Quarantine
from dipp.results import Note, Runner
from dipp.ring import Ring
from dipp.runner.values import ModuleStep
from dipp.slots import Slots
from dipp.state import StateDir


class OtherVersions:
    """The versions of modules besides those in use: replaced ones first, then shipped ones."""

    def __init__(self, previous: Uplinked, shipped: Sequence[Path]) -> None:
        self._libraries = [ModuleLibrary([], previous), ModuleLibrary(shipped)]

    def __call__(self, step: ModuleStep) -> list[ModuleFile]:
        """Return them, best first."""
        found = []
        for library in self._libraries:
            try:
                found.append(library.find(step.name))
            except ContentError:
                continue
        return found


class PolicyKit:
    """Guard, trials, thumbnails and replays of a node."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        table: ParamTable,
        telemetry: Telemetry,
        state: StateDir,
        shipped: Sequence[Path],
        check: Callable[[str, bytes], None],
        slots: Slots,
        runner: Runner,
        journal: Journal,
        quarantine: Quarantine,
        ring: Ring,
        log_status: Callable[[int], None],
        note: Note,
        rearm_runner: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._rearm_runner = rearm_runner
        self._table = table
        self._journal = journal
        self._quarantine = quarantine
        self.settings = Settings(table)
        self.trials = Trialist(
            state.path / "trials", state.active_modules, self.settings,
            telemetry=telemetry, note=note,
        )  # fmt: skip
        # A replaced version was uplinked too: it runs only if its signature still counts.
        previous = Uplinked(directory=state.modules / "previous", check=check)
        self.guard = Guard(
            scheduler, runner, slots, self.settings,
            telemetry=telemetry, log_status=log_status, note=note,
            alternatives=OtherVersions(previous, shipped),
            trialist=self.trials,
            memory=StandingsFile(state.path / "standings", telemetry),
        )  # fmt: skip
        library = ModuleLibrary(shipped)
        self.raw = RawFallback(
            scheduler, journal=journal, quarantine=quarantine, ring=ring, runner=runner,
            chain=lambda: thumbnail_chain(library), settings=self.settings, telemetry=telemetry,
            note=note,
        )  # fmt: skip
        self.replays: Replays | None = None
        table.on_write(MODULE_REARM, self._on_rearm)

    def start(
        self,
        store: FileStore,
        process: Callable[[int], Coroutine[Any, Any, None]],
        holds_message: Callable[[], bool],
    ) -> None:
        """Begin, once the file store is open and batches can be processed."""
        self.trials.attach(store)
        # What failed before the last stop may be another version by now.
        self.guard.files_changed()
        self.replays = Replays(
            self._scheduler, self._table, journal=self._journal, quarantine=self._quarantine,
            process=process, holds_message=holds_message,
        )  # fmt: skip

    def publish(self) -> None:
        """Show what has changed."""
        if self.replays is not None:
            self.replays.publish()

    def abandon(self) -> None:
        """Stop what is under way."""
        if self.replays is not None:
            self.replays.abandon()

    def _on_rearm(self, parameter: Parameter, index: int) -> None:
        pipeline = int(parameter.get())
        parameter.set(0)
        if pipeline:
            self.guard.rearm(None if pipeline == REARM_ALL else pipeline)
        if pipeline == REARM_ALL:
            self._rearm_runner()
