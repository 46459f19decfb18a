"""The forge: a small single-threaded process that forks pipeline hosts on request.

Driver; a program of its own (`python -m dipp.runner.forge`), started by `start_forge`. It imports
the heavy libraries once, freezes the heap and then only forks, waits and buries. It ends when the
node's socket closes, and takes every host and every orphan with it.
Source: design.md 2, performance.md 2 and 4.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import importlib
import os
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from dipp.runner.channel import Channel, close_fds, expect_fds
from dipp.runner.frames import (
    ForgeReady,
    HostExited,
    HostRefused,
    HostSpawned,
    SpawnHost,
)
from dipp.runner.host import host_main
from dipp.runner.hugefiles import device_of, mount_huge
from dipp.runner.wait import (
    Burial,
    become_subreaper,
    bury,
    kill_group,
    sweep_orphans,
    sweep_sysv_segments,
)
from dipp.runner.warm import own_parts
from dipp.runner.wire import FrameError
from dipp.sandbox import faultaddress
from dipp.sandbox.cgroups import Cgroup, Cgroups
from dipp.sandbox.limits import close_all_but
from dipp.sandbox.namespaces import PidNamespaces
from dipp.sandbox.scratchspace import bound_scratch, release_scratch
from dipp.sandbox.trial import try_everything

# Everything modules commonly need. Absent ones are simply not there for the modules either.
PRELOADED = (
    "numpy",
    "cv2",
    "google.protobuf",
    "imagecodecs",
    "tflite_runtime.interpreter",
    "ai_edge_litert.interpreter",
    "dipp.pb.metadata_pb2",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostProcess:
    number: int
    pid: int
    pidfd: int
    scratch: str
    cgroup: Cgroup | None


def preload() -> None:
    """Import the common libraries and fix what must not differ between children."""
    for name in PRELOADED:
        # A wheel for another processor or a numpy it was not built for raises any of these.
        with contextlib.suppress(ImportError, OSError, AttributeError, SystemError):
            importlib.import_module(name)
    cv2 = sys.modules.get("cv2")
    if cv2 is not None:
        # Before its first use: a child of a process with a thread pool would hang in it.
        cv2.setNumThreads(1)


class Forge:
    """Serves one node over one socket."""

    def __init__(self, node: Channel, scratch_root: str, namespaces: PidNamespaces) -> None:
        self._node = node
        self._huge_fd = mount_huge()
        self._namespaces = namespaces
        self._scratch_root = scratch_root
        self._cgroups = Cgroups()
        self._hosts: dict[int, _HostProcess] = {}

    def serve(self) -> None:
        """Fork and bury until the node hangs up."""
        wake_fd = _wake_on_sigterm()
        missing = try_everything(self._scratch_root, self._namespaces)
        device = device_of(self._huge_fd)
        self._tell(ForgeReady(pid=os.getpid(), missing_rungs=missing, device=device))
        while True:
            poller = select.poll()
            for fd in (self._node.fileno(), wake_fd, *(h.pidfd for h in self._hosts.values())):
                poller.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poller.poll()}
            for host in [host for host in self._hosts.values() if host.pidfd in ready]:
                self._bury(host)
            if wake_fd in ready or (self._node.fileno() in ready and not self._obey()):
                return

    def close(self) -> None:
        """Kill everything below."""
        for host in self._hosts.values():
            kill_group(host.pid, host.pidfd)
        for host in list(self._hosts.values()):
            bury(host.pid, host.pidfd)
        sweep_orphans()
        for host in self._hosts.values():
            if host.cgroup is not None:
                host.cgroup.remove()

    def _obey(self) -> bool:
        """Take one order. Return False if the node is gone."""
        try:
            message = self._node.receive((SpawnHost,))
        except FrameError:
            # The node is trusted; a broken frame means that it is not the node.
            return False
        if message is None:
            return False
        number = message[0].host
        control_fd = expect_fds(message[1], 1)[0]
        try:
            self._spawn(number, control_fd)
        except OSError as error:
            self._tell(HostRefused(host=number, errno=error.errno or 0))
        finally:
            close_fds([control_fd])
        return True

    def _spawn(self, number: int, control_fd: int) -> None:
        scratch = tempfile.mkdtemp(prefix=f"host{number}-", dir=self._scratch_root)
        # The module user passes through here to its own directory.
        os.chmod(scratch, 0o711)
        cgroup = self._cgroups.create()
        parent = os.getpid()
        pid, is_separate = self._namespaces.fork()
        if pid == 0:
            # The parent of process 1 has no number it could see.
            parent = 0 if is_separate else parent
            _become_host(control_fd, self._huge_fd, scratch, parent, cgroup, number)
        pidfd = os.pidfd_open(pid)
        self._hosts[number] = _HostProcess(
            number=number, pid=pid, pidfd=pidfd, scratch=scratch, cgroup=cgroup
        )
        self._tell(HostSpawned(host=number, pid=pid), [pidfd])

    def _bury(self, host: _HostProcess) -> None:
        del self._hosts[host.number]
        kill_group(host.pid, host.pidfd)
        burial = bury(host.pid, host.pidfd) or Burial(signal=signal.SIGKILL)
        os.close(host.pidfd)
        orphans = sweep_orphans({other.pid for other in self._hosts.values()})
        sweep_sysv_segments({host.pid, *orphans})
        if host.cgroup is not None:
            host.cgroup.remove()
        with contextlib.suppress(RecursionError):
            shutil.rmtree(host.scratch, ignore_errors=True)
        report = HostExited(
            host=host.number,
            signal=burial.signal,
            status=burial.status,
            orphans=len(orphans),
        )
        self._tell(report)

    def _tell(
        self,
        frame: ForgeReady | HostSpawned | HostRefused | HostExited,
        fds: Sequence[int] = (),
    ) -> None:
        # If the node is gone, the next poll says so.
        with contextlib.suppress(ConnectionError):
            self._node.send(frame, fds)


def _become_host(
    control_fd: int,
    huge_fd: int,
    scratch: str,
    parent_pid: int,
    cgroup: Cgroup | None,
    number: int,
) -> None:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Everything of the forge, above all its line to the node, must be out of a host's reach.
        if huge_fd >= 0:
            huge_fd = fcntl.fcntl(huge_fd, fcntl.F_DUPFD_CLOEXEC, 4)
        os.dup2(control_fd, 3)
        close_all_but((3, huge_fd) if huge_fd >= 0 else (3,))
        # What is printed while modules are loaded must not reach the node's terminal.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
        host_main(Channel.from_fd(3), huge_fd, scratch, parent_pid, cgroup, number)
    finally:
        os._exit(1)


def _wake_on_sigterm() -> int:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return read_fd


def main(argv: list[str]) -> int:
    """Run as `python -m dipp.runner.forge FD SCRATCH NAMESPACES` (0 or 1)."""
    node = Channel.from_fd(int(argv[0]))
    node.sock.set_inheritable(False)
    become_subreaper()
    preload()
    own_parts()
    # Text dumps of fatal signals go to the log of the module child.
    faulthandler.enable(all_threads=False)
    faultaddress.install()
    gc.collect()
    gc.freeze()
    gc.disable()
    if argv[2] == "1":
        bound_scratch(argv[1])
    forge = Forge(node, argv[1], PidNamespaces(argv[2] == "1"))
    try:
        forge.serve()
    finally:
        forge.close()
        release_scratch(argv[1])
        shutil.rmtree(argv[1], ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
