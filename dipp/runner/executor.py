"""Runs batches through chains in the process tree, from the node's point of view.

Driver; the only file of this package that the node uses. `submit` never raises and its promise
never fails: every batch ends as `Completed` or `Failed`, every wait has a deadline, and nothing
that was started survives `close`. Source: design.md 2, dipp.md 10 and 12.
"""

from __future__ import annotations

import logging
from collections import deque

from csp.loop import Loop
from csp.sched import Promise, Timeout
from dipp.errors import Code, ContentError
from dipp.runner.channel import Channel, close_fds
from dipp.runner.forgehandle import ForgeHandle, start_forge
from dipp.runner.frames import (
    MAX_STEPS,
    ForgeReady,
    HostExited,
    HostRefused,
    HostSpawned,
    SpawnHost,
)
from dipp.runner.limits import ExecutorStats, Limits, usual_workers
from dipp.runner.outcome import Assignment, Completed, Failed, Job, Outcome, assign, collect_images
from dipp.runner.values import Chain, CrashRecord, ModuleStep, StageStats
from dipp.runner.wire import FrameError
from dipp.sandbox import rungs
from dipp.supervisor.driver import HostDriver
from dipp.supervisor.policy import RestartIntensity
from dipp.supervisor.table import Event, State

__all__ = [
    "Chain",
    "Completed",
    "CrashRecord",
    "Executor",
    "ExecutorStats",
    "Failed",
    "ForgeHandle",
    "Job",
    "Limits",
    "ModuleStep",
    "Outcome",
    "StageStats",
    "start_forge",
    "usual_workers",
]

_LOG = logging.getLogger("dipp.runner")
_CLOSE_DEADLINE_S = 10.0
# How long to wait before a forge that could not be started is tried again.
_FORGE_RETRY_S = 1.0


class Executor:
    """Owns forge and hosts. Batches of one pipeline are begun in order, pipelines run side by side.

    Up to `workers` batches of a pipeline run at a time, each in a host of its own; then they end in
    the order in which they are done. A batch under a new configuration waits for those under the
    old one.
    """

    def __init__(self, loop: Loop, forge: ForgeHandle, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.workers = self.limits.workers
        self.stats = ExecutorStats()
        self._loop = loop
        self._forge = forge
        self._intensity = RestartIntensity()
        self._hosts: dict[int, HostDriver] = {}
        self._queue: deque[Assignment] = deque()
        self._next_number = 1
        self._is_closing = False
        self._forge_is_lost = False
        # The device whose files keep their size, 0 if there is none.
        self.arena_device = 0
        self._all_gone: Promise[None] | None = None
        loop.add_reader(forge.channel.fileno(), self._on_forge)

    # -- what the node asks

    def submit(self, job: Job) -> Promise[Outcome]:
        """Run a batch; the outcome must be closed by whoever takes it."""
        promise: Promise[Outcome] = Promise()
        promise.on_done(lambda: self._count(promise.result()))
        problem = _problem(job)
        if problem is None:
            try:
                assignment = assign(job, promise, self._loop.scheduler.call_soon)
            except OSError as error:
                problem = (Code.SHM_ATTACH, f"input segment: {error}")
        if problem is not None:
            promise.resolve(_failure(job, *problem))
        elif not job.chain.steps:
            self._pass_through(assignment)
        else:
            self._queue.append(assignment)
            self._pump_soon()
        return promise

    def warm(self, chain: Chain) -> None:
        """Load a chain ahead of its first batch, if there is room for it."""
        if chain.steps and not self._usable(chain) and len(self._hosts) < self.limits.max_hosts:
            self._retire_others(chain)
            self._start(chain, None)

    def alert(self, pipeline_id: int, segment_fd: int = -1) -> None:
        """Say that a batch of that pipeline comes soon: a host at rest gets ready meanwhile.

        If its segment is known already, the child of the first module gets it.
        """
        for host in self._hosts.values():
            if host.chain.pipeline_id == pipeline_id and host.is_prepared and host.is_idle:
                host.alert(segment_fd)
                return

    def retire(self, pipeline_id: int | None = None) -> None:
        """Drop what is loaded of a pipeline or of all; a running batch ends on the old version."""
        for host in list(self._hosts.values()):
            if pipeline_id in (None, host.chain.pipeline_id):
                host.retire()

    def stop_current(self) -> int:
        """End the running batches with 606; return how many there were. Waiting ones go on."""
        busy = [host for host in self._hosts.values() if host.job is not None]
        for host in busy:
            host.handle(Event.STOP)
        return len(busy)

    def rearm(self) -> None:
        """Try again after the forge has died too often."""
        self._intensity.rearm()
        self._restart_forge()
        self._pump_soon()

    @property
    def hosts_alive(self) -> int:
        """How many hosts there are, loading and ending ones included."""
        return len(self._hosts)

    def count_hosts(self, pipeline_id: int | None = None) -> int:
        """Return how many of them belong to a pipeline; None means all."""
        return sum(pipeline_id in (None, h.chain.pipeline_id) for h in self._hosts.values())

    @property
    def standby_children(self) -> int:
        """How many children stand by, as the hosts said when they had nothing left to prepare."""
        return sum(host.standby for host in self._hosts.values())

    @property
    def is_prepared(self) -> bool:
        """True if every host is idle and has all the children ready that it keeps."""
        return all(host.is_prepared for host in self._hosts.values())

    @property
    def forge_pid(self) -> int:
        """Process number of the forge."""
        return self._forge.pid

    @property
    def current(self) -> tuple[tuple[int, int], ...]:
        """What runs now: (pipeline id, module position) per busy host."""
        return tuple(
            (host.chain.pipeline_id, host.position)
            for host in self._hosts.values()
            if host.job is not None
        )

    async def close(self) -> None:
        """End everything; batches that are not done fail with 606."""
        self._is_closing = True
        while self._queue:
            self._queue.popleft().fail(CrashRecord(code=Code.OPERATOR_STOP))
        for host in list(self._hosts.values()):
            host.handle(Event.STOP)
            host.retire()
        gone: Promise[None] = Promise()
        self._all_gone = gone
        self._check_gone()
        try:
            await self._loop.scheduler.wait_for(gone, _CLOSE_DEADLINE_S)
        except Timeout:
            self._forge.kill()
        self._drop_forge()

    # -- queue and hosts

    def _pump_soon(self) -> None:
        self._loop.scheduler.call_soon(self._pump)

    def _pump(self) -> None:
        """Give waiting batches to hosts; per pipeline the first comes first."""
        waiting, self._queue = self._queue, deque()
        blocked: set[int] = set()
        while waiting:
            job = waiting.popleft()
            pipeline_id = job.chain.pipeline_id
            if pipeline_id in blocked or not self._place(job):
                blocked.add(pipeline_id)
                self._queue.append(job)

    def _place(self, job: Assignment) -> bool:
        """Find or make a host for a batch. Return False if it has to wait."""
        if self._intensity.gave_up:
            text = "the forge died too often; see module_rearm"
            job.fail(CrashRecord(code=Code.HOST_DIED, batch_id=job.batch_id, last_log=text))
            return True
        hosts = self._usable(job.chain)
        for host in hosts:
            if host.is_idle:
                host.assign(job)
                return True
        for host in hosts:
            if host.job is None and host.state in (State.SPAWNING, State.LOADING):
                host.job = job
                return True
        if len(hosts) >= max(1, self.workers):
            return False
        if any(
            other.chain.pipeline_id == job.chain.pipeline_id
            and other.chain != job.chain
            and other.job is not None
            for other in self._hosts.values()
        ):
            # The old version still works on an earlier batch, which must be answered first.
            self._retire_others(job.chain)
            return False
        self._retire_others(job.chain)
        if not self._make_room():
            return False
        self._start(job.chain, job)
        return True

    def _usable(self, chain: Chain) -> list[HostDriver]:
        usable = (State.SPAWNING, State.LOADING, State.READY, State.RUNNING)
        return [
            host
            for host in self._hosts.values()
            if host.chain == chain and host.state in usable and not host.is_retired
        ]

    def _retire_others(self, chain: Chain) -> None:
        for host in list(self._hosts.values()):
            if host.chain.pipeline_id == chain.pipeline_id and host.chain != chain:
                host.retire()

    def _make_room(self) -> bool:
        """Retire the host that was idle longest, if there is no room for one more."""
        used_mb = sum(host.rss_kb for host in self._hosts.values()) // 1024
        has_room = (
            len(self._hosts) < self.limits.max_hosts and used_mb <= self.limits.host_memory_mb
        )
        if has_room or not self._hosts:
            return True
        if any(host.is_retired for host in self._hosts.values()):
            # One is on its way out already.
            return False
        idle = [host for host in self._hosts.values() if host.is_idle]
        if idle:
            min(idle, key=lambda host: host.last_used).retire()
        return False

    def _start(self, chain: Chain, job: Assignment | None) -> None:
        number, self._next_number = self._next_number, self._next_number + 1
        host = HostDriver(number, chain, self.limits.policy(), self._loop, self, self.limits)
        self._hosts[number] = host
        self.stats.hosts_started += 1
        host.start(job)

    def _pass_through(self, job: Assignment) -> None:
        """Answer a chain without modules: the images as they came."""
        try:
            job.complete(collect_images(job, job.images, ()))
        except (ContentError, OSError) as error:
            job.fail(CrashRecord(code=Code.BATCH_INVALID, last_log=str(error)))

    def _count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Completed):
            self.stats.completed += 1
        else:
            self.stats.failed += 1
        self.stats.orphans += sum(stage.orphans for stage in outcome.stages)
        self.stats.leaked_segments += sum(stage.leaked_segments for stage in outcome.stages)

    # -- what a host asks (driver.Owner)

    def ask_forge(self, host: HostDriver, control: Channel) -> None:
        """Ask for a process. Raises OSError."""
        self._forge.send(SpawnHost(host=host.number), [control.fileno()])

    def blame_forge(self) -> None:
        """Kill a forge that does not answer; its end is noticed like any other."""
        self._forge.kill()

    def host_changed(self, host: HostDriver) -> None:
        """Note what became of a host and give waiting batches another chance."""
        if host.missing_rungs is not None:
            self._note_missing(host.missing_rungs)
        if host.fault_text:
            self.stats.last_fault = host.fault_text
        if host.state is State.GONE:
            self._hosts.pop(host.number, None)
            self._check_gone()
        self._pump_soon()

    def _note_missing(self, missing: tuple[str, ...]) -> None:
        """Keep what a trial has found, and say it once."""
        off = [rungs.report(name, "switched off") for name in self.limits.skipped_rungs]
        missing = rungs.merge(off, missing)
        if missing != self.stats.missing_rungs:
            self.stats.missing_rungs = missing
            _LOG.info("modules are contained without %s", "; ".join(missing) or "exception")

    def _check_gone(self) -> None:
        if self._all_gone is not None and not self._hosts:
            self._all_gone.resolve(None)

    # -- the forge

    def _on_forge(self) -> None:
        try:
            message = self._forge.receive()
        except BlockingIOError:
            return
        except FrameError:
            message = None
        if message is None:
            self._lose_forge()
            return
        report, fds = message
        host = self._hosts.get(getattr(report, "host", 0))
        if host is not None and isinstance(report, HostSpawned) and len(fds) == 1:
            host.spawned(fds[0])
            return
        close_fds(fds)
        if isinstance(report, ForgeReady):
            self._note_missing(report.missing_rungs)
            self.arena_device = report.device
        elif isinstance(report, HostExited):
            self.stats.orphans += report.orphans
            self.stats.hosts_lost += bool(report.signal)
            if host is not None:
                host.exited(report.signal)
        elif isinstance(report, HostRefused) and host is not None:
            host.refused(report.errno)

    def _lose_forge(self) -> None:
        self._forge.kill()
        self._drop_forge()
        self._forge_is_lost = True
        for host in list(self._hosts.values()):
            host.handle(Event.FORGE_LOST)
        if not self._is_closing and self._intensity.allow(self._loop.scheduler.now):
            self._restart_forge()

    def _restart_forge(self) -> None:
        """Start another forge, now or as soon as nothing is short of any more.

        Until then batches are refused like any that no host can be had for.
        """
        if self._is_closing or not self._forge_is_lost:
            return
        try:
            self._forge = self._forge.restart()
        except OSError as error:
            self.stats.last_fault = f"no forge could be started: {error}"
            self._loop.scheduler.call_later(_FORGE_RETRY_S, self._restart_forge)
            return
        self.stats.forge_restarts += 1
        self._forge_is_lost = False
        self._loop.add_reader(self._forge.channel.fileno(), self._on_forge)

    def _drop_forge(self) -> None:
        if not self._forge_is_lost:
            self._loop.remove_reader(self._forge.channel.fileno())
        self._forge.close()


def _problem(job: Job) -> tuple[Code, str] | None:
    if not job.blocks:
        return Code.BATCH_INVALID, "a batch without images"
    if len(job.chain.steps) > MAX_STEPS:
        return Code.CONFIG_INVALID, f"{len(job.chain.steps)} modules, at most {MAX_STEPS}"
    if any(not step.timeout_s > 0 for step in job.chain.steps):
        return Code.CONFIG_INVALID, "a module without a positive timeout"
    return None


def _failure(job: Job, code: Code, reason: str) -> Failed:
    crash = CrashRecord(
        code=code, pipeline=job.chain.pipeline_id, batch_id=job.batch_id, last_log=reason
    )
    return Failed(code=code, module_index=0, crash=crash)
