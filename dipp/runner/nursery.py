"""The nursery: a process that only forks, so that nobody else has to.

Driver. Whoever forks shares all its memory with its child; afterwards both copy every page that
they touch, and a Python program touches a page by looking at an object. A host that forked would
pay for hundreds of pages after each child, in the way of a batch. The nursery touches next to
nothing, and it does beforehand, once, what all children of the host have in common: memory mapped,
privileges given up, files out of reach.

Theory of operation: the host asks with a `Birth` and the descriptors of the new child; the nursery
forks it as a child of the host, by CLONE_PARENT, and answers with its number or with an errno. So
the host watches, kills and reaps its children as if it had forked them itself. A nursery that is
gone is replaced. Source: performance.md 2; measured in docs/performance.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from dipp.runner.arena import ArenaPool, ChildMemory
from dipp.runner.birth import Birth
from dipp.runner.channel import close_fds, receive_fds
from dipp.runner.child import Cradle, open_streams, rehearse_ahead, run_child
from dipp.runner.forking import OwnNumber, fork_beside, fork_single
from dipp.runner.loader import LoadedModule
from dipp.runner.placement import Cpus
from dipp.runner.values import Policy
from dipp.runner.wait import ForkWatch, kill_group
from dipp.sandbox.gear import Gear
from dipp.sandbox.ladder import NURSERY_LADDER, climb
from dipp.sandbox.limits import Confinement, die_with

_ANSWER = struct.Struct("<i")
_LIMIT_BYTES = 8192
# A fork takes a millisecond; on a machine that is short of memory it takes longer.
_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Household:
    """What a host has, and its children are made of."""

    modules: Sequence[LoadedModule]
    arenas: ArenaPool
    policy: Policy
    gear: Gear
    cpus: Cpus


class Nursery:
    """The host's side. The process is forked when it is first needed."""

    def __init__(self, household: Household, forks: ForkWatch) -> None:
        self._household = household
        self._forks = forks
        self._pid = 0
        self._pidfd = -1
        self._line: socket.socket | None = None

    @property
    def pids(self) -> Collection[int]:
        """The number of the process, if there is one."""
        return (self._pid,) if self._pid else ()

    def request(self, birth: Birth, fds: Sequence[int]) -> None:
        """Ask for a child with these descriptors. Raises OSError."""
        message = birth.encode()
        try:
            socket.send_fds(self._line or self._start(), [message], list(fds))
        except (ConnectionError, TimeoutError):
            # Ended by whoever ends processes here. A new one is as good.
            self.close()
            socket.send_fds(self._start(), [message], list(fds))

    def answer(self) -> int:
        """Return the number of the child that was asked for.

        Raises OSError, ConnectionError if the nursery is gone; the next request starts another.
        """
        try:
            answer = self._line.recv(_ANSWER.size) if self._line is not None else b""
        except (ConnectionError, TimeoutError):
            answer = b""
        if len(answer) != _ANSWER.size:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, "the nursery is gone")
        (pid,) = _ANSWER.unpack(answer)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        self._forks.note(pid)
        return int(pid)

    def close(self) -> None:
        """End the process."""
        if self._line is not None:
            self._line.close()
            kill_group(self._pid, self._pidfd)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            os.close(self._pidfd)
            self._line, self._pid, self._pidfd = None, 0, -1

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = OwnNumber()
        with theirs:
            try:
                pid = fork_single()
                if pid == 0:
                    self._run(theirs.detach(), number)
                self._forks.note(pid)
                self._pidfd = os.pidfd_open(pid)
            except OSError:
                ours.close()
                raise
        ours.settimeout(_ANSWER_S)
        self._pid, self._line = pid, ours
        return ours

    def _run(self, line_fd: int, number: OwnNumber) -> NoReturn:
        try:
            host_pid = os.getppid()
            number.find_again()
            house = self._household
            memory = ChildMemory.map(house.arenas)
            confinement = Confinement(
                policy=house.policy,
                timeout_s=0.0,
                parent_pid=host_pid,
                keep_fds=(line_fd, memory.stand_in_fd),
                gear=house.gear,
                arenas_later=2,
            )
            climb(
                confinement,
                (*house.policy.skipped_rungs, *house.gear.absent),
                NURSERY_LADDER,
            )
            sys.stdout, sys.stderr = open_streams()
            # The interpreter ignores this signal; a module shall die of it like any program.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            die_with(host_pid)
            cradle = Cradle(
                modules=house.modules,
                policy=house.policy,
                gear=replace(house.gear, ruleset_fd=-1),
                memory=memory,
                host_pid=host_pid,
                cpus=house.cpus,
                line_fd=line_fd,
            )
            rehearse_ahead(cradle)
            _serve(cradle, number.address)
        finally:
            os._exit(1)


def _serve(cradle: Cradle, number_address: int) -> None:
    """Fork until the host hangs up."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, cradle.line_fd)
    while True:
        data, fds = receive_fds(line, _LIMIT_BYTES)
        if not data:
            return
        pid = fork_beside(number_address)
        if pid == 0:
            run_child(cradle, data, fds)
        close_fds(fds)
        line.send(_ANSWER.pack(pid))
