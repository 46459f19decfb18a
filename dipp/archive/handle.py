"""Start a runner process, give it orders and hear of its end.

Driver; used by both engines. A runner is started with exec, never with a bare fork, so an engine
may have threads. It ends when its line is hung up; whoever asked is told of a death by the end of
the line. Messages are JSON, one packet each.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from dipp.archive.chains import Context
from dipp.archive.records import Order, Report
from dipp.errors import ContentError, DippError

# A packet must fit the buffer of a local socket, which is 208 KiB where nobody changed it.
MESSAGE_LIMIT_BYTES = 160 << 10
READY = b"ready"
# A runner imports numpy, OpenCV and perhaps boto3 on a machine that does so many times at once.
START_DEADLINE_S = 120.0
# Beyond what the modules may take: reading, hosts that start and load, writing to a slow store.
_SLACK_S = 120.0
_END_DEADLINE_S = 25.0


class RunnerDied(DippError):
    """The runner process is gone or does not answer."""


class Line:
    """One end of the line between engine and runner. Closing it is the owner's duty."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def pair(cls) -> tuple[Line, Line]:
        """Return two connected ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.sock.fileno()

    def send(self, message: bytes) -> None:
        """Send a message. Raises ContentError if it is too long, OSError."""
        if len(message) > MESSAGE_LIMIT_BYTES:
            raise ContentError(f"{len(message)} bytes, at most {MESSAGE_LIMIT_BYTES} in a message")
        self.sock.send(message)

    def receive(self) -> bytes:
        """Return a message, empty at the end of the line. Raises ContentError, OSError."""
        data, _, flags, _ = self.sock.recvmsg(MESSAGE_LIMIT_BYTES + 1)
        if flags & socket.MSG_TRUNC:
            raise ContentError("message too long")
        return data

    def close(self) -> None:
        """Close this end."""
        self.sock.close()


class Runner:
    """A runner process. `order` is what it works on, `deadline` when it must have answered."""

    def __init__(self, context: Context) -> None:
        """Start it; it says when it is ready. Raises OSError."""
        self.order: Order | None = None
        self.is_ready = False
        self._line, theirs = Line.pair()
        chain = context.chain
        # Two tries of a batch, and what goes on around them.
        self._answer_s = 2 * sum(step.timeout_s + 1.0 for step in chain.steps) + _SLACK_S
        self.deadline = time.monotonic() + START_DEADLINE_S
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dipp.archive.runner", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Not reached by what a terminal sends: the engine ends it in order.
                start_new_session=True,
                env=_environment(),
            )
            self._line.send(context.encode())
        except BaseException:
            self._line.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is news."""
        return self._line.fileno()

    def give(self, order: Order) -> None:
        """Let it work. Raises RunnerDied."""
        self.order = order
        self.deadline = time.monotonic() + self._answer_s
        try:
            self._line.send(order.encode())
        except OSError as error:
            raise RunnerDied(self._describe_end()) from error

    def take(self) -> Report | None:
        """Return its report, or None for the news that it is ready; blocks until there is one.

        Raises RunnerDied, and ContentError if it cannot do what it is for.
        """
        try:
            message = self._line.receive()
        except OSError as error:
            raise RunnerDied(self._describe_end()) from error
        if not message:
            raise RunnerDied(self._describe_end())
        if self.is_ready:
            self.order = None
            return Report.decode(message)
        if message != READY:
            raise ContentError(message.decode("utf-8", "replace"))
        self.is_ready = True
        self.deadline = float("inf")
        return None

    def ask(self, order: Order) -> Report:
        """Give an order and wait for its report. Raises RunnerDied, ContentError."""
        self._wait_ready()
        self.give(order)
        self._wait_readable()
        report = self.take()
        if report is None:
            raise RunnerDied("the runner answered nothing")
        return report

    def _wait_ready(self) -> None:
        if not self.is_ready:
            self._wait_readable()
            self.take()

    def _wait_readable(self) -> None:
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        left_s = self.deadline - time.monotonic()
        if not poller.poll(max(0.0, left_s) * 1000):
            raise RunnerDied("the runner did not answer in time")

    def _describe_end(self) -> str:
        self._line.close()
        try:
            status = self._process.wait(_END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return f"the runner process ended {how}"

    def hang_up(self) -> None:
        """Let it end by itself; `close` waits for that."""
        self._line.close()

    def close(self) -> None:
        """Hang up, wait for its end, kill it if that does not come."""
        self._line.close()
        try:
            self._process.wait(_END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it; its forge notices and takes the hosts along."""
        self._line.close()
        self._process.kill()
        self._process.wait()


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    # One thread per library: there are as many runners as cores.
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **single, "PYTHONPATH": os.pathsep.join(paths)}
