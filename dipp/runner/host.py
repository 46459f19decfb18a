"""The pipeline host: one loaded configuration of one pipeline, and the batches it runs.

Driver; a process forked by the forge. Module code is loaded here, so a module that crashes while
it is loaded takes this process with it and nothing else. The host is told what to do by the node
over its control socket and dies when that closes. While nothing is ordered it makes children ready
for the next batch. Source: design.md 2, performance.md 2.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from dipp.errors import ContentError
from dipp.runner.arena import IN_USE, ArenaPool, has_fixed_size
from dipp.runner.chain import ChainResult, ChainRunner
from dipp.runner.channel import Channel, close_fds, expect_fds
from dipp.runner.child import AWAKE_S, QUIET_S
from dipp.runner.frames import (
    REASON_LIMIT_BYTES,
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
from dipp.runner.hugefiles import can_be_opened_anew, make_files
from dipp.runner.loader import LoadedModule, load_module
from dipp.runner.nursery import Household
from dipp.runner.placement import Cpus, move_to
from dipp.runner.pool import Spawner, StandbyPool
from dipp.runner.progress import ProgressPage
from dipp.runner.rehearsal import Rehearsal
from dipp.runner.values import Policy, clip
from dipp.runner.wait import become_subreaper, spin_readable, wait_readable
from dipp.sandbox.cgroups import Cgroup
from dipp.sandbox.enclosure import enclose_host
from dipp.sandbox.gear import Gear, find_user, make_gear, paths_of, recount
from dipp.sandbox.limits import die_with
from dipp.sandbox.namespaces import separate_ipc
from dipp.sandbox.rungs import merge
from dipp.sandbox.trial import NO_NAMESPACES, try_ladder

_Order = RunBatch | BatchReleased | Alert | Quit
_ORDERS: tuple[type[_Order], ...] = (RunBatch, BatchReleased, Alert, Quit)
# Escaped text of one byte per character; fits the field of the frame.
LOG_LIMIT_CHARS = 2000
# Counting the threads of a user reads all of /proc: milliseconds, which not every batch shall pay.
_RECOUNT_S = 5.0


def host_main(
    control: Channel,
    huge_fd: int,
    scratch_root: str,
    parent_pid: int,
    cgroup: Cgroup | None,
    number: int,
) -> NoReturn:
    """Load the chain and run batches until told to quit. Never returns.

    `huge_fd` is what `mount_huge` gave; the host closes it.
    """
    status = 1
    try:
        os.setsid()
        die_with(parent_pid)
        become_subreaper()
        # Both or none: the forge decided for the process numbers.
        is_separate = parent_pid == 0 and separate_ipc()
        _Host(control, scratch_root, cgroup, is_separate, number).serve(huge_fd)
        status = 0
    except BaseException:  # boundary: a fault of the runner itself becomes a report
        with contextlib.suppress(OSError):
            control.send(HostFault(text=traceback.format_exc()[-8000:]))
    finally:
        os._exit(status)


class _Host:
    _arenas: ArenaPool
    _spawner: Spawner
    _pool: StandbyPool
    _runner: ChainRunner

    def __init__(
        self,
        control: Channel,
        scratch_root: str,
        cgroup: Cgroup | None,
        is_separate: bool,
        number: int,
    ) -> None:
        self._is_separate = is_separate
        self._cpus = Cpus.share(number)
        self._cgroup = cgroup
        self._gear = Gear()
        self._counted = 0.0
        self._awake_until = 0.0
        self._control = control
        self._scratch_root = scratch_root
        self._modules: list[LoadedModule] = []

    def serve(self, huge_fd: int) -> None:
        message = self._control.receive((LoadChain,))
        if message is None:
            return
        order, fds = message
        progress = ProgressPage(expect_fds(fds, 1)[0])
        self._make_arenas(order.policy, huge_fd)
        if not self._load(order):
            return
        household = Household(
            modules=self._modules,
            arenas=self._arenas,
            policy=order.policy,
            gear=self._gear,
            cpus=self._cpus,
        )
        self._spawner = Spawner(
            household, scratch_root=self._scratch_root, control_fd=self._control.fileno()
        )
        self._pool = StandbyPool(self._spawner)
        self._rehearsal = Rehearsal(self._arenas, self._spawner.forks)
        self._runner = ChainRunner(self._spawner, self._pool, progress.show)
        self._follow(order.policy, order.chain.pipeline_id)

    def _follow(self, policy: Policy, pipeline_id: int) -> None:
        is_coming = False
        while True:
            if not is_coming:
                self._make_ready()
            is_coming = False
            message = self._control.receive(_ORDERS)
            if message is None or isinstance(message[0], Quit):
                self._pool.close()
                self._spawner.close()
                return
            order, fds = message
            if isinstance(order, BatchReleased):
                close_fds(fds)
                self._arenas.release(order.batch_id)
                self._arenas.trim()
                continue
            if isinstance(order, Alert):
                is_coming = self._wake(fds)
            if isinstance(order, RunBatch):
                self._recount(policy)
                self._run(pipeline_id, order, expect_fds(fds, 1)[0])

    def _make_ready(self) -> None:
        """Fork children until an order comes."""
        while True:
            self._runner.bury_dead()
            is_filling = self._pool.fill_one()
            children = None if is_filling else self._pool.newly_full()
            if children is not None:
                if children and not wait_readable(self._control.fileno(), QUIET_S):
                    self._rehearse(self._rehearsal.run_first)
                    move_to(self._cpus.home)
                self._control.send(PoolFilled(children=children))
            poller = select.poll()
            for fd in (self._control.fileno(), *self._pool.fds(), *self._runner.left_fds):
                poller.register(fd, select.POLLIN)
            wait_s = 0 if is_filling else self._pool.wait_s()
            ready = {fd for fd, _ in poller.poll(None if wait_s is None else wait_s * 1000 + 1)}
            self._pool.notice(ready)
            if self._control.fileno() in ready:
                return

    def _rehearse(self, run: Callable[[], None]) -> None:
        # Short of something: the next batch is a little slower.
        with contextlib.suppress(OSError):
            run()

    def _wake(self, fds: list[int]) -> bool:
        """Have everything in the caches for the order that comes next, and stay awake for it.

        Return whether it has come.
        """
        self._runner.announce(*fds[:1])
        close_fds(fds)
        if time.monotonic() > self._awake_until:
            self._rehearse(self._rehearsal.run)
        self._awake_until = time.monotonic() + AWAKE_S
        return spin_readable(self._control.fileno(), self._awake_until)

    def _recount(self, policy: Policy) -> None:
        if time.monotonic() - self._counted > _RECOUNT_S:
            self._spawner.gear = recount(self._spawner.gear, policy)
            self._counted = time.monotonic()

    def _make_arenas(self, policy: Policy, huge_fd: int) -> None:
        """Make the memory of batches, while nothing foreign is in this process."""
        files: list[int] = []
        if huge_fd >= 0:
            if policy.huge_pages:
                files = make_files(huge_fd, IN_USE, policy.arena_bytes)
            os.close(huge_fd)
        self._arenas = ArenaPool(policy.arena_bytes, policy.keep_bytes, files)

    def _check_arenas(self, policy: Policy) -> None:
        """Take other ones if a module could shorten these, because nothing encloses this process.

        Raises OSError.
        """
        fd = self._arenas.scratch_fd
        if not has_fixed_size(fd) and can_be_opened_anew(fd):
            self._arenas.close()
            self._arenas = ArenaPool(policy.arena_bytes, policy.keep_bytes)

    def _load(self, order: LoadChain) -> bool:
        missing = self._enclose(order)
        self._check_arenas(order.policy)
        for step in order.chain.steps:
            self._control.send(LoadingModule(position=step.index))
            try:
                self._modules.append(load_module(step))
            except ContentError as error:
                reason = clip(str(error), REASON_LIMIT_BYTES)
                self._control.send(LoadFailed(position=step.index, code=error.code, reason=reason))
                return False
        # Frozen objects are not touched by a collection in a child, so their pages stay shared.
        gc.collect()
        gc.freeze()
        missing = merge(missing, try_ladder(order.policy, self._gear))
        self._control.send(ChainLoaded(rss_kb=_private_kb(), missing_rungs=missing))
        return True

    def _enclose(self, order: LoadChain) -> tuple[str, ...]:
        """Restrict this process before it loads anything; prepare what its children put on."""
        policy, paths = order.policy, paths_of(order.chain.steps)
        user = find_user(policy.user)
        outer = enclose_host(self._scratch_root, paths, policy=policy, cgroup=self._cgroup)
        missing = outer if self._is_separate else (NO_NAMESPACES, *outer)
        is_filtered = not any(text.startswith("seccomp:") for text in missing)
        self._gear = make_gear(
            policy, self._scratch_root, paths, user=user, is_host_filtered=is_filtered
        )
        self._counted = time.monotonic()
        return missing

    def _run(self, pipeline_id: int, order: RunBatch, input_fd: int) -> None:
        try:
            is_hurried = not self._pool.is_full
            result = self._runner.run(order, pipeline_id, input_fd, is_hurried=is_hurried)
        finally:
            close_fds([input_fd])
            move_to(self._cpus.all)
        state = result.state
        if state is None:
            self._report_failure(order, result)
            return
        arenas = state.segments[1:]
        self._arenas.lend(arenas, order.batch_id)
        done = BatchDone(
            batch_id=order.batch_id,
            images=state.images,
            arenas=len(arenas),
            stages=result.stages,
            rss_kb=_private_kb(),
            latency_s=result.latency_s,
        )
        self._control.send(done, self._arenas.readable(arenas))
        self._runner.dismiss()
        # What came between input and result is of no use to anybody any more.
        self._arenas.trim()

    def _report_failure(self, order: RunBatch, result: ChainResult) -> None:
        report = BatchFailed(
            batch_id=order.batch_id,
            crash=result.crash.encode() if result.crash else b"",
            log=result.log[-LOG_LIMIT_CHARS:],
            stages=result.stages,
        )
        self._control.send(report)


def _private_kb() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared, *_ = (int(word) for word in file.read().split())
    return (resident - shared) * resource.getpagesize() // 1024
