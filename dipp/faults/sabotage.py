"""Decide about every single system call of a process and its descendants: let it, fail it, kill.

Driver; part of the test kit, for anybody who has a store to prove. Theory of operation: a forked
child puts a seccomp filter on itself that stops at the watched calls and hands the filter's
descriptor to its parent, which is asked before each of them. No cooperation of the code under test
is needed, C libraries and started programs included, and nothing is patched. `every_call` repeats
an operation with the first call failing, then the second, until it ends without being touched.
Needs Linux 5.5, no rights. Source: seccomp_unotify(2); style-anchors.md 3, faults 64 and 67.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import platform
import select
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from csp.errors import CspError
from csp.faultrow import NotInjected
from dipp.errors import DippError
from dipp.sandbox import bpf
from dipp.sandbox.seccomp import native_architecture

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_SECCOMP_NUMBERS = {"x86_64": 317, "aarch64": 277}
# struct seccomp_notif and seccomp_notif_resp, and their ioctls.
_NOTIF = struct.Struct("<QIIiIQ6Q")
_RESPONSE = struct.Struct("<QqiI")
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_OWNER = struct.Struct("<q")
_DEADLINE_S = 60.0

KILL = -1
"""A decision: SIGKILL to the process, before the call happens."""

REFUSED, BROKEN = 1, 9
"""Exit status of a child whose function raised an error with a name, or anything else."""

# Name: number on x86-64 and on AArch64, None where there is no such call.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "read": (0, 63), "pread64": (17, 67),
    "write": (1, 64), "pwrite64": (18, 68), "writev": (20, 66), "close": (3, 57),
    "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46), "fallocate": (285, 47),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "unlink": (87, None), "unlinkat": (263, 35),
    "mkdir": (83, None), "mkdirat": (258, 34), "mmap": (9, 222), "fork": (57, None),
    "vfork": (58, None), "clone": (56, 220), "clone3": (435, 435), "memfd_create": (319, 279),
    "mq_open": (240, 180), "mq_timedreceive": (243, 183), "mq_unlink": (241, 181),
    "pipe2": (293, 59), "socketpair": (53, 199), "flock": (73, 32),
    "shmget": (29, 194), "pidfd_open": (434, 434), "dup": (32, 23), "fcntl": (72, 25),
    "recvmsg": (47, 212),
}  # fmt: skip
CHANGES = (
    "openat", "open", "write", "pwrite64", "writev", "fsync", "fdatasync", "ftruncate",
    "fallocate", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat",
    "mkdir", "mkdirat", "mq_timedreceive",
)  # fmt: skip
"""The calls that change or sync what is stored."""
RESOURCES = (
    "openat", "open", "mmap", "fork", "vfork", "clone", "clone3", "memfd_create", "ftruncate",
    "pipe2", "socketpair", "mq_open", "shmget", "pidfd_open", "dup",
)  # fmt: skip
"""The calls that a shortage of memory, descriptors or processes lets fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A watched call that is about to happen. `number` counts from 1 over all processes."""

    number: int
    name: str
    pid: int
    args: tuple[int, ...]


Decide = Callable[[Call], int]
"""Returns 0 to let the call through, a positive errno to fail it, or KILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the child ended: exit status, negative for a signal; `calls` is what was asked."""

    status: int
    calls: int
    struck: Call | None = None
    seconds: float = 0.0

    @property
    def was_killed(self) -> bool:
        """Say whether SIGKILL ended it."""
        return self.status == -signal.SIGKILL


class Trap:
    """A child under watch. Serve `fileno()` with `step` until `ended`, then `close`.

    `function` runs in the fork, which then exits with 0, with REFUSED after an error with a name,
    with BROKEN after anything else. Raises NotInjected if the kernel has no such filter.
    """

    def __init__(
        self, function: Callable[[], object], watch: Iterable[str], decide: Decide
    ) -> None:
        self._names = {_number(name): name for name in watch if _number(name) is not None}
        self._decide = decide
        self.calls = 0
        self.struck: Call | None = None
        self._asking = True
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _be_child(function, _filter(self._names), theirs)
        theirs.close()
        self.pidfd = os.pidfd_open(self.pid)
        with ours:
            ours.settimeout(_DEADLINE_S)
            reason, fds, _, _ = socket.recv_fds(ours, 256, 1)
            if not fds:
                os.close(self.pidfd)
                os.waitpid(self.pid, 0)
                raise NotInjected(f"no seccomp listener: {reason.decode() or 'child died'}")
            self._fd = fds[0]
            ours.send(b"go")

    def fileno(self) -> int:
        """Return what becomes readable when a call waits for a decision."""
        return self._fd

    @property
    def ended(self) -> bool:
        """Say whether the child itself has ended; descendants may still run."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def step(self) -> bool:
        """Decide about one call; False if there was none."""
        buffer = bytearray(_NOTIF.size)
        try:
            fcntl.ioctl(self._fd, _RECEIVE, buffer)
        except OSError as error:
            # Killed between asking and being heard, or nobody is left.
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                return False
            raise
        ident, pid, _, number, _, _, *args = _NOTIF.unpack(buffer)
        self.calls += 1
        call = Call(number=self.calls, name=self._names[number], pid=pid, args=tuple(args))
        decision = self._decide(call)
        if decision:
            self.struck = call
        if decision == KILL:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return True
        flags = 0 if decision else _CONTINUE
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self._fd, _SEND, _RESPONSE.pack(ident, 0, -decision, flags))
        return True

    def run(self, deadline_s: float = _DEADLINE_S) -> int:
        """Serve until the child has ended; return its exit status. Raises TimeoutError."""
        deadline = time.monotonic() + deadline_s
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.register(self.pidfd, select.POLLIN)
        while not self.ended:
            for fd, event in poller.poll(1000):
                if fd == self._fd and event & select.POLLIN:
                    self.step()
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"not done within {deadline_s:g} s; last call {self.struck}")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """Stop deciding. What still runs gets ENOSYS for watched calls from now on."""
        os.close(self._fd)
        os.close(self.pidfd)


def run_sabotaged(function: Callable[[], object], watch: Iterable[str], decide: Decide) -> Ending:
    """Run a function in a watched fork to its end. Raises NotInjected, TimeoutError."""
    started = time.monotonic()
    trap = Trap(function, watch, decide)
    try:
        status = trap.run()
    finally:
        trap.close()
    return Ending(
        status=status, calls=trap.calls, struck=trap.struck, seconds=time.monotonic() - started
    )


class Switch:
    """A flag that parent and watched child share: calls count only while it is on."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def set(self, on: bool) -> None:
        """Turn it on or off, from either side."""
        self._memory[: _OWNER.size] = _OWNER.pack(os.getpid() if on else 0)

    @property
    def owner(self) -> int:
        """The process that turned it on, 0 while it is off."""
        return int(_OWNER.unpack(self._memory[: _OWNER.size])[0])


class Strike:
    """A rule that strikes the call of a number and `width - 1` after it, counted while `when`.

    `spares_owner` leaves out the process that turned the switch on: what is below it is struck.
    """

    def __init__(
        self,
        number: int,
        decision: int,
        *,
        width: int = 1,
        when: Switch | None = None,
        spares_owner: bool = False,
    ) -> None:
        self.seen = 0
        self._spares_owner = spares_owner
        self._struck = range(number, number + width)
        self._decision = decision
        self._when = when

    def __call__(self, call: Call) -> int:
        """Decide about one call."""
        owner = self._when.owner if self._when is not None else -1
        if not owner or (self._spares_owner and call.pid == owner):
            return 0
        self.seen += 1
        return self._decision if self.seen in self._struck else 0


def every_call(
    prepare: Callable[[], Callable[[], object]],
    watch: Iterable[str],
    decision: int,
    *,
    stride: int = 1,
    first: int = 1,
    width: int = 1,
) -> Iterator[Ending]:
    """Strike the first call of an operation, then the second, until one run is not struck.

    `prepare` sets up each run afresh and returns the operation; look at what is left between two
    endings. The last ending is the one of the run that was not struck.
    """
    names = tuple(watch)
    for number in itertools.count(first, stride):
        ending = run_sabotaged(prepare(), names, Strike(number, decision, width=width))
        yield ending
        if ending.struck is None:
            return


def _number(name: str) -> int | None:
    x86, arm = NUMBERS[name]
    return arm if platform.machine() == "aarch64" else x86


def _filter(names: dict[int | None, str]) -> bytes:
    architecture = native_architecture()
    if architecture is None:
        raise NotInjected(f"no table of system calls for {platform.machine()}")
    branches = sorted((number, [bpf.ask()]) for number in names if number is not None)
    code = [
        bpf.load(bpf.ARCH_OFFSET), bpf.skip_if_equal(architecture.audit, 1), bpf.allow(),
        bpf.load(bpf.NUMBER_OFFSET), *bpf.choose(branches, bpf.allow()),
    ]  # fmt: skip
    return bpf.assemble(code).finish(0)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _be_child(function: Callable[[], object], code: bytes, parent: socket.socket) -> None:
    """Install the filter, hand it over, run. Never returns."""
    try:
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        program = _Program(len(code) // bpf.INSTRUCTION.size, code)
        number = _SECCOMP_NUMBERS[platform.machine()]
        fd = _LIBC.syscall(number, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
        if fd < 0:
            parent.send(os.strerror(ctypes.get_errno()).encode())
            os._exit(1)
        # By sendmsg, which must not be watched: nobody could decide about it yet.
        socket.send_fds(parent, [b"listener"], [fd])
        parent.recv(8)
        os.close(fd)
        parent.close()
        function()
        os._exit(0)
    except (OSError, MemoryError, CspError, DippError):
        os._exit(REFUSED)
    except BaseException:  # boundary: a fork must never return into its parent's code
        traceback.print_exc()
        os._exit(BROKEN)
