"""Fork one process per running procedure from a small process that has seen nothing else. Driver.

The node starts the forge first thing, before sockets and threads. The forge is single-threaded,
holds the shared parameter memory, and knows one request: here is a socket and a request, make a
child. It hands a pidfd of the child back, so that the node can kill without any race, and reaps.
If the node goes away, the forge kills what it made and ends. It can also make a second forge, as
pristine as itself, which the node keeps for the case that the first one dies: the node itself never
forks again. Source: design.md 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from csp.param.table import ParamTable
from dish.board import Board
from dish.child import Child, Inheritance, NativeFunction
from dish.frames import (
    MAX_FRAME_BYTES,
    Clone,
    Cloned,
    Exited,
    FrameError,
    Spawn,
    Spawned,
    SpawnFailed,
    decode_frame,
    encode_frame,
)
from dish.request import decode_request

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
# Killing sixteen children takes milliseconds.
_CLOSE_LIMIT_S = 2.0
# Below everything that keeps the spacecraft in contact, above nothing.
_CHILD_NICE = 5
# A procedure needs a socket, its board and its parameters; no files and no core dumps.
_CHILD_LIMITS = ((resource.RLIMIT_NOFILE, 16), (resource.RLIMIT_CORE, 0))
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class ForgeHandle:
    """The node's end of the forge: a SOCK_SEQPACKET descriptor and the process.

    `close` ends the forge and everything it made.
    """

    link: socket.socket
    pid: int
    pidfd: int
    board: Board
    natives: frozenset[int]
    is_our_child: bool = True

    def kill(self) -> None:
        """End the forge at once; the kernel ends its children."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let the forge end, or kill it if it does not, and reap it. Harmless if done twice."""
        self.link.close()
        if self.pidfd < 0:
            return
        waiter = select.poll()
        waiter.register(self.pidfd, select.POLLIN)
        if not waiter.poll(_CLOSE_LIMIT_S * 1000):
            self.kill()
        if self.is_our_child:
            os.waitpid(self.pid, 0)
        else:
            # Somebody else reaps it; that it is dead is all that matters here.
            waiter.poll(_CLOSE_LIMIT_S * 1000)
        os.close(self.pidfd)
        self.pidfd = -1


def start_forge(
    table: ParamTable, *, rows: int = 16, natives: Mapping[int, NativeFunction] | None = None
) -> ForgeHandle:
    """Fork the forge. Call it while the process has no threads and no sockets of value.

    `rows` is how many procedures can be shown on the board at once; `natives` are the functions of
    reserved slots. The children see `table` as it is at any time.
    """
    own = Inheritance(table=table, board=Board(rows), natives=dict(natives or {}))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        _exit_with(lambda: _Forge(theirs, own).run(), "forge")
    theirs.close()
    return ForgeHandle(
        link=ours,
        pid=pid,
        pidfd=os.pidfd_open(pid),
        board=own.board,
        natives=frozenset(own.natives),
    )


class _Forge:
    def __init__(self, link: socket.socket, own: Inheritance) -> None:
        self._link = link
        self._own = own
        self._poll = select.poll()
        # By pidfd: number and pid of a run; the number is None for a second forge.
        self._runs: dict[int, tuple[int | None, int]] = {}

    def run(self) -> None:
        """Serve until the node closes its end."""
        _reset_signals()
        _close_all_but(self._link.fileno())
        gc.collect()
        gc.freeze()
        self._poll.register(self._link, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._link.fileno():
                    self._reap(fd)
                elif not self._request():
                    self._end()
                    return

    def _request(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._link, MAX_FRAME_BYTES, 2)
        except ConnectionResetError:
            return False
        if not data:
            return False
        try:
            frame = decode_frame(data)
        except FrameError:
            frame = None
        if isinstance(frame, Spawn) and len(fds) == 2:
            self._spawn(frame.run_id, fds)
        elif isinstance(frame, Clone) and len(fds) == 1:
            self._clone(fds[0])
        for fd in fds:
            os.close(fd)
        return True

    def _clone(self, fd: int) -> None:
        try:
            pid = os.fork()
        except OSError:
            # The node does without until it asks again.
            return
        if pid == 0:
            _exit_with(lambda: _Forge(socket.socket(fileno=fd), self._own).run(), "forge")
        pidfd = os.pidfd_open(pid)
        self._runs[pidfd] = (None, pid)
        self._poll.register(pidfd, select.POLLIN)
        self._tell(encode_frame(Cloned(pid=pid)), [pidfd])

    def _spawn(self, run_id: int, fds: list[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(encode_frame(SpawnFailed(run_id=run_id, error=error.errno or 0)))
            return
        if pid == 0:
            _exit_with(lambda: _become_child(parent, fds, self._own), "procedure")
        pidfd = os.pidfd_open(pid)
        self._runs[pidfd] = (run_id, pid)
        self._poll.register(pidfd, select.POLLIN)
        self._tell(encode_frame(Spawned(run_id=run_id, pid=pid)), [pidfd])

    def _reap(self, pidfd: int) -> None:
        run_id, pid = self._runs.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        if run_id is not None:
            self._tell(encode_frame(Exited(run_id=run_id, status=status)))

    def _tell(self, data: bytes, fds: list[int] | None = None) -> None:
        try:
            socket.send_fds(self._link, [data], fds or [])
        except (BrokenPipeError, ConnectionResetError):
            # The node is gone; the poll loop sees the same and ends.
            return

    def _end(self) -> None:
        for pidfd, (run_id, pid) in self._runs.items():
            if run_id is None:
                # The second forge ends by itself when the node closes its socket.
                continue
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)


def _become_child(forge_pid: int, fds: list[int], own: Inheritance) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != forge_pid:
        # The forge died before the line above.
        os._exit(1)
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    size = os.fstat(fds[1]).st_size
    request = decode_request(os.pread(fds[1], size, 0))
    os.setsid()
    os.nice(_CHILD_NICE)
    _close_all_but(fds[0])
    for limit, value in _CHILD_LIMITS:
        resource.setrlimit(limit, (value, value))
    Child(socket.socket(fileno=fds[0]), request, own).run()


def _reset_signals() -> None:
    """Undo what the parent installed: a child must die of SIGTERM like any process."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _close_all_but(keep: int) -> None:
    os.closerange(3, keep)
    os.closerange(max(keep + 1, 3), 65536)


def _exit_with(work: Callable[[], None], name: str) -> NoReturn:
    """Do the work of a fresh process and end it; nothing of the parent's stack may run here."""
    try:
        work()
    except BaseException as error:  # boundary: a forked process ends here, whatever happened
        with contextlib.suppress(OSError):
            os.write(2, f"dish {name}: {error!r}\n".encode("utf-8", "replace"))
        os._exit(1)
    os._exit(0)
