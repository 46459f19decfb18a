"""The pipeline host: one loaded configuration of one pipeline, and the chains it runs.

Driver; a process forked by the forge. Module code is loaded here, so a module that crashes while
it is loaded takes this process with it and nothing else. The host is told what to do by the node
over its control socket and dies when that closes. Source: design.md 2, performance.md 2.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import time
import traceback
from typing import NoReturn

from dipp.errors import ContentError
from dipp.runner.channel import Channel, close_fds, expect_fds
from dipp.runner.loader import LoadedModule, load_module
from dipp.runner.protocol import (
    REASON_LIMIT_BYTES,
    BatchDone,
    BatchFailed,
    ChainLoaded,
    HostFault,
    LoadChain,
    LoadFailed,
    LoadingModule,
    Quit,
    RunBatch,
    StageStarted,
)
from dipp.runner.stage import BatchState, StageRunner
from dipp.runner.values import CrashRecord, Policy, StageStats, clip
from dipp.runner.wait import become_subreaper
from dipp.sandbox.cgroups import Cgroup
from dipp.sandbox.enclosure import enclose_host
from dipp.sandbox.gear import Gear, find_user, make_gear, paths_of, recount
from dipp.sandbox.limits import die_with
from dipp.sandbox.namespaces import separate_ipc
from dipp.sandbox.rungs import merge
from dipp.sandbox.trial import NO_NAMESPACES, try_ladder

_ORDERS: tuple[type[RunBatch | Quit], ...] = (RunBatch, Quit)
# Escaped text of one byte per character; fits the field of the frame.
LOG_LIMIT_CHARS = 2000
# Counting the threads of a user reads all of /proc: milliseconds, which not every batch shall pay.
_RECOUNT_S = 5.0


def host_main(
    control: Channel, scratch_root: str, parent_pid: int, cgroup: Cgroup | None
) -> NoReturn:
    """Load the chain and run batches until told to quit. Never returns."""
    status = 1
    try:
        os.setsid()
        die_with(parent_pid)
        become_subreaper()
        # Both or none: the forge decided for the process numbers.
        is_separate = parent_pid == 0 and separate_ipc()
        _Host(control, scratch_root, cgroup, is_separate).serve()
        status = 0
    except BaseException:  # boundary: a fault of the runner itself becomes a report
        with contextlib.suppress(OSError):
            control.send(HostFault(text=traceback.format_exc()[-8000:]))
    finally:
        os._exit(status)


class _Host:
    def __init__(
        self, control: Channel, scratch_root: str, cgroup: Cgroup | None, is_separate: bool
    ) -> None:
        self._is_separate = is_separate
        self._cgroup = cgroup
        self._gear = Gear()
        self._counted = 0.0
        self._control = control
        self._scratch_root = scratch_root
        self._modules: list[LoadedModule] = []

    def serve(self) -> None:
        message = self._control.receive((LoadChain,))
        if message is None:
            return
        order, _ = message
        if not self._load(order):
            return
        while True:
            request = self._control.receive(_ORDERS)
            if request is None or isinstance(request[0], Quit):
                return
            frame, fds = request
            if isinstance(frame, RunBatch):
                runner = self._make_runner(order.policy)
                self._run(runner, order.chain.pipeline_id, frame, expect_fds(fds, 1)[0])

    def _make_runner(self, policy: Policy) -> StageRunner:
        if time.monotonic() - self._counted > _RECOUNT_S:
            self._gear = recount(self._gear, policy)
            self._counted = time.monotonic()
        return StageRunner(
            policy=policy,
            gear=self._gear,
            scratch_root=self._scratch_root,
            control_fd=self._control.fileno(),
        )

    def _load(self, order: LoadChain) -> bool:
        missing = self._enclose(order)
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

    def _run(self, runner: StageRunner, pipeline_id: int, order: RunBatch, input_fd: int) -> None:
        state = BatchState(
            batch_id=order.batch_id,
            pipeline_id=pipeline_id,
            images=order.images,
            segments=(input_fd,),
        )
        stages: list[StageStats] = []
        try:
            for module in self._modules:
                # An empty batch is legal and ends the chain early. Source: aurora.md 3.
                if not state.images:
                    break
                self._control.send(StageStarted(position=module.step.index))
                result = runner.run(module, state)
                stages.append(result.stats)
                if result.state is None:
                    self._report_failure(order, result.crash, result.log, stages)
                    return
                state = result.state
            done = BatchDone(
                batch_id=order.batch_id,
                images=state.images,
                arenas=len(state.segments) - 1,
                stages=tuple(stages),
                rss_kb=_private_kb(),
            )
            self._control.send(done, state.segments[1:])
            state.close()
        finally:
            close_fds([input_fd])

    def _report_failure(
        self, order: RunBatch, crash: CrashRecord | None, log: str, stages: list[StageStats]
    ) -> None:
        encoded = crash.encode() if crash else b""
        report = BatchFailed(
            batch_id=order.batch_id, crash=encoded, log=log[-LOG_LIMIT_CHARS:], stages=tuple(stages)
        )
        self._control.send(report)


def _private_kb() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared, *_ = (int(word) for word in file.read().split())
    return (resident - shared) * resource.getpagesize() // 1024
