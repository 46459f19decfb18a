"""Start the forge and keep hold of it from the node's side.

Driver; runs in the node. The forge is started with exec, not fork, so it can be started again at
any time, whatever threads the node has by then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dipp.runner.channel import Channel, close_fds
from dipp.runner.frames import (
    ForgeReady,
    HostExited,
    HostRefused,
    HostSpawned,
    SpawnHost,
)
from dipp.runner.wait import (
    REAP_DEADLINE_S,
    all_pids,
    become_subreaper,
    child_pids,
    sweep_orphans,
)

Report = ForgeReady | HostSpawned | HostRefused | HostExited
_ANSWERS: tuple[type[Report], ...] = (ForgeReady, HostSpawned, HostRefused, HostExited)
_SCRATCH_PREFIX = "dipp-forge-"
_END_DEADLINE_S = 5.0
# Each time somebody else has to start a node in the same microseconds.
_SCRATCH_ATTEMPTS = 100
_MARK = "DIPP_FORGE"


class ForgeHandle:
    """A running forge. `close` ends it and everything below it."""

    def __init__(
        self, scratch_dir: str | None = None, namespaces: bool = True, is_alone: bool = False
    ) -> None:
        """`is_alone`: every child of this process but the forge is what a forge left."""
        self._namespaces = namespaces
        self._is_alone = is_alone
        self._parent_dir = scratch_dir or tempfile.gettempdir()
        remove_stale_scratch(self._parent_dir)
        self.scratch_root, self._lock_fd = self._make_scratch()
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self.scratch_root, ignore_errors=True)
            undo.callback(os.close, self._lock_fd)
            self.channel, theirs = Channel.pair()
            undo.callback(self.channel.close)
            with contextlib.closing(theirs):
                self._process = self._start(theirs.fileno())
            undo.pop_all()
        self.channel.set_blocking(False)
        self.is_ready = False

    def _start(self, channel_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                # The directory the node happens to be in is no place for libraries.
                "-P",
                "-m",
                "dipp.runner.forge",
                str(channel_fd),
                self.scratch_root,
                str(int(self._namespaces)),
            ],
            pass_fds=[channel_fd, self._lock_fd],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(self.scratch_root),
        )

    def _make_scratch(self) -> tuple[str, int]:
        """Return a directory and the descriptor that locks it. Node and forge hold the lock."""
        for _ in range(_SCRATCH_ATTEMPTS):
            path = tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=self._parent_dir)
            try:
                lock_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                # Taken for stale before it could even be opened.
                continue
            except OSError:
                with contextlib.suppress(OSError):
                    os.rmdir(path)
                raise
            fcntl.flock(lock_fd, fcntl.LOCK_SH)
            # Somebody who cleans up may have taken it for stale before it was locked.
            if os.path.exists(path):
                # A module user passes through here to its own directory.
                os.chmod(path, 0o711)
                return path, lock_fd
            os.close(lock_fd)
        raise OSError(errno.EBUSY, "others keep removing new directories", self._parent_dir)

    @property
    def pid(self) -> int:
        """Process number of the forge."""
        return self._process.pid

    def send(self, order: SpawnHost, fds: Sequence[int]) -> None:
        """Send an order. Raises OSError if the forge is gone or does not listen."""
        self.channel.send(order, fds)

    def receive(self) -> tuple[Report, list[int]] | None:
        """Return the next report; None if the forge is gone.

        Raises BlockingIOError if there is none now, FrameError.
        """
        try:
            message = self.channel.receive(_ANSWERS)
        except ConnectionError:
            return None
        if message is not None and isinstance(message[0], ForgeReady):
            self.is_ready = True
        return message

    def close(self) -> None:
        """Hang up, wait for the end, kill if it does not come. Also after the forge has died."""
        self.channel.close()
        try:
            self._process.wait(_END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode != 0:
            # It could not bury its dead: hosts die with it, but what they left is nobody's now.
            # Without a free descriptor they cannot be told; the next start looks again.
            with contextlib.suppress(OSError):
                kill_strays(self.scratch_root)
            if self._is_alone:
                # One that has overwritten its environment too; it is our child by now.
                with contextlib.suppress(OSError):
                    sweep_orphans()
        shutil.rmtree(self.scratch_root, ignore_errors=True)
        close_fds([self._lock_fd] if self._lock_fd >= 0 else [])
        self._lock_fd = -1

    def kill(self) -> None:
        """Kill the forge at once; its hosts die with it."""
        self._process.kill()

    def restart(self) -> ForgeHandle:
        """Start another one in the place of this one, which must be closed."""
        return ForgeHandle(self._parent_dir, self._namespaces, self._is_alone)


def start_forge(
    scratch_dir: str | None = None, *, namespaces: bool = True, adopts: bool = False
) -> ForgeHandle:
    """Start a forge; it gets ready in the background. Scratch directories go below `scratch_dir`.

    `namespaces` False does without them even where they are allowed. `adopts` is for a process that
    starts nothing but forges: what a dead one leaves becomes its child, and is killed. Raises
    OSError.
    """
    return ForgeHandle(scratch_dir, namespaces, adopts and _adopt_orphans())


def _adopt_orphans() -> bool:
    """Become a sub-reaper; False if then somebody else's processes could become our children.

    Those of children that were there before, as those of a shell that became the node by exec, or,
    if this is process 1 of a container, those of everybody in it.
    """
    if os.getpid() == 1 or any(True for _ in child_pids()):
        return False
    try:
        become_subreaper()
    except OSError:
        return False
    return True


def remove_stale_scratch(parent_dir: str) -> None:
    """Remove what forges of killed nodes left behind, told by the lock that nobody holds.

    Not by process numbers: several PID namespaces may share the directory.
    """
    for path in Path(parent_dir).glob(f"{_SCRATCH_PREFIX}*"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            # Another user's, or removed meanwhile.
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kill_strays(str(path))
            with contextlib.suppress(RecursionError):
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)


def kill_strays(scratch_root: str) -> None:
    """Kill processes below a forge that is dead; they are told by the environment they inherit."""
    mark = f"{_MARK}={scratch_root}".encode()
    end = time.monotonic() + REAP_DEADLINE_S
    while time.monotonic() < end:
        found = [pid for pid in all_pids() if mark in _environment_of(pid)]
        if not found:
            return
        for pid in found:
            _kill_marked(pid, mark)


def _kill_marked(pid: int, mark: bytes) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        # Gone meanwhile, or no descriptor is left: then the next round tries again.
        return
    try:
        # Looked at again, now that the descriptor holds the process: the number may be another's.
        if mark in _environment_of(pid):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        # Another user's, or gone meanwhile.
        return []


def _environment(scratch_root: str) -> dict[str, str]:
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    # One thread per library: a forked child of a process with worker threads hangs in them.
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    extra = {"PYTHONPATH": os.pathsep.join(paths), _MARK: scratch_root}
    return {**os.environ, **single, **extra}
