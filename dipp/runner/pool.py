"""Children that stand by: forked while the host has nothing else to do, one shot each.

Driver; runs in the host. Per stage so many as the policy says, fewer if their memory would exceed
its allowance. One that dies before its batch is replaced after a while, and not for ever: a module
whose rehearsal kills it is forked on demand. Source: performance.md 2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from dipp.runner.birth import Birth
from dipp.runner.execution import Execution
from dipp.runner.nursery import Household, Nursery
from dipp.runner.wait import ForkWatch

# After a child died while it stood by, or could not be forked.
_PAUSE_S = 1.0
_MAX_DEATHS = 3
# What a child is taken to hold where the kernel does not say.
_USUAL_BYTES = 4 << 20


class Spawner:
    """Forks children for the stages of one chain. `gear` may be exchanged."""

    def __init__(self, household: Household, *, scratch_root: str, control_fd: int) -> None:
        policy, gear = household.policy, household.gear
        self.modules = household.modules
        self.arenas = household.arenas
        self.policy = policy
        self.gear = gear
        self.forks = ForkWatch()
        # Of pixels, in the largest state of the last batch.
        self.recent_bytes = 0
        self.user = gear.user
        self.is_filtered = gear.python_filter is not None and "seccomp" not in policy.skipped_rungs
        self._scratch_root = scratch_root
        self._control_fd = control_fd
        self._nursery = Nursery(household, self.forks)
        self._directories: list[str] = []

    def spawn(self, position: int) -> Execution:
        """Fork a child for the stage at that position, counted from 0. Raises OSError."""
        try:
            return self.adopt(self.conceive(position, stands_by=False))
        except ConnectionError:
            # The nursery had ended; there is a new one by now.
            return self.adopt(self.conceive(position, stands_by=False))

    def conceive(self, position: int, *, stands_by: bool = True) -> Execution:
        """Ask for a child; nothing else may be asked for before `adopt`. Raises OSError.

        Behind the last stage the first one of the next batch follows.
        """
        directory = self._make_directory()
        birth = self._birth(position, directory)
        module = self.modules[birth.position]
        try:
            return Execution(module, birth, self._control_fd, self._nursery, stands_by=stands_by)
        except OSError:
            self.take_back(directory)
            raise

    def adopt(self, execution: Execution) -> Execution:
        """Wait until a child is there, and return it. Raises OSError; then it is given up."""
        try:
            execution.adopt()
        except OSError:
            execution.close()
            self.take_back(execution.birth.directory)
            raise
        return execution

    def _birth(self, position: int, directory: str) -> Birth:
        """Say what to be. What earlier batches touched, the next one will probably touch."""
        own, before = self.arenas.of_stage(position), self.arenas.of_stage(position - 1)
        lasting = self.arenas.lasting()
        return Birth(
            position=position % len(self.modules),
            own=own.number,
            before=before.number,
            own_bytes=lasting.get(own.fd, 0),
            before_bytes=lasting.get(before.fd, 0) if position else 0,
            scratch_bytes=lasting.get(self.arenas.scratch_fd, 0),
            recent_bytes=self.recent_bytes,
            process_limit=self.gear.process_limit,
            directory=directory,
        )

    @property
    def staff(self) -> Collection[int]:
        """Numbers of processes that help to fork."""
        return self._nursery.pids

    def take_back(self, directory: str) -> None:
        """Use a scratch directory again if nothing is in it, else remove it.

        To make and remove one waits for the disk, which takes longer than many a chain.
        """
        try:
            is_clean = not os.listdir(directory) and os.stat(directory).st_mode & 0o7777 == 0o700
        except OSError:
            is_clean = False
        if is_clean:
            self._directories.append(directory)
        else:
            _remove_directory(directory)

    def discard(self, execution: Execution) -> None:
        """End a child that has run nothing. Raises StuckChildError."""
        try:
            execution.kill()
            execution.await_death()
            execution.bury()
        finally:
            execution.close()
            self.take_back(execution.birth.directory)

    def close(self) -> None:
        """End who helps to fork."""
        self._nursery.close()

    def _make_directory(self) -> str:
        if self._directories:
            return self._directories.pop()
        path = tempfile.mkdtemp(prefix="stage-", dir=self._scratch_root)
        user = self.gear.user
        if user is not None:
            try:
                os.chown(path, user.uid, user.gid)
            except OSError:
                os.rmdir(path)
                raise
        return path


def _remove_directory(path: str) -> None:
    """Remove a scratch directory.

    A tree too deep to remove stays in the host's directory, which the forge removes.
    """
    with contextlib.suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)


@dataclass(slots=True)
class _Stage:
    waiting: deque[Execution]
    deaths: int = 0
    not_before: float = 0.0


class StandbyPool:
    """The children of a host that have no batch yet. Raises StuckChildError where one is ended."""

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner
        self._stages = [_Stage(deque()) for _ in spawner.modules]
        self._is_told = False
        # Asked for, and not adopted yet.
        self._coming: tuple[_Stage, Execution] | None = None

    def take(self, position: int) -> Execution | None:
        """Return a child that stands by for a stage, if there is one. It may have died since.

        One that is not ready yet takes its order when it is, before a new one could.
        """
        self.arrive()
        self._is_told = False
        waiting = self._stages[position].waiting
        return waiting.popleft() if waiting else None

    def prepare(self, position: int) -> None:
        """Have a child forked if none stands by for that stage, so that it is ready when needed.

        After the last stage comes the first one of the next batch.
        """
        self.arrive()
        if not self._stages[position % len(self._stages)].waiting:
            self._try_spawn(position)

    def fill_one(self) -> bool:
        """Have the child forked that is missed most; False if none is, or none may be now."""
        self.arrive()
        policy = self._spawner.policy
        missing = [
            (len(stage.waiting), position)
            for position, stage in enumerate(self._stages)
            if len(stage.waiting) < policy.standby and self._may_spawn(stage)
        ]
        if not missing or self._bytes_used() >= policy.standby_bytes:
            return False
        return self._try_spawn(min(missing)[1])

    def _may_spawn(self, stage: _Stage) -> bool:
        return stage.deaths < _MAX_DEATHS and time.monotonic() >= stage.not_before

    def _try_spawn(self, position: int) -> bool:
        stage = self._stages[position % len(self._stages)]
        try:
            self._coming = (stage, self._spawner.conceive(position))
        except OSError:
            # Short of something; when a batch needs the child, it is tried again and reported.
            stage.not_before = time.monotonic() + _PAUSE_S
            return False
        self._is_told = False
        return True

    def arrive(self) -> None:
        """Wait for the child that has been asked for, if there is one: until it is forked."""
        if self._coming is None:
            return
        (stage, execution), self._coming = self._coming, None
        try:
            stage.waiting.append(self._spawner.adopt(execution))
        except OSError:
            stage.not_before = time.monotonic() + _PAUSE_S

    def pids(self) -> set[int]:
        """Return the numbers of those that stand by."""
        return {execution.pid for execution in self._everybody()}

    def fds(self) -> list[int]:
        """Return what to watch: children that get ready, and all whose end would be news."""
        everybody = self._everybody()
        listening = [e.fileno() for e in everybody if not e.is_rehearsed]
        return listening + [e.pidfd for e in everybody]

    def notice(self, ready: Collection[int]) -> None:
        """Take note of children that got ready or died, and end those that take too long."""
        self.arrive()
        for position, stage in enumerate(self._stages):
            for execution in list(stage.waiting):
                if execution.fileno() in ready and not execution.is_rehearsed:
                    execution.listen()
                late = not execution.is_rehearsed and execution.age_s > _timeout_s(execution)
                if execution.pidfd in ready or late:
                    stage.waiting.remove(execution)
                    self.mourn(position, execution)

    def wait_s(self) -> float | None:
        """Return after how many seconds there is something to do without any news."""
        now = time.monotonic()
        late = [_timeout_s(e) - e.age_s for e in self._everybody() if not e.is_rehearsed]
        standby = self._spawner.policy.standby
        paused = [
            stage.not_before - now
            for stage in self._stages
            if len(stage.waiting) < standby
            and stage.deaths < _MAX_DEATHS
            and stage.not_before > now
        ]
        return max(0.0, min([*late, *paused])) if late or paused else None

    @property
    def is_full(self) -> bool:
        """Say whether nobody is missing, and nobody has been taken since that was told."""
        return self._is_told

    def newly_full(self) -> int | None:
        """Return how many stand by, once, when all of them have got ready."""
        everybody = self._everybody()
        if self._is_told or not all(execution.is_rehearsed for execution in everybody):
            return None
        self._is_told = True
        return len(everybody)

    def next_up(self, position: int) -> Execution | None:
        """Return the one that `take` would."""
        self.arrive()
        waiting = self._stages[position].waiting
        return waiting[0] if waiting else None

    def close(self) -> None:
        """End all."""
        self.arrive()
        for stage in self._stages:
            while stage.waiting:
                self._spawner.discard(stage.waiting.pop())

    def mourn(self, position: int, execution: Execution) -> None:
        """Bury a child that died while it stood by."""
        stage = self._stages[position]
        self._is_told = False
        stage.deaths += 1
        stage.not_before = time.monotonic() + _PAUSE_S
        self._spawner.discard(execution)

    def _everybody(self) -> list[Execution]:
        self.arrive()
        return [execution for stage in self._stages for execution in stage.waiting]

    def _bytes_used(self) -> int:
        return sum(_private_bytes(execution) for execution in self._everybody())


def _timeout_s(execution: Execution) -> float:
    return execution.module.step.timeout_s


def _private_bytes(execution: Execution) -> int:
    """Return what a child holds for itself; what it says must not matter, so the kernel is asked.

    It is asked once, when the child has got ready: it changes no more until there is a batch.
    """
    if execution.private_bytes is None and execution.is_rehearsed:
        execution.private_bytes = _ask_private_bytes(execution.outer_pid)
    return _USUAL_BYTES if execution.private_bytes is None else execution.private_bytes


def _ask_private_bytes(pid: int) -> int | None:
    """Return its part of what is nobody's file: arenas have an allowance of their own."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            rows = [line.split() for line in file]
    except OSError:
        return None
    return next((int(row[1]) << 10 for row in rows if row[0] == b"Pss_Anon:"), None)
