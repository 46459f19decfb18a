"""Carry out the table's actions for one host: frames, descriptors, timers.

Driver; runs in the node on its event loop. It decides nothing: it turns frames, deadlines and
reports into events, looks the row up and does what it says. No method raises on what a host does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, Protocol

from csp.loop import Loop
from csp.sched import Timer
from dipp.errors import Code, ContentError
from dipp.runner.channel import Channel, close_fds, expect_fds
from dipp.runner.frames import (
    Alert,
    BatchDone,
    BatchFailed,
    BatchReleased,
    ChainLoaded,
    HostFault,
    LoadChain,
    LoadFailed,
    LoadingModule,
    PoolFilled,
    Quit,
    RunBatch,
)
from dipp.runner.outcome import Assignment, collect_images
from dipp.runner.progress import ProgressPage
from dipp.runner.stage import module_hash
from dipp.runner.values import Chain, CrashRecord, Policy
from dipp.runner.wire import FrameError
from dipp.supervisor.table import TABLE, Action, Event, State

Report = LoadingModule | ChainLoaded | LoadFailed | BatchDone | BatchFailed | HostFault | PoolFilled
_REPORTS: tuple[type[Report], ...] = (
    LoadingModule,
    ChainLoaded,
    LoadFailed,
    BatchDone,
    BatchFailed,
    HostFault,
    PoolFilled,
)
# Frames taken per wake-up, so that a host that talks without end cannot starve the node.
_FRAMES_PER_WAKE = 32


class Owner(Protocol):
    """What a host needs from the executor."""

    def ask_forge(self, host: HostDriver, control: Channel) -> None:
        """Ask for a process. Raises OSError."""

    # The device whose files nobody can shorten, 0 if there is none.
    arena_device: int

    def blame_forge(self) -> None:
        """The forge does not do its duty."""

    def host_changed(self, host: HostDriver) -> None:
        """The host became idle or is gone."""


class Deadlines(Protocol):
    """How long a host may stay in a state, in seconds."""

    @property
    def spawn_timeout_s(self) -> float:
        """Until the forge has answered; it may still be importing."""

    @property
    def load_timeout_s(self) -> float:
        """Until all modules are loaded."""

    @property
    def grace_s(self) -> float:
        """Beyond what the modules may take, and to end when told to."""


class HostDriver:
    """One host, from the wish for it to its burial."""

    def __init__(
        self, number: int, chain: Chain, policy: Policy, loop: Loop, owner: Owner, limits: Deadlines
    ) -> None:
        self.number = number
        self.chain = chain
        self.state = State.NEW
        self.job: Assignment | None = None
        self.is_retired = False
        self.last_used = loop.scheduler.now
        self.rss_kb = 0
        self.missing_rungs: tuple[str, ...] | None = None
        self.fault_text = ""
        self._policy = policy
        self._loop = loop
        self._owner = owner
        self._limits = limits
        self.standby = 0
        self.is_prepared = False
        self._control: Channel | None = None
        self._progress: ProgressPage | None = None
        self._pidfd = -1
        self._timer: Timer | None = None
        self._code: int = Code.OK
        self._position = 0
        self._crash: CrashRecord | None = None
        self._reason = ""

    @property
    def is_idle(self) -> bool:
        """True if it can take a batch now."""
        return self.state is State.READY and not self.is_retired

    @property
    def position(self) -> int:
        """The module that runs, as the host says; 0 for none."""
        return self._progress.position if self._progress else 0

    def start(self, job: Assignment | None = None) -> None:
        """Begin its life, for a batch or to be warm."""
        self.job = job
        self.handle(Event.START)

    def assign(self, job: Assignment) -> None:
        """Run a batch. The host must be idle."""
        self.job = job
        self.handle(Event.BATCH)

    def retire(self) -> None:
        """Let it end as soon as it has nothing to do."""
        self.is_retired = True
        self.handle(Event.RETIRE)

    def spawned(self, pidfd: int) -> None:
        """Take the descriptor of the process."""
        if self.state is not State.SPAWNING:
            close_fds([pidfd])
            return
        self._pidfd = pidfd
        self.handle(Event.SPAWNED)

    def refused(self, number: int) -> None:
        """Take the news that the forge could not start it, for this errno."""
        self._reason = f"no process for a host: {os.strerror(number)}"
        self.handle(Event.REFUSED)

    def exited(self, signal_number: int) -> None:
        """Take the news of its end: the signal it died of, 0 for none."""
        was_killed = self.state is State.LOADING and signal_number == signal.SIGKILL
        self.handle(Event.EXITED, Code.LOAD_KILLED if was_killed else Code.OK)

    # -- the table

    def handle(self, event: Event, code: int = Code.OK) -> None:
        """Look an event up and do what its row says. `code` is more exact than the row's."""
        before, row = self.state, TABLE[self.state, event]
        self.state = row.state
        self._code = self._code or code or row.code
        if self.state is not before:
            self._arm()
        for action in row.actions:
            self._ACTIONS[action](self)
        if self.state is State.READY and before is not State.READY:
            self._become_ready()

    def _become_ready(self) -> None:
        self.last_used = self._loop.scheduler.now
        if self.job is not None:
            self.handle(Event.BATCH)
        elif self.is_retired:
            self.handle(Event.RETIRE)
        else:
            self._owner.host_changed(self)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        limits = self._limits
        stage_s = sum(step.timeout_s + limits.grace_s / 4 for step in self.chain.steps)
        seconds = {
            State.SPAWNING: limits.spawn_timeout_s,
            State.LOADING: limits.load_timeout_s,
            State.RUNNING: stage_s + limits.grace_s,
            State.QUITTING: limits.grace_s,
            State.KILLING: limits.grace_s,
        }.get(self.state)
        if seconds is None:
            self._timer = None
        else:
            self._timer = self._loop.scheduler.call_later(
                seconds, lambda: self.handle(Event.DEADLINE)
            )

    # -- actions

    def _ask_forge(self) -> None:
        try:
            self._control, theirs = Channel.pair()
            with contextlib.closing(theirs):
                self._control.set_blocking(False)
                self._loop.add_reader(self._control.fileno(), self._on_control)
                self._progress = ProgressPage()
                self._owner.ask_forge(self, theirs)
        except OSError as error:
            self._reason = f"forge: {error}"
            self.handle(Event.REFUSED)

    def _send_chain(self) -> None:
        page = [self._progress.fd] if self._progress else []
        self._send(LoadChain(chain=self.chain, policy=self._policy), page)

    def _send_batch(self) -> None:
        if self.job is None:
            return
        self._code, self._position, self._crash = Code.OK, 0, None
        self.standby, self.is_prepared = 0, False
        if self._progress is not None:
            self._progress.show(0)
        order = RunBatch(
            batch_id=self.job.batch_id, images=self.job.images, sent_s=time.monotonic()
        )
        self._send(order, [self.job.segment_fd])

    def alert(self, segment_fd: int) -> None:
        """Tell a host at rest that a batch comes soon, with its segment if that is known."""
        if self.is_prepared and self.is_idle:
            fds = [segment_fd] if segment_fd >= 0 else []
            self._send(Alert(has_input=len(fds)), fds)

    def release(self, batch_id: int) -> None:
        """Let the host use the memory of a batch again."""
        if self.state in (State.READY, State.RUNNING):
            self._send(BatchReleased(batch_id=batch_id))

    def _send(
        self,
        frame: LoadChain | RunBatch | BatchReleased | Alert | Quit,
        fds: list[int] | None = None,
    ) -> None:
        try:
            if self._control is not None:
                self._control.send(frame, fds or [])
        except ConnectionError as error:
            self._reason = f"host: {error}"
            self.handle(Event.HUNG_UP)
        except (OSError, FrameError) as error:
            self._reason = f"host: {error}"
            self.handle(Event.BROKEN)

    def _fail(self) -> None:
        job, self.job = self.job, None
        if job is None:
            return
        crash = self._crash or CrashRecord(code=self._code, last_log=self._reason)
        position = self._position or self.position
        step = next((s for s in self.chain.steps if s.index == position), None)
        job.fail(
            replace(
                crash,
                code=self._code or Code.HOST_DIED,
                pipeline=self.chain.pipeline_id,
                module=step.index if step else 0,
                name=step.name if step else "",
                module_hash=module_hash(step.sha256) if step else b"",
                batch_id=job.batch_id,
            )
        )

    def _quit(self) -> None:
        self._send(Quit())

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _blame_forge(self) -> None:
        self._owner.blame_forge()

    def _bury(self) -> None:
        self._hang_up()
        close_fds([self._pidfd] if self._pidfd >= 0 else [])
        self._pidfd = -1
        self._owner.host_changed(self)

    def _hang_up(self) -> None:
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    _ACTIONS: ClassVar[Mapping[Action, Callable[[HostDriver], None]]] = {
        Action.ASK_FORGE: _ask_forge,
        Action.SEND_CHAIN: _send_chain,
        Action.SEND_BATCH: _send_batch,
        Action.FAIL: _fail,
        Action.QUIT: _quit,
        Action.KILL: _kill,
        Action.BLAME_FORGE: _blame_forge,
        Action.BURY: _bury,
    }

    # -- reports of the host

    def _on_control(self) -> None:
        for _ in range(_FRAMES_PER_WAKE):
            if self._control is None:
                return
            try:
                message = self._control.receive(_REPORTS)
            except BlockingIOError:
                return
            except ConnectionError:
                message = None
            except (FrameError, OSError) as error:
                self._reason = f"host: {error}"
                self.handle(Event.BROKEN)
                return
            if message is None:
                # It is dead or about to be; the forge will tell how.
                self._loop.remove_reader(self._control.fileno())
                self.handle(Event.HUNG_UP)
                return
            self._take(*message)

    def _take(self, report: Report, fds: list[int]) -> None:
        if isinstance(report, BatchDone):
            self._accept(report, fds)
            return
        close_fds(fds)
        if isinstance(report, LoadingModule):
            self._position = report.position
        elif isinstance(report, PoolFilled):
            self.standby, self.is_prepared = report.children, True
            self._owner.host_changed(self)
        elif isinstance(report, ChainLoaded):
            self.rss_kb, self.missing_rungs = report.rss_kb, report.missing_rungs
            self._position = 0
            self.handle(Event.LOADED)
        elif isinstance(report, LoadFailed):
            self._position, self._reason = report.position, report.reason
            self.handle(Event.LOAD_FAILED, report.code)
        elif isinstance(report, BatchFailed):
            self._blame(report)
        else:
            self.fault_text = self._reason = report.text
            self.handle(Event.BROKEN)

    def _accept(self, report: BatchDone, fds: list[int]) -> None:
        job = self.job
        if job is None or self.state is not State.RUNNING or report.batch_id != job.batch_id:
            close_fds(fds)
            self.handle(Event.BROKEN)
            return
        try:
            arenas = expect_fds(fds, report.arenas)
            completed = collect_images(
                job,
                report.images,
                arenas,
                report.stages,
                latency_s=report.latency_s,
                device=self._owner.arena_device,
                release=lambda: self.release(report.batch_id),
            )
        except (ContentError, OSError) as error:
            self._reason = str(error)
            self.handle(Event.BROKEN, Code.RESULT_INVALID)
            return
        self.rss_kb = report.rss_kb
        self.job = None
        job.complete(completed)
        self.handle(Event.DONE)

    def _blame(self, report: BatchFailed) -> None:
        if self.job is None or report.batch_id != self.job.batch_id:
            self.handle(Event.BROKEN)
            return
        try:
            self._crash = CrashRecord.decode(report.crash)
        except ContentError as error:
            self._reason = str(error)
            self.handle(Event.BROKEN, Code.RESULT_INVALID)
            return
        self._position = self._crash.module
        self.job.stages, self.job.log = report.stages, report.log
        self.handle(Event.MODULE_FAILED, self._crash.code)
